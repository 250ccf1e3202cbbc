"""``zbrain worker``, and ``python -m zbrain_nb.worker``, which the host starts: runs one worker until a signal."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from zbrain_nb.client.locating import Locator, locator
from zbrain_nb.model.datadir import LEAVE_SIGNAL, DataDir
from zbrain_nb.model.errors import Unauthorized, ZBrainError
from zbrain_nb.model.logs import configure_logging
from zbrain_nb.model.settings import read_settings
from zbrain_nb.worker.agent import HOST_GONE_SECS, WorkerAgent
from zbrain_nb.worker.folder import WorkerFolder
from zbrain_nb.worker.link import HttpLink, follow, follow_hub

log = logging.getLogger(__name__)


def run_worker(
    *,
    url: str | None = None,
    token: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    concurrency: int | None = None,
    kind: str = "local",
    org_id: str | None = None,
    data: DataDir | None = None,
    fenced: bool = False,
    on_hub: bool = False,
    drains: bool = False,
    drain_secs: float | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Run a worker in this process until a signal ends it.

    `LEAVE_SIGNAL` ends it at once, and what runs goes on, for the next worker on its folder. So do SIGTERM and SIGINT
    unless it `drains`: then it takes no more jobs and ends when those that run have ended.

    Parameters
    ----------
    url, token : str, optional
        The server's root and a worker's token; without them the host of `data` is followed, wherever it moves.
    folder : path, optional
        The worker's folder; None is one in `data`, for each `url` another.
    concurrency : int, optional
        How many jobs it runs at once; None is ``ZWORKER_CONCURRENCY``.
    kind : str
        Takes jobs that are sent to this kind of worker: ``local``, or the name of a pool.
    org_id : str, optional
        Takes jobs of this org only.
    data : DataDir, optional
        The data directory; None is that of the settings.
    fenced : bool
        See `WorkerAgent`; workers on other machines always are.
    on_hub : bool
        Follow the service of JupyterHub that the user's own server last named in `folder`, instead of a host.
    drains, drain_secs : bool, float or None
        Whether SIGTERM and SIGINT let what runs end, and for how long (see `Drain`).
    say : callable, optional
        Takes sentences for the person at the terminal; without it they are logged.

    Raises
    ------
    FolderInUse
        If another worker works on the folder.
    ZBrainError
        If a setting does not hold, the folder cannot be used, or the server at `url` does not want this worker.
    """
    settings = read_settings()
    if url is not None and not token:
        raise Unauthorized(
            f"A worker needs the token of the server at {url}.",
            "Set ZBRAIN_TOKEN to it; on the server's machine it stands in the file `token` of the data directory.",
        )
    if folder is None or (url is None and not on_hub):
        data = data or DataDir(settings.data, settings.artifacts)
    if url is not None:
        locate: Locator = locator(url, token)
    elif on_hub:
        assert folder is not None
        locate = follow_hub(Path(folder))
    else:
        assert data is not None
        locate = follow(data)
    if folder is None:
        assert data is not None
        folder = data.worker if url is None else data.root / f"worker-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    try:
        place = WorkerFolder(folder)
        agent = WorkerAgent(
            HttpLink(locate),
            place,
            concurrency=concurrency or settings.worker_concurrency,
            kind=kind,
            org_id=org_id,
            runs_others=settings.worker_runs_others,
            temp_dir=settings.worker_temp_dir,
            pooled=settings.warm_pool,
            # an operator's worker of a server elsewhere waits for it for as long as it takes
            host_gone_secs=HOST_GONE_SECS if url is None else None,
            fenced=fenced,
            drain_secs=drain_secs,
            say=say,
        )
    except OSError as error:
        raise ZBrainError(
            f"The worker cannot use the folder {folder}: {error.strerror}.", "Give it another."
        ) from error
    asyncio.run(_serve(agent, drains=drains))


async def _serve(agent: WorkerAgent, *, drains: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(LEAVE_SIGNAL, agent.stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.begin_drain if drains else agent.stop)
    await agent.run()


def main(arguments: list[str] | None = None) -> int:
    """Run a worker as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m zbrain_nb.worker", description="Runs jobs of a zbrain queue.")
    parser.add_argument("--data", type=Path, help="data directory whose host is followed (default: ZDB_DATA)")
    parser.add_argument("--url", help="root of a server elsewhere; its token is taken from ZBRAIN_TOKEN")
    parser.add_argument("--folder", type=Path, help="the worker's own folder (default: worker/ in the data directory)")
    parser.add_argument("--concurrency", type=int, help="how many jobs run at once (default: ZWORKER_CONCURRENCY)")
    parser.add_argument("--org", help="take jobs of this org only")
    parser.add_argument("--hub", action="store_true", help="work for the JupyterHub service that --folder names")
    parser.add_argument(
        "--fenced", action="store_true", help="end jobs in time when the queue is out of reach, as on another machine"
    )
    options = parser.parse_args(arguments)
    if options.hub and not options.folder:
        parser.error("--hub takes a --folder")
    if options.concurrency is not None and options.concurrency < 1:
        parser.error("--concurrency takes a whole number of at least 1")
    configure_logging("worker")
    try:
        data = DataDir(options.data) if options.data else None
        token = os.environ.get("ZBRAIN_TOKEN")
        run_worker(
            url=options.url,
            token=token if options.url else None,
            folder=options.folder,
            concurrency=options.concurrency,
            org_id=options.org,
            data=data,
            fenced=options.fenced,
            on_hub=options.hub,
        )
    except ZBrainError as error:
        log.error("worker cannot run: %s", error)
        return 1
    return 0
