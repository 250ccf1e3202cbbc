"""The view of a group in a real browser: a square a run, counts, failures by reason, and the run that is picked."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.stub import StubServer, utc

pytestmark = pytest.mark.browser


def show(page: Page, stub: StubServer, theme: str = "light") -> Locator:
    page.goto(stub.url(theme=theme))
    page.wait_for_function("window.views?.[0].feed.connection !== 'opening'")
    return page.locator(".zb").first


def squares(view: Locator) -> Locator:
    return view.locator(".zb-squares .zb-sq")


def test_group_shows_a_square_a_run_and_counts_that_move(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["succeeded", "running", "pending", "pending"])
    view = show(page, stub)
    expect(squares(view)).to_have_count(4)
    expect(view.locator(".zb-word").first).to_have_text("Running")
    expect(view.locator(".zb-note").first).to_have_text("1 of 4 ended")
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 running2 pending")
    stub.emit("job_completed", ids[1], {"state": "succeeded", "finished_at": utc()})
    expect(view.locator(".zb-counts")).to_have_text("2 succeeded2 pending")
    expect(view.locator(".zb-note").first).to_have_text("2 of 4 ended")
    expect(view.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")


def test_failures_are_told_by_reason_and_tried_again(page: Page, stub: StubServer) -> None:
    error = {"ename": "ValueError", "evalue": "bad rate", "traceback": []}
    stub.add_group(["failed", "failed", "succeeded"], error=error)
    view = show(page, stub)
    expect(view.locator(".zb-word").first).to_have_text("Failed")
    expect(view.locator(".zb-why-list li")).to_have_text("2ValueError: bad rateRetry 2")
    view.locator(".zb-acts").get_by_role("button", name="Retry 2").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded2 pending")
    assert "retry a-token" in stub.posts


def test_cancel_all_ends_what_has_not_ended(page: Page, stub: StubServer) -> None:
    stub.add_group(["succeeded", "running", "pending"])
    view = show(page, stub)
    view.get_by_role("button", name="Cancel all").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded2 canceled")
    expect(view.get_by_role("button", name="Cancel all")).to_have_count(0)


def test_group_that_the_server_does_not_know_says_so_and_offers_nothing(page: Page, stub: StubServer) -> None:
    for job_id in stub.add_group(["running", "pending"]):
        del stub.jobs[job_id]
    view = show(page, stub)
    expect(view.get_by_role("note")).to_contain_text("does not know these runs")
    expect(view.get_by_role("button", name="Cancel all")).to_have_count(0)


def test_refused_cancel_is_told(page: Page, stub: StubServer) -> None:
    stub.add_group(["running"])
    stub.answer_posts = False
    view = show(page, stub)
    view.get_by_role("button", name="Cancel all").click()
    expect(view.get_by_role("note")).to_have_text("The runs were not canceled: The stub says 409.")


def test_run_that_is_picked_says_what_it_is_and_opens_its_own_view(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["succeeded", "running", "failed"], spec={"name": "train"})
    stub.stored(ids[1], "epoch 1")
    view = show(page, stub)
    view.locator(".zb-squares").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(view.locator(".zb-picked")).to_contain_text("Run 2, lr=1, running")
    page.keyboard.press("Enter")
    run = view.locator(".zb-run .zb-card")
    expect(run.locator(".zb-name")).to_have_text("train")
    expect(run.locator(".zb-ln").last).to_have_text("epoch 1")
    squares(view).nth(0).click()
    expect(view.locator(".zb-run .zb-card")).to_have_count(1)
    expect(view.locator(".zb-run .zb-word")).to_have_text("Succeeded")


def test_group_comes_back_after_a_break(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["running", "running"])
    view = show(page, stub)
    stub.cut()
    expect(view.locator(".zb-word").first).to_have_text("Reconnecting")
    expect(view.get_by_role("note")).to_contain_text("No connection to the server")
    stub.emit("job_completed", ids[0], {"state": "succeeded", "finished_at": utc()})
    stub.down = False
    view.get_by_role("button", name="Try now").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 running")


def test_hostile_names_are_text(page: Page, stub: StubServer) -> None:
    stub.add_group(["failed"], error={"ename": "<img src=x onerror='window.pwned=1'>", "evalue": "", "traceback": []})
    assert stub.group is not None
    stub.group["name"] = stub.group["runs"][0]["label"] = "<img src=x onerror='window.pwned=1'>"
    view = show(page, stub)
    expect(view.locator(".zb-why-list")).to_contain_text("<img src=x")
    assert page.evaluate("window.pwned") is None
