"""The jobs of the same cell that go on beside one: how they are offered to be canceled, and what is said of that."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.stub import StubServer, utc

pytestmark = pytest.mark.browser


def add(stub: StubServer, state: str = "running", *, cell: str = "a cell", owner: str = "ada") -> str:
    return stub.add(state, owner=owner, org_id="default", spec={"tags": {"zbrain.cell": cell}})


def show(page: Page, stub: StubServer, earlier: list[str]) -> str:
    """Show a job whose bundle names others as earlier ones of its cell."""
    job_id = add(stub)
    stub.saved = [{**stub.saved[-1], "earlier": earlier}]
    page.goto(stub.url())
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_visible()
    return job_id


def end(stub: StubServer, job_id: str, state: str = "succeeded") -> None:
    stub.emit("job_completed", job_id, {"state": state, "finished_at": utc()})


def said(page: Page) -> Locator:
    return page.locator(".zb-notice").filter(has_text="of this cell")


def test_earlier_run_is_followed_also_when_the_later_one_has_ended(page: Page, stub: StubServer) -> None:
    old = add(stub)
    new = show(page, stub, [old])
    expect(said(page)).to_contain_text("An earlier run of this cell is still running.")
    end(stub, new)
    expect(page.locator(".zb-word")).to_have_text("Succeeded")
    expect(page.get_by_role("button", name="Cancel the earlier")).to_be_visible()
    end(stub, old)
    expect(said(page)).to_have_count(0)
    assert stub.closed.get(timeout=10)  # nothing is left to be followed


def test_cancel_of_the_earlier_run_is_told_and_leaves_the_keyboard_in_the_view(page: Page, stub: StubServer) -> None:
    old = add(stub)
    show(page, stub, [old])
    page.get_by_role("button", name="Cancel the earlier").focus()
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text("The earlier run of this cell was canceled.")
    expect(page.get_by_role("status").first).to_have_text("The earlier run of this cell was canceled.")
    expect(page.locator(".zb-head button:focus")).to_have_count(1)
    assert stub.jobs[old]["state"] == "canceled"


def test_cancel_of_an_earlier_run_that_had_ended_says_so(page: Page, stub: StubServer) -> None:
    old = add(stub)
    show(page, stub, [old])
    stub.jobs[old].update(state="failed", event_seq=stub._seq)  # its event is on its way
    page.route("**/jobs/cancel", lambda route: route.continue_(url=route.request.url.replace("cancel", "lookup")))
    page.get_by_role("button", name="Cancel the earlier").click()
    expect(said(page)).to_have_text("The earlier run of this cell had ended before it could be canceled.")


def test_all_earlier_runs_of_the_cell_are_counted_and_canceled_and_no_others(page: Page, stub: StubServer) -> None:
    mine = [add(stub) for _ in range(120)]  # more than are followed one by one
    waits, ended = add(stub, "pending"), add(stub, "succeeded")
    strange = [add(stub, cell="another cell"), add(stub, owner="bob")]
    show(page, stub, [*mine, waits, ended, *strange])
    expect(said(page)).to_contain_text("121 earlier runs of this cell are still active.")
    end(stub, waits)
    end(stub, mine[0])
    expect(said(page)).to_contain_text("119 earlier runs of this cell are still running.")
    page.get_by_role("button", name="Cancel the 119 earlier").click()
    expect(said(page)).to_have_text("119 earlier runs of this cell were canceled.")
    assert {stub.jobs[job_id]["state"] for job_id in mine[1:]} == {"canceled"}
    assert [stub.jobs[job_id]["state"] for job_id in (ended, *strange)] == ["succeeded", "running", "running"]
