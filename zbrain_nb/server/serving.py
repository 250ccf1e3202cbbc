"""The host as a process: logging, signals, and when it ends."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import urllib.parse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from zbrain_nb.model.datadir import DataDir, FileLock
from zbrain_nb.model.errors import Conflict, ZBrainError
from zbrain_nb.model.logs import configure_logging, log_transitions
from zbrain_nb.model.settings import Settings, read_settings
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.server.application import Gate
from zbrain_nb.server.host import Host
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.inspection import inspect_database
from zbrain_nb.store.storage import Storage

if TYPE_CHECKING:
    from zbrain_nb.server.hub.service import HubService

log = logging.getLogger(__name__)


async def serve(
    data: DataDir,
    settings: Settings,
    *,
    bind: str,
    port: int,
    idle_secs: float | None,
    names: Collection[str] = (),
    gate: Gate | None = None,
) -> None:
    """Serve until a signal comes or, with `idle_secs`, until nobody has needed the host for so long.

    What this process writes from now on is for its account alone, whatever the directory's mode; jobs keep its umask.

    Raises
    ------
    Conflict
        If another host serves the directory.
    """
    host = Host(data, settings, bind=bind, port=port, names=names, worker_umask=os.umask(0o077), gate=gate)
    owner = await host.start()
    if host.is_open and gate is None:
        sys.stderr.write(_about_network(data, bind, owner.url))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
    if idle_secs is not None:
        waits.append(asyncio.ensure_future(host.wait_until_idle(idle_secs)))
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await wait
    await host.stop()


def _about_network(data: DataDir, bind: str, url: str) -> str:
    """Tell how others reach a host that listens beyond loopback."""
    port = urllib.parse.urlsplit(url).port
    name = socket.gethostname() if bind in ("", "0.0.0.0", "::") else f"[{bind}]" if ":" in bind else bind
    return (
        f"zbrain serve: listens on {bind}, port {port}, without encryption: only for a network that you trust, or "
        "behind a proxy that speaks TLS.\n"
        f"zbrain serve: a worker on another machine: `zbrain worker --url http://{name}:{port}/`, with ZBRAIN_TOKEN "
        f"set to what stands in {data.token_file}.\n"
    )


async def back_up(data: DataDir, settings: Settings, to: Path) -> None:
    """Back up a data directory that no host serves.

    Raises
    ------
    Conflict
        If a host serves it: that one has to be asked.
    ZBrainError
        If the backup cannot be made.
    """
    lock = FileLock(data.host_lock)
    if not lock.acquire():
        raise Conflict(f"A host serves {data.root}, but does not answer.", "`zbrain doctor` shows why.")
    try:
        storage = Storage(data.database)
        async with JobQueue(storage, ArtifactStore(data.artifacts)) as queue:
            await Maintenance.of(queue, settings.keep).back_up(to)
    finally:
        lock.release()


def _hub_service(settings: Settings) -> HubService:
    try:
        from zbrain_nb.server.hub.service import HubService
    except ModuleNotFoundError as error:
        raise ZBrainError(
            f"`zbrain serve --hub` needs the package {error.name}.", "Install zbrain_nb[hub] beside the Hub."
        ) from error
    return HubService(settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m zbrain_nb.server``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="zbrain serve", description="Serve the queue of a data directory.")
    parser.add_argument("--data", help="data directory (default: ZDB_DATA)")
    parser.add_argument("--artifacts", help="where blobs lie (default: ZBRAIN_ARTIFACTS, else in the data directory)")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--name", action="append", default=[], help="a further name of this machine; may be repeated")
    parser.add_argument("--idle-secs", type=float, help="end after so long without jobs and clients (default: never)")
    parser.add_argument("--hub", action="store_true", help="serve as a service of the JupyterHub that started this")
    parser.add_argument("--inspect", action="store_true", help="serve nothing; say in JSON whether the database opens")
    options = parser.parse_args(arguments)
    if options.inspect:
        data = DataDir(options.data or read_settings().data)
        sys.stdout.write(msgspec.json.encode(inspect_database(data.database)).decode())
        return 0
    configure_logging("host")
    try:
        settings = read_settings()
        if settings.log_transitions:
            log_transitions()
        if options.data:
            settings = msgspec.structs.replace(settings, data=options.data)
        data = DataDir(settings.data, options.artifacts or settings.artifacts)
        gate: HubService | None = None
        if options.hub:
            gate = _hub_service(settings)
            # it never executes jobs: each is run in its owner's account
            settings = msgspec.structs.replace(settings, worker_mode="none")
            options.bind, options.port = gate.bind, gate.port
        asyncio.run(
            serve(
                data,
                settings,
                bind=options.bind,
                port=options.port,
                idle_secs=options.idle_secs,
                names=options.name,
                gate=gate,
            ),
        )
    except Conflict as error:
        other = data.read_owner()
        log.info("not needed", extra={"why": error.message})
        if options.port:
            where = f" at {other.url}" if other else ""
            sys.stderr.write(f"zbrain serve: port {options.port} is not used: {data.root} is served already{where}.\n")
            return 1
    except ZBrainError as error:
        sys.stderr.write(f"zbrain serve: {error}\n")
        return 1
    return 0
