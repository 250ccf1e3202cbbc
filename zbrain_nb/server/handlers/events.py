"""``GET events``: the WebSocket that feeds every view."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Annotated

import msgspec
from msgspec import Meta
from tornado import websocket

from zbrain_nb.model.errors import Forbidden, Malformed, OverQuota, Unauthorized, ZBrainError
from zbrain_nb.model.events import SocketEnd
from zbrain_nb.queue.subscription import Subscription
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PEOPLE, operation
from zbrain_nb.server.identity import session_of

log = logging.getLogger(__name__)
MAX_TOPICS = 1000
#: After so long without events an empty frame is sent: pages see no pings, and shall see that the host still speaks.
QUIET_SECS = 15.0
#: What a frame that closes a socket has room for (RFC 6455, section 5.5), besides the code.
MAX_REASON_BYTES = 123
_TOPIC = re.compile(r"(jobs|states)/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|orgs/.+")


class EventsQuery(msgspec.Struct):
    """Arguments of ``GET events``."""

    topics: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"pattern": f"^({_TOPIC.pattern})$"})]],
        Meta(
            description="`jobs/ID`, `states/ID` and `orgs/ORG`; left out, all.",
            extra_json_schema={"maxItems": MAX_TOPICS},
        ),
    ] = []
    after: (
        Annotated[int, Meta(ge=0, le=2**53, description="Send what came behind this `event_seq`, then go on.")] | None
    ) = None
    waits: Annotated[int, Meta(ge=0, le=1, description="1: tell me too when I shall wait for the job no longer.")] = 0


class EventsHandler(ApiHandler, websocket.WebSocketHandler):
    """Sends JSON arrays of events; ``after=SEQ`` resumes without gap or repeat.

    ``waits=1`` says that whoever reads is held up until the job ends: it is told when somebody detaches it.
    """

    _sending: asyncio.Task[None] | None = None
    _subscription: Subscription | None = None

    def check_origin(self, origin: str) -> bool:
        """Refuse browsers without a session here: they come through Jupyter's relay, which sends no origin."""
        return self.takes_session() and self.context.sessions.find(session_of(self.request)) is not None

    @operation(admits=PEOPLE, query=EventsQuery, answers={101: None}, refuses=(OverQuota,))
    async def get(self, *args: str, **kwargs: str) -> None:
        """Follow events, by a WebSocket.

        It is closed with 1008 when the token or login is good no more, and with 4403 when who follows is no member any
        more of an org of which they follow something; the reason says so in a sentence. After 1001 and 1013 the same
        may be asked for again.
        """
        check_upgrade(self)
        query = self.query(EventsQuery)
        topics = query.topics
        if len(topics) > MAX_TOPICS or not all(map(_TOPIC.fullmatch, topics)):
            raise Malformed("topics takes up to 1,000 of jobs/ID, states/ID and orgs/ORG, separated by commas.")
        self._subscription = self.queue.subscribe(
            topics or None, query.after, scope=self.principal, renew=self.identify, waits=query.waits == 1
        )
        await super().get(*args, **kwargs)
        if self._sending is None:  # no upgrade came of it
            self._subscription.close()

    def open(self, *args: str, **kwargs: str) -> None:
        """Begin to send."""
        self.set_nodelay(True)
        self.context.followers += 1
        self._sending = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        """Send frame by frame, each when the one before it is out of the host: a slow reader holds back itself."""
        assert self._subscription is not None
        try:
            while frame := await self._subscription.next_frame(QUIET_SECS):
                await self.write_message(frame)
        except websocket.WebSocketClosedError:
            return
        except Unauthorized as error:
            self.close(SocketEnd.UNKNOWN_CALLER, _reason(error))
        except Forbidden as error:
            self.close(SocketEnd.NO_MEMBER, _reason(error))
        except ZBrainError as error:
            log.warning("Events could not be read; the follower has to come again.", extra={"why": error.message})
            self.close(SocketEnd.TRY_AGAIN_LATER, _reason(error))
        else:
            self.close(SocketEnd.GOING_AWAY, "The queue was closed.")

    def on_message(self, message: str | bytes) -> None:
        """Ignore what clients say: this socket only speaks."""

    def on_close(self) -> None:
        """End the subscription with its socket."""
        self.context.followers -= 1
        if self._sending is not None:
            self._sending.cancel()
        if self._subscription is not None:
            self._subscription.close()


def _reason(error: ZBrainError) -> str:
    """Return what a frame can say of an error."""
    text = error.message.encode()
    if len(text) <= MAX_REASON_BYTES:
        return error.message
    return text[: MAX_REASON_BYTES - len("…".encode())].decode(errors="ignore") + "…"


def check_upgrade(handler: websocket.WebSocketHandler) -> None:
    """Refuse in the one shape what tornado would refuse as plain text.

    Raises
    ------
    Malformed
        If the request asks for no WebSocket.
    Forbidden
        If the handler does not take its origin.
    """
    headers = handler.request.headers
    wanted = [word.strip().lower() for word in headers.get("Connection", "").split(",")]
    if (
        headers.get("Upgrade", "").lower() != "websocket"
        or "upgrade" not in wanted
        or headers.get("Sec-WebSocket-Version") not in ("7", "8", "13")
        or not headers.get("Sec-WebSocket-Key")
    ):
        raise Malformed("events is a WebSocket; this request does not ask for one.", "Open it as ws://.")
    origin = headers.get("Origin") or headers.get("Sec-Websocket-Origin")
    if origin is not None and not handler.check_origin(origin):
        raise Forbidden("Browsers come through Jupyter, or by `zbrain dashboard`.")
