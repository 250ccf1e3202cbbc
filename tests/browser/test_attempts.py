"""The Attempts tab of a job's page: what moves in it moves on, and it comes though it could not be read at once."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.stub import StubServer, utc
from tests.browser.test_budgets import open_job_page

pytestmark = pytest.mark.browser

FAILED = {"attempt": 1, "state": "failed", "started_at": utc(-10), "finished_at": utc(-1), "reason": "No luck."}


def test_attempts_move_with_the_clock_and_a_rebuild_keeps_the_keyboards_place(page: Page, stub: StubServer) -> None:
    stub.attempts.append(FAILED)
    job = stub.add("retrying", failures=1, not_before=utc(90), spec={"max_retries": 1}, reason="No luck.")
    open_job_page(page, stub, job)
    page.get_by_role("tab", name="Attempts").click()
    attempts = page.get_by_role("group", name="Attempts")
    first = attempts.locator("tbody tr").first
    expect(first).to_contain_text("Starts in 1:2")
    page.evaluate("() => { window.row = document.querySelector('.zb-panel tbody tr'); }")
    before = first.inner_text()
    expect(first).not_to_have_text(before, use_inner_text=True)
    assert page.evaluate("row.isConnected")
    attempts.focus()
    now = utc(-5)
    stub.attempts.append({"attempt": 2, "state": "running", "started_at": now, "finished_at": None, "reason": None})
    stub.emit("job_started", job, {"state": "running", "attempt": 2, "started_at": now, "not_before": None})
    expect(first).to_contain_text("2 of 2")
    expect(first).to_contain_text("running")
    assert page.evaluate("document.querySelector('.zb-panel').contains(document.activeElement)")
    before = first.inner_text()
    expect(first).not_to_have_text(before, use_inner_text=True)


def test_attempts_that_could_not_be_read_are_asked_for_again(page: Page, stub: StubServer) -> None:
    stub.attempts.append(FAILED)
    page.clock.install()
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused:
            return route.continue_()
        refused.append(route.request.url)
        return route.fulfill(status=503, json={})

    page.route("**/attempts", refuse_once)
    with page.expect_response("**/attempts"):
        open_job_page(page, stub, stub.add("failed", failures=1, reason="No luck."))
    expect(page.get_by_role("tab", name="Error")).to_be_visible()
    expect(page.get_by_role("tab", name="Attempts")).to_have_count(0)
    page.clock.run_for(3_000)
    expect(page.get_by_role("tab", name="Attempts")).to_be_visible()
