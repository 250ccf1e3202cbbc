"""The view and the console in every state, both themes and two widths, before axe-core: no serious fault."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import log_in
from tests.browser.states import TRACE, add_every_state
from tests.browser.stub import StubServer, utc
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser

ERROR = {"ename": "ValueError", "evalue": "Expected 128, got 96.", "traceback": TRACE}
TABS = ("Error", "Log", "Outputs", "Artifacts", "Attempts", "Code")


def faults(page: Page, inside: str) -> list[tuple[str, str, list[Any]]]:
    """Return axe-core's serious and critical findings: rule, help, and the elements that break it."""
    found = Axe().run(page, context=inside, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_any_state(page: Page, stub: StubServer, theme: str) -> None:
    add_every_state(stub)
    page.goto(stub.url(theme=theme))
    page.wait_for_function("window.views?.every(({ feed }) => feed.connection === 'live')")
    closed = ".zb-twist[aria-expanded=false], .zb details:not([open]) > summary"
    page.locator(closed).evaluate_all("each => each.forEach(one => one.click())")
    expect(page.locator(".zb-ln")).not_to_have_count(0)
    assert faults(page, ".zb") == []
    page.set_viewport_size({"width": 420, "height": 900})
    stub.cut()
    expect(page.locator("[data-face=reconnecting]").first).to_be_visible()
    assert faults(page, ".zb") == []


def test_axe_finds_no_serious_fault_in_a_group(page: Page, stub: StubServer) -> None:
    error = {"ename": "ValueError", "evalue": "bad rate", "traceback": []}
    stub.add_group(["pending", "running", "succeeded", "failed", "canceled", "retrying"], error=error)
    for theme in ("light", "dark"):
        page.goto(stub.url(theme=theme))
        expect(page.locator(".zb-sq").first).to_be_visible()
        assert faults(page, ".zb") == []


def fill(hand: HandWorker) -> list[str]:
    """Make jobs in every state on a real host; the first has something in each tab of its page."""
    canceled, _ = hand.submit(2, name="it waits", max_retries=2, tags={"lr": "0.1"})
    spec = {"code": "import time\nx = 1  # a comment", "input": {"epochs": 3}, "env": {"A": "b"}}
    ids = hand.submit(4, name="train", priority=9, **spec)
    hand.start(4)
    failed, done, plain, _ = ids
    hand.log(failed, "\x1b[31mred\x1b[0m and \x1b[2mdim\x1b[0m", "Traceback (most recent call last):", stream="stderr")
    hand.display(failed, {"text/html": "<b>a table</b>", "text/plain": "a table"}, {"text/plain": "plain"})
    hand.send(plain, "progress", progress={"fraction": 0.25, "note": "a quarter"})
    kept = [{"name": name, "sha256": hand.blob(b"a,b\n1,2\n"), "size": 8} for name in ("data.csv", "model.pt")]
    variable = {"name": "frame", "type": "DataFrame", "summary": "3 rows", "sha256": hand.blob(b"x"), "size": 1}
    hand.send(failed, "failed", error=ERROR, exit_code=1, variables=[variable], artifacts=kept)
    hand.send(done, "completed", output="2", exit_code=0)
    hand.post("jobs/cancel", {"ids": [canceled]})
    return ids


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_on_the_console(page: Page, host: Owner, hand: HandWorker, theme: Any) -> None:
    failed, *_, running = fill(hand)
    page.emulate_media(color_scheme=theme)
    log_in(page, host)
    for width in (1180, 420):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{host.url}zbrain")
        expect(page.locator(".zb-jobs tbody tr[data-state=canceled]")).not_to_have_count(0)
        expect(page.locator(".zb-lanes .zb-span")).not_to_have_count(0)
        page.get_by_label("Select train").first.check()
        page.get_by_label("Group by").select_option("By name")
        page.locator(".zb-grouprow .zb-twist").first.click()
        assert faults(page, "html") == []
        page.goto(f"{host.url}zbrain/jobs/{running}")
        expect(page.locator(".zb-jobhead h1")).to_contain_text("Running")
        assert faults(page, "html") == []
        page.goto(f"{host.url}zbrain/jobs/{failed}")
        for tab in TABS if width > 1000 else TABS[:2]:
            page.get_by_role("tab", name=tab).click()
            assert (tab, faults(page, "html")) == (tab, [])


def test_axe_finds_no_serious_fault_on_pages_that_refuse(page: Page, host: Owner) -> None:
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for address in ("zbrain", "zbrain/login?code=wrong"):
            page.context.clear_cookies()
            page.goto(f"{host.url}{address}")
            expect(page.get_by_role("heading")).to_have_text("This browser is not known here")
            assert faults(page, "html") == []
        log_in(page, host)
        page.goto(f"{host.url}zbrain/jobs/01936b1e-0000-7000-8000-000000000000")
        expect(page.locator(".zb-notice")).to_contain_text("The server does not know this job.")
        assert faults(page, "html") == []


def test_what_went_wrong_is_spoken_each_time(page: Page, stub: StubServer) -> None:
    stub.add()
    stub.answer_posts = False
    page.goto(stub.url())
    spoken = page.get_by_role("status")
    for _ in range(2):
        page.get_by_role("button", name="Cancel").click()
        expect(spoken).to_contain_text("The job was not canceled")
        spoken.evaluate("element => element.replaceChildren()")
    stub.add("failed", owner="eve")
    page.goto(stub.url())
    page.get_by_role("button", name="Retry").press("Enter")
    expect(spoken.last).to_contain_text("This is the code of eve")
    expect(page.get_by_role("button", name="No", exact=True)).to_be_focused()


def test_keyboard_keeps_its_reason_of_a_group_when_a_run_ends(page: Page, stub: StubServer) -> None:
    error = {"ename": "KeyError", "evalue": "", "traceback": []}
    first, second, _ = stub.add_group(["failed", "running", "running"], error=error)
    page.goto(stub.url())
    retry = page.locator(".zb-why-list").get_by_role("button", name="Retry 1")
    retry.focus()
    stub.emit("job_completed", second, {"state": "succeeded", "finished_at": utc(), "error": None})
    expect(page.locator(".zb-counts")).to_contain_text("1 succeeded")
    expect(retry).to_be_focused()
    again = stub.add("pending", spec=stub.jobs[first]["spec"], retry_of=first)
    stub.emit("job_submitted", again, {**stub.jobs[again]})
    expect(retry).to_have_count(0)
    expect(page.locator(".zb-head .zb-twist")).to_be_focused()


def test_keyboard_is_given_the_log_when_follow_goes_away(page: Page, stub: StubServer) -> None:
    job_id = stub.add()
    stub.stored(job_id, "a line")
    page.goto(stub.url())
    page.get_by_role("button", name="Follow").focus()
    error = {"ename": "KeyError", "evalue": "", "traceback": []}
    stub.emit("job_failed", job_id, {"state": "failed", "finished_at": utc(), "error": error})
    expect(page.get_by_role("log")).to_be_focused()


def test_menu_stays_open_when_the_job_changes(page: Page, stub: StubServer) -> None:
    job_id = stub.add("pending")
    page.goto(stub.url())
    page.wait_for_function("views[0].feed.loaded")
    page.get_by_role("button", name="More for").press("Enter")
    copy = page.get_by_role("button", name="Copy the id")
    copy.focus()
    stub.emit("job_started", job_id, {"state": "running", "attempt": 1, "started_at": utc(), "worker_id": "w"})
    expect(page.locator(".zb-word").first).to_have_text("Running")
    expect(copy).to_be_focused()
    page.keyboard.press("Escape")
    expect(copy).to_be_hidden()
    expect(page.get_by_role("button", name="More for")).to_be_focused()


def test_picked_run_of_a_group_says_how_long_it_has_run_by_now(page: Page, stub: StubServer) -> None:
    page.clock.install()
    stub.add_group(["running"], started_at=utc(-5))
    page.goto(stub.url())
    page.locator(".zb-squares").press("ArrowRight")
    expect(page.locator(".zb-picked")).to_contain_text("running, 0:0")
    page.evaluate("Object.assign(views[0].feed, { tell() {} })")  # no event comes
    page.clock.fast_forward(120_000)
    expect(page.locator(".zb-picked")).to_contain_text("running, 2:0")
