"""The way from a page to the server through the kernel, for pages that cannot reach the server themselves.

A page in VS Code or Colab, or one whose kernel runs elsewhere, asks over a comm what others ask over HTTP, and the
client of this kernel asks the server in its place. `view/kernel.js` is the other end; to the views above it the bridge
is a server like any other, so that they keep their state, and nothing of it is held here. Only the routes that views
use are open. It must not block where messages arrive, which is the thread that runs cells.

A message of a page has ``page`` (which one it is), ``id`` (of its request) and ``method``: ``GET`` and ``POST`` ask
(the latter with the ``key`` that goes into the header ``Idempotency-Key``, if it has one),
``EVENTS`` follows, ``DROP`` takes back what is no ``POST``, ``HERE`` says that the page is still there, and with an
``id`` that it still waits for that answer, which the front end may have dropped. What comes back has ``page``, ``id``,
``status``, the server's ``date``, ``part``, which counts what was sent for this id, and ``more``: whether the rest
follows. Its buffer is a part of the JSON, of the file, or of a list of events. A part that is missing was dropped by
the front end; the page asks again, and follows on behind what it had.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from zbrain_nb.client.client import Client
from zbrain_nb.model.errors import Forbidden, TooLarge, Unavailable, ZBrainError
from zbrain_nb.model.events import Event
from zbrain_nb.notebook.pacing import PART_BYTES, Mailbox, Pace

JOB = r"jobs/[0-9a-f-]{36}"
#: What views ask, and nothing else that the client's token would open.
ROUTES = {
    "GET": re.compile(rf"jobs|overview|whoami|workers|{JOB}(/logs|/outputs|/attempts)?|{JOB}/(artifacts|variables)/.+"),
    "POST": re.compile(rf"jobs/(lookup|cancel|retry)|{JOB}/(cancel|retry|detach)"),
    "EVENTS": re.compile(r"events"),
}
_FILE = re.compile(rf"{JOB}/(artifacts|variables)/")
#: A file of more bytes would hold back all other messages of the kernel for minutes.
MAX_FILE_BYTES = 32 * 1024 * 1024
#: A page that has said nothing for so many turns of this many seconds is gone; in the background it speaks each minute.
TURN_SECS = 15.0
TURNS = 8

log = logging.getLogger(__name__)
LOST = Unavailable("The answer of the kernel was lost on its way: the front end drops what comes too fast.")
Send = Callable[[dict[str, Any], list[bytes]], None]

#: One for all: what limits messages is the kernel's one connection to its front end.
_pace = Pace()


class _Request(NamedTuple):
    method: str
    answering: concurrent.futures.Future[None]


class Bridge:
    """Answers the pages at one comm.

    Parameters
    ----------
    client : callable
        Returns the client that asks; called at each request.
    send : callable
        Sends content and buffers to all pages at the comm; from any thread.
    """

    def __init__(self, client: Callable[[], Client], send: Send) -> None:
        self._client = client
        self._send = send
        self._silence: dict[str, int] = {}
        self._requests: dict[tuple[str, int], _Request] = {}
        self._parts: Counter[tuple[str, int]] = Counter()
        self._turn: asyncio.TimerHandle | None = None

    @property
    def requests(self) -> int:
        """How many are being answered."""
        return len(self._requests)

    def take(self, message: dict[str, Any]) -> None:
        """Take a message of a page, where the kernel handles messages: on its own event loop."""
        page, number, method = str(message.get("page")), message.get("id"), message.get("method")
        self._silence[page] = 0
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_later(TURN_SECS, self._look_round)
        if not isinstance(number, int):
            return
        key = (page, number)
        if method == "DROP":
            self._drop(key)
        elif method == "HERE":
            if key not in self._requests:
                self._send(_about(key, LOST.status), [msgspec.json.encode(LOST.as_json())])
        elif key not in self._requests:
            future = self._client().start(self._answer, key, message)
            self._requests[key] = _Request(str(method), future)
            future.add_done_callback(lambda ended: self._forget(key, ended))

    def close(self) -> None:
        """Answer nobody any more."""
        for key in list(self._requests):
            self._drop(key)
        self._silence.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _drop(self, key: tuple[str, int]) -> None:
        """Answer a request no more, unless it is to change something: it would be a race whether it still did."""
        request = self._requests.get(key)
        if request is not None and request.method != "POST":
            del self._requests[key]
            request.answering.cancel()

    def _forget(self, key: tuple[str, int], ended: concurrent.futures.Future[None]) -> None:
        self._requests.pop(key, None)
        self._parts.pop(key, None)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.error("A request of a view could not be answered.", exc_info=error)

    def _look_round(self) -> None:
        """Forget pages that have gone; a page that is closed does not say so.

        Turns are counted by the loop that handles messages, because it stands still together with them while a cell
        runs: nobody is taken for gone who only could not be heard.
        """
        self._turn = None
        for page in list(self._silence):
            self._silence[page] += 1
            if self._silence[page] < TURNS:
                continue
            del self._silence[page]
            for key in [key for key in self._requests if key[0] == page]:
                self._drop(key)
        if self._silence:
            self._turn = asyncio.get_running_loop().call_later(TURN_SECS, self._look_round)

    # ---- in the client's loop

    async def _answer(self, key: tuple[str, int], message: dict[str, Any]) -> None:
        try:
            method, path = str(message.get("method")), str(message.get("path"))
            route, _, query = path.partition("?")
            allowed = ROUTES.get(method)
            # A browser would resolve dots before it asks; here nobody does.
            if allowed is None or not allowed.fullmatch(route) or ".." in route.split("/"):
                raise Forbidden(f"Views do not ask for {method} {route[:100]}.")
            if method == "EVENTS":
                await self._follow(key, query)
            elif _FILE.match(route):
                await self._read(key, path, message.get("first"))
            else:
                await self._ask(key, method, path, message.get("body"), message.get("key"))
        except ZBrainError as error:
            await self._give(key, msgspec.json.encode(error.as_json()), status=error.status)

    async def _ask(self, key: tuple[str, int], method: str, path: str, body: Any, once: str | None) -> None:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Idempotency-Key": once} if once else {}
        answer = await self._client().asynchronous.transport.request(
            method, path, content=content, headers=headers, repeatable=method == "GET" or once is not None
        )
        await self._give(key, answer.content, date=answer.headers.get("Date"))

    async def _read(self, key: tuple[str, int], path: str, first: Any) -> None:
        """Send a file, or as many of its bytes as are wanted, part by part."""
        most = first if isinstance(first, int) else MAX_FILE_BYTES
        read = 0
        async with aclosing(self._client().asynchronous.transport.download(path)) as chunks:
            async for chunk in chunks:
                if read + len(chunk) > MAX_FILE_BYTES and most == MAX_FILE_BYTES:
                    raise TooLarge(
                        "The file is too large to come through the kernel.",
                        'In a cell, `client.job("...").artifacts["..."].download(".")` writes it to disk.',
                    )
                wanted = chunk[: most - read]
                read += len(wanted)
                await self._give(key, wanted, more=True)
                if read >= most:
                    break
        await self._give(key, b"")

    async def _follow(self, key: tuple[str, int], query: str) -> None:
        """Send events until the page wants no more; of log lines that come too fast the newest are enough."""
        given = {name: values[0] for name, values in parse_qs(query).items()}
        after = int(given["after"]) if given.get("after", "").isdecimal() else None
        events = self._client().asynchronous.transport.events(given.get("topics", "").split(","), after, beats=True)
        mailbox = Mailbox()
        filling = asyncio.ensure_future(_fill(mailbox, events))
        try:
            while (batch := await mailbox.take()) is not None:
                await self._give(key, msgspec.json.encode(batch))
        finally:
            filling.cancel()
        await filling  # it has ended, and says why

    async def _give(
        self, key: tuple[str, int], data: bytes, *, status: int = 200, date: str | None = None, more: bool = False
    ) -> None:
        starts = range(0, max(1, len(data)), PART_BYTES)
        for start in starts:
            part = data[start : start + PART_BYTES]
            await _pace.wait(len(part))
            about = _about(key, status) | {"date": date, "more": more or start != starts[-1], "part": self._parts[key]}
            self._parts[key] += 1
            self._send(about, [part])


def _about(key: tuple[str, int], status: int) -> dict[str, Any]:
    return {"page": key[0], "id": key[1], "status": status, "more": False}


async def _fill(mailbox: Mailbox, events: AsyncGenerator[list[Event], None]) -> None:
    try:
        async with aclosing(events):
            async for batch in events:
                await mailbox.put(batch)
    finally:
        mailbox.close()
