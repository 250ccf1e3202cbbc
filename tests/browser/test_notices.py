"""What `--notify-after` does in a page: tells once of a long job's end to who does not look."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.stub import StubServer, utc

pytestmark = pytest.mark.browser

#: A stand-in for the system's notifications, which a headless browser does not show; all tabs tell one place.
NOTIFICATIONS = """
window.Notification = class {
  static permission = localStorage.permission ?? 'default';
  static requestPermission = async () => {
    localStorage.permission = Notification.permission = navigator.userActivation.isActive ? 'granted' : 'denied';
    return Notification.permission;
  };
  constructor(title, options) {
    localStorage.notices = JSON.stringify([...JSON.parse(localStorage.notices ?? '[]'), [title, options.body]]);
  }
  close() {}
};
"""
AWAY = "document.hasFocus = () => false"


def add(stub: StubServer, after: str = "60", tag: str = "zbrain.notify_after", **fields: object) -> str:
    return stub.add(spec={"name": "train", "tags": {tag: after}}, created_at=utc(-90), **fields)


def tab(
    context: BrowserContext, stub: StubServer, *, away: bool = True, permission: str | None = "granted", up: bool = True
) -> Page:
    stub.down = not up
    page = context.new_page()
    page.add_init_script(NOTIFICATIONS + (f"{AWAY};" if away else ""))
    page.goto(stub.url())
    if permission is not None and page.evaluate("Notification.permission") != permission:
        page.evaluate(f"localStorage.permission = Notification.permission = '{permission}'")
    page.wait_for_function(f"window.views?.[0].feed.connection === '{'live' if up else 'reconnecting'}'")
    return page


def told(page: Page) -> list[list[str]]:
    """Return all that was told, once a tab has claimed to tell something."""
    page.wait_for_function("JSON.parse(localStorage['zbrain.told'] ?? '[]').length")
    return notices(page)


def told_nothing(page: Page) -> bool:
    """Whether nothing was told by when it would have been: a tab that tells lets others claim for half a second."""
    page.evaluate("new Promise((done) => setTimeout(done, 700))")
    return notices(page) == []


def notices(page: Page) -> list[list[str]]:
    found: list[list[str]] = page.evaluate("JSON.parse(localStorage.notices ?? '[]')")
    return found


def fail(stub: StubServer, job: str) -> None:
    error = {"ename": "ValueError", "evalue": "first\nExpected 128, got 96.", "traceback": []}
    stub.emit("job_failed", job, {"state": "failed", "finished_at": utc(), "error": error})


def asks(page: Page) -> Locator:
    return page.get_by_role("button", name="Notify me when it ends")


def test_permission_is_asked_for_by_a_click_only(page: Page, stub: StubServer) -> None:
    job = add(stub)
    one = tab(page.context, stub, permission=None, away=False)
    assert one.evaluate("Notification.permission") == "default"
    expect(asks(one)).to_be_visible()
    asks(one).click()
    expect(asks(one)).to_have_count(0)
    assert one.evaluate("Notification.permission") == "granted"
    one.evaluate(AWAY)
    fail(stub, job)
    assert told(one) == [["train: failed", "Expected 128, got 96."]]


def test_view_without_the_flag_asks_and_tells_nothing(page: Page, stub: StubServer) -> None:
    job = stub.add(created_at=utc(-90))
    one = tab(page.context, stub, permission="default")
    expect(one.get_by_role("button", name="Cancel")).to_be_visible()
    expect(asks(one)).to_have_count(0)
    one.evaluate("Notification.permission = 'granted'")
    fail(stub, job)
    expect(one.locator(".zb-word")).to_have_text("Failed")
    assert told_nothing(one)
    assert one.title() == "views"


def test_two_tabs_and_a_reload_tell_once_and_both_titles_say_it(page: Page, stub: StubServer) -> None:
    job = add(stub)
    stub.saved.append(stub.saved[0])  # two views on one page, too
    first, second = tab(page.context, stub), tab(page.context, stub)
    fail(stub, job)
    assert told(first) == [["train: failed", "Expected 128, got 96."]]
    assert [one.title() for one in (first, second)] == ["\u2717 train: failed \u2013 views"] * 2
    second.evaluate("dispatchEvent(new Event('focus'))")
    assert second.title() == "views"
    first.reload()
    expect(first.locator(".zb-word").first).to_have_text("Failed")
    assert len(told(first)) == 1
    assert first.title() == "views"


def test_who_looks_is_not_told_in_any_tab(page: Page, stub: StubServer) -> None:
    job = add(stub)
    hidden = tab(page.context, stub)
    looked = tab(page.context, stub, away=False)
    looked.evaluate("document.hasFocus = () => true")
    fail(stub, job)
    assert told_nothing(hidden)
    assert looked.title() == "views"
    assert hidden.title() == "\u2717 train: failed \u2013 views"


def test_short_job_and_one_that_had_ended_before_are_not_told(page: Page, stub: StubServer) -> None:
    job = add(stub, after="3600")
    one = tab(page.context, stub)
    fail(stub, job)
    assert told_nothing(one)
    saved = {**stub.saved[0], "state": "running"}  # as a notebook may say that was closed meanwhile
    stub.jobs[job]["spec"]["tags"] = {"zbrain.notify_after": "1"}
    stub.saved[:] = [saved]
    again = tab(page.context, stub, up=False)
    stub.down = False
    again.evaluate("views[0].feed.act('reconnect')")
    expect(again.locator(".zb-word")).to_have_text("Failed")
    assert told_nothing(again)


def test_end_seen_after_a_lost_connection_is_told(page: Page, stub: StubServer) -> None:
    job = add(stub)
    one = tab(page.context, stub)
    stub.cut()
    one.wait_for_function("views[0].feed.connection === 'reconnecting'")
    fail(stub, job)
    stub.down = False
    one.evaluate("views[0].feed.act('reconnect')")
    expect(one.locator(".zb-word")).to_have_text("Failed")
    assert len(told(one)) == 1


def test_group_is_told_when_its_last_run_ends(page: Page, stub: StubServer) -> None:
    spec = {"tags": {"zbrain.notify_group_after": "60"}}
    jobs = stub.add_group(["running", "running"], created_at=utc(-90), spec=spec)
    one = tab(page.context, stub)
    fail(stub, jobs[0])
    assert told_nothing(one)
    stub.emit("job_completed", jobs[1], {"state": "succeeded", "finished_at": utc()})
    assert told(one) == [["sweep: 2 runs ended", "1 succeeded, 1 failed"]]
