"""The widget on a page that knows no server (VS Code, Colab): all goes through a kernel, which the page plays."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.stub import StubServer, utc

pytestmark = pytest.mark.browser


def open_widget(page: Page, stub: StubServer) -> Locator:
    page.goto(f"http://127.0.0.1:{stub.port}/widget")
    page.wait_for_function("typeof window.dispose === 'function'")
    return page.locator(".zb").first


def test_job_is_shown_whole_and_followed(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *(f"früher {number}" for number in range(1_500)))
    view = open_widget(page, stub)
    expect(view.locator(".zb-ln").last).to_have_text("früher 1499")
    stub.log(job, "now")
    expect(view.locator(".zb-ln").last).to_have_text("now")
    view.locator(".zb-lines").evaluate("log => { log.scrollTop = 0; }")
    view.get_by_text("früher 0", exact=True).wait_for()
    view.get_by_role("button", name="Cancel").click()
    expect(view.get_by_role("button", name="Canceling…")).to_be_visible()
    stub.emit("job_canceled", job, {"state": "canceled", "finished_at": utc()})
    expect(view.locator(".zb-word")).to_have_text("Canceled")
    expect(view.get_by_role("link", name="Open its own page")).to_have_count(0)
    page.wait_for_function("kernel.asked.some((each) => each.startsWith('DROP'))")  # it has ended: nothing is followed


def test_busy_kernel_lets_cancel_wait_and_the_view_says_so(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = open_widget(page, stub)
    expect(view.locator(".zb-word")).to_have_text("Running")
    expect(view.get_by_role("button", name="Cancel")).to_be_visible()  # the server has answered
    page.evaluate("kernel.isBusy = true")
    view.get_by_role("button", name="Cancel").click()
    expect(view.get_by_role("note")).to_contain_text("The kernel runs a cell; this is done when it is free.")
    stub.log(job, "still comes")
    expect(view.locator(".zb-ln").last).to_have_text("still comes")
    expect(view.get_by_role("button", name="Canceling…")).to_be_visible()
    assert stub.posts == []
    page.evaluate("kernel.free()")
    expect(view.get_by_text("The kernel runs a cell")).to_have_count(0)
    assert stub.posts == ["cancel a-token"]


def test_retry_of_an_ended_job_waits_for_a_busy_kernel_however_long_it_takes(page: Page, stub: StubServer) -> None:
    page.clock.install()
    stub.add("failed")
    view = open_widget(page, stub)
    expect(view.locator(".zb-word")).to_have_text("Failed")
    expect(view.get_by_role("button", name="Retry")).to_be_visible()  # the server has answered
    page.evaluate("kernel.isBusy = true")  # and nothing is followed, which would show that it lives
    view.get_by_role("button", name="Retry").click()
    page.clock.run_for(120_000)
    expect(view.get_by_role("note")).to_contain_text("The kernel runs a cell; this is done when it is free.")
    assert page.evaluate("kernel.waiting.map(({ method }) => method)") == ["POST"]
    page.evaluate("kernel.free()")
    expect(view.locator(".zb-word")).to_have_text("Pending")
    expect(view.get_by_role("button", name="Cancel")).to_be_enabled()  # it is followed
    assert stub.posts == ["retry a-token"]


def test_dead_kernel_is_told_and_what_was_shown_stays(page: Page, stub: StubServer) -> None:
    page.clock.install()
    job = stub.add()
    stub.stored(job, "the last line")
    view = open_widget(page, stub)
    expect(view.locator(".zb-ln").last).to_have_text("the last line")
    page.evaluate("kernel.isDead = true")  # which nothing but its silence tells
    page.clock.run_for(50_000)
    expect(view.locator(".zb-word")).to_have_text("Reconnecting")
    page.clock.run_for(15_000)
    expect(view.get_by_role("note")).to_contain_text("The kernel does not answer.")
    expect(view.locator(".zb-ln").last).to_have_text("the last line")
    page.evaluate("kernel.isDead = false")
    view.get_by_role("button", name="Try now").click()
    expect(view.locator(".zb-word")).to_have_text("Running")


def test_message_that_the_front_end_drops_is_made_good(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = open_widget(page, stub)
    expect(view.get_by_role("button", name="Cancel")).to_be_visible()  # it is followed
    page.evaluate("kernel.loses = 2")
    stub.emit("job_completed", job, {"state": "succeeded", "finished_at": utc()})
    page.wait_for_function("kernel.loses === 0")
    stub.log(job, "a late line")
    expect(view.locator(".zb-word")).to_have_text("Succeeded")


def test_death_that_the_front_end_tells_shows_at_once(page: Page, stub: StubServer) -> None:
    stub.add()
    view = open_widget(page, stub)
    expect(view.locator(".zb-word")).to_have_text("Running")
    page.evaluate("kernel.die()")
    expect(view.locator(".zb-word")).to_have_text("Reconnecting")


def test_page_that_opens_after_a_retry_shows_the_new_job(page: Page, stub: StubServer) -> None:
    first = stub.add("failed")
    view = open_widget(page, stub)
    view.get_by_role("button", name="Retry").click()
    expect(view.locator(".zb-word")).to_have_text("Pending")
    saved = page.evaluate("model.get('saved')")
    assert saved["id"] != first
    assert saved["state"] == "pending"


@pytest.mark.parametrize("is_group", [False, True])
def test_who_may_follow_no_more_is_told_why_and_keeps_what_was_shown(
    page: Page, stub: StubServer, is_group: bool
) -> None:
    if is_group:
        stub.add_group(["running", "pending"])
    else:
        stub.stored(stub.add(), "the last line")
    view = open_widget(page, stub)
    expect(view.get_by_role("button", name="Cancel")).to_be_visible()
    stub.expel(4403, "You are not a member of physics any more.")
    note = "You are not a member of physics any more. What was here until then is shown."
    expect(view.get_by_role("note").first).to_have_text(note)
    expect(view.get_by_role("button", name="Cancel")).to_have_count(0)
    kept = view.locator(".zb-counts") if is_group else view.locator(".zb-ln").last
    expect(kept).to_have_text("1 running1 pending" if is_group else "the last line")


def test_group_is_followed_and_acted_on(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["running", "pending"])
    view = open_widget(page, stub)
    expect(view.locator(".zb-counts")).to_have_text("1 running1 pending")
    stub.emit("job_completed", ids[0], {"state": "succeeded", "finished_at": utc()})
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 pending")
    view.get_by_role("button", name="Cancel all").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 canceled")
    view.locator(".zb-sq").first.click()
    expect(view.locator(".zb-run .zb-word")).to_have_text("Succeeded")


def test_server_that_was_stopped_opens_no_channel_for_what_is_asked_late(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    found = page.evaluate(
        """async () => {
          const { KernelServer } = await import('/view/kernel.js');
          let opened = 0;
          const server = new KernelServer(() => {
            opened += 1;
            return { send() {}, close() {} };
          });
          const ask = () => server.ask('overview').catch(({ message }) => message);
          const early = ask();
          server.stop();
          return [await early, await ask(), opened];
        }"""
    )
    assert found == ["The view was closed.", "The view was closed.", 0]
