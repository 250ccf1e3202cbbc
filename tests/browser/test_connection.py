"""The connection that every feed lives by, in a real browser, against real sockets that a test cuts and silences."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.stub import StubServer

pytestmark = pytest.mark.browser

#: A feed that notes all it is asked and told; `loads` says what each load comes to, the last one for ever.
FEED = """async ([topic, loads]) => {
  const { Connection, Unknown } = await import('/view/connection.js');
  const { Refused, apiOfPage } = await import('/view/ask.js');
  const feed = { connection: 'opening', heardAt: null, nextTryAt: null, refusal: null, ended: false, tell: () => {} };
  Object.assign(window, { feed, loads, loaded: 0, forgotten: 0, taken: [] });
  window.connection = new Connection(feed, apiOfPage(), {
    topic: () => topic,
    load: async () => {
      const found = loads.length > 1 ? loads.shift() : loads[0];
      loaded += 1;
      if (found === 'unknown') throw new Unknown();
      if (found === 'refused') throw new Refused(403, { error: { message: 'Not for you.' } });
      if (found === 'ended') feed.ended = true;
      return Number(found) || 0;
    },
    take: ({ seq, data }) => {
      taken.push(seq);
      if (data.state === 'succeeded') feed.ended = true;
    },
    forget: () => (forgotten += 1),
  });
  void connection.connect();
}"""


@pytest.fixture
def job(stub: StubServer) -> str:
    """A job that no view on the page shows."""
    job_id = stub.add()
    stub.saved.clear()
    return job_id


def follow(page: Page, stub: StubServer, job: str, *loads: Any) -> None:
    """Connect to the events of the job, with what the loads shall come to."""
    page.goto(stub.url())
    page.evaluate(FEED, [f"jobs/{job}", list(loads)])


def until(page: Page, condition: str) -> None:
    page.wait_for_function(condition)


def test_what_happens_after_the_load_comes_once_and_in_order(page: Page, stub: StubServer, job: str) -> None:
    first = stub.emit("job_progressed", job, {})
    follow(page, stub, job, first)  # and what follows was missed by the load
    second = stub.emit("job_progressed", job, {})
    until(page, "feed.connection === 'live'")
    third = stub.emit("job_progressed", job, {})
    until(page, "taken.length === 2")
    assert page.evaluate("taken") == [second, third]
    assert page.evaluate("loaded") == 1


def test_short_break_is_resumed_by_the_socket_and_a_long_one_by_a_load(page: Page, stub: StubServer, job: str) -> None:
    page.clock.install()
    follow(page, stub, job, 100)
    until(page, "feed.connection === 'live'")
    for missed, loaded, pause in ((1, 1, 1_000), (2, 2, 120_000)):
        stub.cut()
        until(page, "feed.connection === 'reconnecting'")
        stub.emit("job_progressed", job, {})
        stub.down = False
        page.clock.fast_forward(pause)
        until(page, f"feed.connection === 'live' && taken.length >= {missed}")
        assert page.evaluate("loaded") == loaded


def test_waits_between_tries_grow_and_say_what_the_server_answers(page: Page, stub: StubServer, job: str) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1_000)  # else a wait gets shorter while the test looks
    follow(page, stub, job, "refused", "refused", "refused", "refused", 100)
    for tries in range(1, 5):
        until(page, f"loaded === {tries} && feed.nextTryAt != null")
        wait = page.evaluate("feed.nextTryAt - Date.now()")
        assert 0.75 <= wait / (500 * 2 ** (tries - 1)) <= 1.25
        assert page.evaluate("[feed.connection, feed.refusal]") == ["reconnecting", "The server answers: Not for you."]
        page.clock.fast_forward(wait + 1)
    until(page, "feed.connection === 'live'")
    assert page.evaluate("[feed.refusal, feed.nextTryAt]") == [None, None]


def test_socket_that_is_refused_makes_the_next_try_load(page: Page, stub: StubServer, job: str) -> None:
    follow(page, stub, job, 100)
    until(page, "feed.connection === 'live'")
    stub.cut()
    until(page, "loaded > 1")  # it answers over HTTP, and still refuses the socket
    assert page.evaluate("feed.connection") == "reconnecting"
    stub.down = False
    until(page, "feed.connection === 'live'")


def test_reset_forgets_and_loads_again(page: Page, stub: StubServer, job: str) -> None:
    follow(page, stub, job, 100, 7)
    until(page, "feed.connection === 'live'")
    stub.raw({"seq": 9_000, "kind": "reset", "topic": f"jobs/{job}", "data": {}})
    until(page, "loaded === 2")
    after = stub.emit("job_progressed", job, {})
    until(page, f"taken.includes({after})")
    assert page.evaluate("forgotten") == 1
    assert "after=7&" in stub.opened[-1]


def test_unknown_and_ended_hold_no_socket(page: Page, stub: StubServer, job: str) -> None:
    follow(page, stub, job, "unknown")
    until(page, "feed.connection === 'unknown'")
    follow(page, stub, job, "ended")
    until(page, "feed.connection === 'live'")
    assert stub.opened == []
    follow(page, stub, job, 100)
    until(page, "feed.connection === 'live'")
    stub.emit("job_completed", job, {"state": "succeeded"})
    until(page, "feed.ended")
    stub.closed.get(timeout=10)
    assert page.evaluate("feed.connection") == "live"


@pytest.mark.parametrize("code", [1008, 4403])
def test_socket_that_is_closed_for_good_says_why_and_is_not_opened_again(
    page: Page, stub: StubServer, job: str, code: int
) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1_000)
    follow(page, stub, job, 100, "unknown", "refused", "unknown", 100)
    until(page, "feed.connection === 'live'")
    stub.expel(code, "You are out.")
    for loaded, pause in ((2, 10_000), (3, 20_000), (4, 40_000)):  # not to know it, or to refuse it, comes to the same
        until(page, f"loaded === {loaded} && feed.connection === 'unknown'")
        assert page.evaluate("[feed.refusal, feed.nextTryAt]") == ["You are out.", None]
        page.clock.fast_forward(pause)
    until(page, "feed.connection === 'live'")  # back again
    assert page.evaluate("feed.refusal") is None
    assert len(stub.opened) == 2


#: Have the page hidden from then on, or seen again.
HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_unknown_is_asked_for_again_ever_more_seldom_and_at_once_when_the_page_is_seen(
    page: Page, stub: StubServer, job: str
) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1_000)
    follow(page, stub, job, "unknown", "unknown", "unknown", 100)
    until(page, "feed.connection === 'unknown'")
    page.clock.fast_forward(10_000)
    until(page, "loaded === 2")
    page.clock.fast_forward(19_000)
    page.evaluate(HIDE, True)
    page.clock.fast_forward(1_000_000)
    assert page.evaluate("loaded") == 2
    page.evaluate(HIDE, False)
    until(page, "loaded === 3")
    page.clock.fast_forward(40_000)
    until(page, "feed.connection === 'live'")
    seq = stub.emit("job_progressed", job, {})
    until(page, f"taken.includes({seq})")
    page.evaluate("connection.close()")
    page.evaluate(HIDE, False)
    assert page.evaluate("loaded") == 4


def test_silent_socket_is_a_lost_one(page: Page, stub: StubServer, job: str) -> None:
    page.clock.install()
    follow(page, stub, job, 100)
    until(page, "feed.connection === 'live'")
    page.clock.fast_forward(30_000)
    stub.emit("job_progressed", job, {})
    until(page, "taken.length === 1")
    page.clock.fast_forward(30_000)
    assert page.evaluate("feed.connection") == "live"
    page.clock.fast_forward(20_000)
    until(page, "feed.connection === 'reconnecting'")
    page.clock.fast_forward(1_000)
    until(page, "feed.connection === 'live'")
    assert len(stub.opened) == 2


def test_return_of_the_network_is_tried_at_once_and_a_closed_one_not_at_all(
    page: Page, stub: StubServer, job: str
) -> None:
    page.clock.install()
    follow(page, stub, job, 100)
    until(page, "feed.connection === 'live'")
    page.clock.pause_at(page.evaluate("Date.now() + 1000"))  # so that only the event can make it try
    stub.cut()
    until(page, "feed.connection === 'reconnecting'")
    stub.down = False
    page.evaluate("dispatchEvent(new Event('online'))")
    until(page, "feed.connection === 'live'")
    page.evaluate("connection.close()")
    for _ in range(2):
        stub.closed.get(timeout=10)
    page.evaluate("dispatchEvent(new Event('online'))")
    page.clock.fast_forward(300_000)
    assert len(stub.opened) == 2


def test_closed_one_is_not_opened_again_by_an_act_that_is_answered_late(page: Page, stub: StubServer, job: str) -> None:
    follow(page, stub, job, 100)
    until(page, "feed.connection === 'live'")
    page.evaluate("connection.close(); connection.connect()")
    page.evaluate("feed.connection = 'reconnecting'; connection.resume()")
    assert page.evaluate("loaded") == len(stub.opened) == 1
