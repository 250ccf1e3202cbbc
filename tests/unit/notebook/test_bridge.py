"""The way to the server through the kernel: what pages may ask, what they get, and that nothing piles up."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from zbrain_nb import Client, JobSpec
from zbrain_nb.client.locating import locator
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.events import Event
from zbrain_nb.model.settings import Settings
from zbrain_nb.notebook import bridge as bridge_module
from zbrain_nb.notebook.bridge import Bridge
from zbrain_nb.notebook.pacing import PART_BYTES, WAITING_LINES, WAITING_OUTPUTS, Mailbox, Pace, thinned
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
SECS = 20
UNKNOWN = "00000000-0000-7000-8000-000000000000"


class Page:
    """A page at a bridge."""

    def __init__(self, client: Client, name: str = "a page") -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.heard: asyncio.Queue[tuple[dict[str, Any], bytes]] = asyncio.Queue()
        self.bridge = Bridge(lambda: client, self._send)
        self.number = 0
        self.parts: Counter[int] = Counter()

    def _send(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        json.dumps(content)
        self.loop.call_soon_threadsafe(self.heard.put_nowait, (content, b"".join(buffers)))

    def say(self, method: str, path: str = "", **more: Any) -> int:
        self.number += 1
        self.bridge.take({"page": self.name, "id": self.number, "method": method, "path": path, **more})
        return self.number

    async def hear(self) -> tuple[dict[str, Any], bytes]:
        """Return what comes next, put together from its parts."""
        whole = b""
        async with asyncio.timeout(SECS):
            while True:
                about, part = await self.heard.get()
                if about["status"] == 200:
                    assert about["part"] == self.parts[about["id"]]
                    self.parts[about["id"]] += 1
                assert len(part) <= PART_BYTES
                whole += part
                if not about["more"]:
                    return about, whole

    async def bridge_is_idle(self) -> None:
        async with asyncio.timeout(SECS):
            while self.bridge.requests:
                await asyncio.sleep(0.001)

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        number = self.say(method, path, **more)
        about, whole = await self.hear()
        assert (about["page"], about["id"]) == (self.name, number)
        return about["status"], json.loads(whole)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Host, Client]]:
    data = DataDir(tmp_path / "data")
    host = Host(data, Settings(data=str(data.root), worker_mode="none"))
    owner = await host.start()
    client = Client(locator(owner.url, owner.token))
    yield host, client
    await asyncio.to_thread(client.close)
    await host.stop()


@pytest.fixture
def client(served: tuple[Host, Client]) -> Client:
    return served[1]


async def test_page_reads_follows_and_cancels_a_job(client: Client) -> None:
    page = Page(client)
    (handle,) = await asyncio.to_thread(client.submit_many, [JobSpec(cmd=["true"], name="ü")])
    status, job = await page.ask("GET", f"jobs/{handle.id}")
    assert (status, job["spec"]["name"]) == (200, "ü")
    follows = page.say("EVENTS", f"events?topics=jobs%2F{handle.id}&after={job['event_seq']}")
    about, whole = await page.hear()
    assert (about["id"], about["status"], whole) == (follows, 200, b"[]")
    cancels = page.say("POST", f"jobs/{handle.id}/cancel")
    heard = {about["id"]: json.loads(whole) for about, whole in [await page.hear(), await page.hear()]}
    assert heard[cancels]["result"] == "canceled"
    assert heard[follows][0]["data"]["state"] == "canceled"
    page.say("DROP", id=follows)
    await page.bridge_is_idle()
    assert (await page.ask("POST", "jobs/lookup", body={"ids": [handle.id]}))[1]["jobs"][0]["id"] == handle.id


async def test_what_changes_something_is_done_whoever_takes_it_back(client: Client) -> None:
    page = Page(client)
    (handle,) = await asyncio.to_thread(client.submit_many, [JobSpec(cmd=["true"])])
    cancels = page.say("POST", f"jobs/{handle.id}/cancel")
    page.bridge.take({"page": page.name, "id": cancels, "method": "DROP"})
    page.bridge.close()
    about, whole = await page.hear()
    assert (about["id"], json.loads(whole)["result"]) == (cancels, "canceled")
    await page.bridge_is_idle()


async def test_repeat_asked_for_again_under_its_key_is_the_same_job(client: Client) -> None:
    page = Page(client)
    (handle,) = await asyncio.to_thread(client.submit_many, [JobSpec(cmd=["true"])])
    await page.ask("POST", f"jobs/{handle.id}/cancel")
    again = [(await page.ask("POST", f"jobs/{handle.id}/retry", key=key))[1]["id"] for key in ("a", "a", "b", None)]
    assert again[0] == again[1]
    assert len(set(again)) == 3


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "jobs"),
        ("GET", f"jobs/{UNKNOWN}/result"),
        ("GET", f"jobs/{UNKNOWN}/artifacts/../result"),
        ("GET", "history?table=jobs"),
        ("GET", "../api/contents"),
        ("DELETE", "jobs"),
        ("EVENTS", "workers"),
    ],
)
async def test_what_no_view_asks_is_refused_without_asking(client: Client, method: str, path: str) -> None:
    status, body = await Page(client).ask(method, path)
    assert (status, body["error"]["code"]) == (403, "forbidden")


async def test_refusals_of_the_server_reach_the_page(client: Client) -> None:
    status, body = await Page(client).ask("GET", f"jobs/{UNKNOWN}")
    assert (status, body["error"]["code"]) == (404, "job_not_found")


async def test_lost_server_ends_what_is_followed(served: tuple[Host, Client]) -> None:
    host, client = served
    page = Page(client)
    follows = page.say("EVENTS", "events?topics=orgs/default")
    await page.hear()
    await host.stop()
    about, whole = await page.hear()
    assert (about["id"], about["status"]) == (follows, 503)
    assert "No zbrain server answers" in json.loads(whole)["error"]["message"]
    await page.bridge_is_idle()


async def test_page_that_has_gone_is_forgotten_and_one_that_speaks_is_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "TURN_SECS", 0.02)
    gone = Page(client, "gone")
    gone.say("EVENTS", "events?topics=orgs/default")
    bridge = gone.bridge
    bridge.take({"page": "here", "id": 1, "method": "EVENTS", "path": "events?topics=orgs/default"})
    async with asyncio.timeout(SECS):
        while bridge.requests == 2:
            bridge.take({"page": "here", "method": "HERE"})
            await asyncio.sleep(0.01)
    assert bridge.requests == 1
    await gone.bridge_is_idle()  # the other has fallen silent, too


async def test_page_learns_that_an_answer_was_lost_but_not_while_it_is_made(client: Client) -> None:
    page = Page(client)
    follows = page.say("EVENTS", "events?topics=orgs/default")
    await page.hear()
    page.say("HERE", id=follows)
    await page.ask("GET", "overview")
    number = page.say("GET", "workers")
    await page.hear()  # which the front end drops, say
    async with asyncio.timeout(SECS):
        while page.bridge.requests > 1:
            await asyncio.sleep(0.001)
    page.say("HERE", id=number)
    about, whole = await page.hear()
    assert (about["id"], about["status"]) == (number, 503)
    assert "lost on its way" in json.loads(whole)["error"]["message"]


async def test_closed_bridge_answers_nobody(client: Client) -> None:
    page = Page(client)
    page.say("EVENTS", "events?topics=orgs/default")
    await page.hear()
    page.bridge.close()
    assert page.bridge.requests == 0


def logged(job_id: str, first: int, count: int) -> Event:
    entries = [
        {"seq": seq, "attempt": 1, "stream": "stdout", "ts": 0.0, "line": "x"} for seq in range(first, first + count)
    ]
    return Event(first + 1, f"jobs/{job_id}", "job_logged", job_id, 1, 0.0, {"entries": entries}, "default")


def told(kind: str, seq: int = 0) -> Event:
    return Event(seq, "jobs/a", kind, "a", 1, 0.0, {}, "default")


def test_of_many_lines_the_newest_of_each_job_stay_and_all_else() -> None:
    started, failed = told("job_started", 1), told("job_failed", 9_999)
    many = [started, *(logged("a", 300 * at, 300) for at in range(20)), logged("b", 0, 5), failed]
    kept = thinned(many)
    lines = [entry["seq"] for event in kept if event.job_id == "a" for entry in event.data.get("entries", ())]
    assert lines == list(range(6_000 - WAITING_LINES, 6_000))
    assert kept[0] is started
    assert kept[-2:] == many[-2:]


async def test_million_lines_that_nobody_takes_keep_the_mailbox_small() -> None:
    mailbox = Mailbox()
    for at in range(1_000):
        await mailbox.put([logged("a", 1_000 * at, 1_000)])
    await mailbox.put([told("job_completed", 2_000_000)])
    taken = await mailbox.take() or []
    assert sum(len(event.data.get("entries", ())) for event in taken) == WAITING_LINES
    assert taken[-1].kind == "job_completed"


async def test_mailbox_full_of_outputs_holds_back_who_brings_them() -> None:
    mailbox = Mailbox()
    for at in range(WAITING_OUTPUTS):
        await mailbox.put([told("job_displayed", at)])
    waiting = asyncio.ensure_future(mailbox.put([told("job_displayed", WAITING_OUTPUTS)]))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert len(await mailbox.take() or []) == WAITING_OUTPUTS
    await waiting
    mailbox.close()
    assert [event.seq for event in await mailbox.take() or []] == [WAITING_OUTPUTS]
    assert await mailbox.take() is None


async def test_pace_stays_below_what_jupyter_lets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    slept: list[float] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

    async def sleep(secs: float) -> None:
        nonlocal now
        slept.append(secs)
        now += secs

    monkeypatch.setattr("zbrain_nb.notebook.pacing.asyncio.sleep", sleep)
    pace = Pace()
    for _ in range(20):
        await pace.wait(PART_BYTES)
    assert now - 100.0 == pytest.approx(20 * PART_BYTES / 500_000 - 1, abs=0.01)
