"""What the Hub says of people who do not ask themselves: asked once, in time, and believed where it may tell."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from zbrain_nb.model.errors import Unavailable
from zbrain_nb.server.hub import people
from zbrain_nb.server.hub.people import SCOPES, People

pytestmark = pytest.mark.anyio
ANN = {"kind": "user", "name": "ann", "groups": ["red"]}


class StandInHub:
    """A Hub's API: `asked` is what it was asked, `answers` what it says, by path; it waits for `open`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {"user": {"kind": "service", "scopes": list(SCOPES)}}
        self.refuses = 404
        self.open = asyncio.Event()
        self.open.set()


class _Handler(web.RequestHandler):
    async def get(self, path: str) -> None:
        hub: StandInHub = self.settings["hub"]
        hub.asked.append(path)
        await hub.open.wait()
        if path not in hub.answers:
            raise web.HTTPError(hub.refuses)
        self.write(hub.answers[path])

    def log_exception(self, *args: object) -> None:
        """Refusals are what it is for."""


@pytest.fixture
async def hub() -> AsyncIterator[StandInHub]:
    hub = StandInHub()
    socket, port = bind_unused_port()
    server = HTTPServer(web.Application([("/(.*)", _Handler)], hub=hub))
    server.add_sockets([socket])
    hub.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    yield hub
    hub.open.set()
    server.stop()
    await server.close_all_connections()


@pytest.fixture
def known(hub: StandInHub) -> People:
    auth: Any = types.SimpleNamespace(
        api_url=hub.url,  # type: ignore[attr-defined]
        api_token="t",
        keyfile="",
        certfile="",
        client_ca="",
        cache={},
    )
    return People(auth)


async def test_person_is_asked_about_once_however_many_want_to_know(hub: StandInHub, known: People) -> None:
    hub.answers["users/ann"] = ANN
    hub.open.clear()
    asking = [asyncio.ensure_future(known.find("ann")) for _ in range(9)]
    while not hub.asked:
        await asyncio.sleep(0)
    asking[0].cancel()  # who gives up leaves the others their answer
    hub.open.set()
    assert await asyncio.gather(*asking[1:]) == [ANN] * 8
    assert await known.find("ann") == ANN
    assert hub.asked == ["users/ann"]


async def test_hub_that_does_not_answer_in_time_is_let_alone_for_a_while(
    hub: StandInHub, known: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answers["users/ann"] = ANN
    hub.open.clear()
    monkeypatch.setattr(people, "ANSWER_SECS", 0.1)
    monkeypatch.setattr(people, "FAILURE_SECS", 1_000.0)
    for _ in range(3):
        with pytest.raises(Unavailable, match="does not answer"):
            await known.find("ann")
    assert hub.asked == ["users/ann"]
    hub.open.set()
    monkeypatch.setattr(people.time, "monotonic", lambda now=people.time.monotonic: now() + 1_001)
    monkeypatch.setattr(people, "ANSWER_SECS", 3.0)
    assert await known.find("ann") == ANN


@pytest.mark.parametrize("scopes", [[], ["read:users:name!user=bob", "read:users:groups!user=bob"], [SCOPES[0]]])
async def test_account_that_the_service_may_not_see_is_not_taken_for_none(
    hub: StandInHub, known: People, scopes: list[str]
) -> None:
    hub.answers["user"]["scopes"] = scopes
    with pytest.raises(Unavailable, match="who is in which group") as raised:
        await known.find("ann")
    assert "read:users:groups" in str(raised.value.hint)
    with pytest.raises(Unavailable):
        await known.check_scopes()


async def test_account_that_there_is_not_is_none(hub: StandInHub, known: People) -> None:
    await known.check_scopes()
    assert await known.find("gone") is None
    hub.refuses = 403
    with pytest.raises(Unavailable, match="who is in which group"):
        await known.find("ann")
