"""The jobs of the same cell that go on beside one: how they are offered to be canceled, and what is said of that."""

from __future__ import annotations

import re

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


def show_group(page: Page, stub: StubServer, states: list[str], earlier: list[str], theme: str = "light") -> list[str]:
    """Show a group whose bundle names others as earlier ones of its cell."""
    tags = {"zbrain.group": "g", "zbrain.cell": "a cell"}
    ids = stub.add_group(states, org_id="default", spec={"tags": tags})
    assert stub.group is not None
    stub.group["earlier"] = earlier
    page.goto(stub.url(theme=theme))
    return ids


def test_group_offers_to_cancel_the_earlier_runs_of_its_cell_and_says_what_came_of_it(
    page: Page, stub: StubServer
) -> None:
    old, strange = [add(stub), add(stub)], add(stub, cell="another cell")
    ids = show_group(page, stub, ["running", "pending"], [*old, strange])
    expect(said(page)).to_contain_text("2 earlier runs of this cell are still running.")
    expect(said(page)).not_to_have_css("background-color", "rgba(0, 0, 0, 0)")  # as of any notice
    stub.answer_posts = False
    page.get_by_role("button", name="Cancel the 2 earlier").click()
    expect(page.get_by_role("note")).to_have_text("The earlier runs were not canceled: The stub says 409.")
    stub.answer_posts = True
    page.get_by_role("button", name="Cancel the 2 earlier").focus()
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text("2 earlier runs of this cell were canceled.")
    expect(page.get_by_role("status").first).to_have_text("2 earlier runs of this cell were canceled.")
    expect(page.locator(".zb-head button:focus")).to_have_count(1)
    assert [stub.jobs[job]["state"] for job in (*old, strange, *ids)] == ["canceled"] * 2 + ["running"] * 2 + [
        "pending"
    ]


def test_earlier_runs_are_followed_and_kept_in_the_notebook_when_the_group_has_ended(
    page: Page, stub: StubServer
) -> None:
    old = [add(stub) for _ in range(2)]
    stub.jobs[old[0]]["org_id"] = "another"
    ids = show_group(page, stub, ["running"], old)
    end(stub, ids[0])
    expect(page.locator(".zb-word").first).to_have_text("Succeeded")
    end(stub, old[0])
    expect(said(page)).to_contain_text("An earlier run of this cell is still running.")
    kept = page.evaluate("import('/view/index.js').then(({ groupBundleOf }) => groupBundleOf(views[0].feed))")
    assert kept["application/vnd.zbrain.group+json"]["earlier"] == old
    end(stub, old[1])
    expect(said(page)).to_have_count(0)
    assert stub.closed.get(timeout=10)  # nothing is left to be followed


def test_notebook_keeps_what_the_server_cannot_tell_of_an_ended_job_and_of_its_repeat(
    page: Page, stub: StubServer
) -> None:
    old = add(stub)
    show(page, stub, [old])
    page.evaluate("views[0].feed.shipped = 'rate 21 bytes'")
    told = {"shipped": "rate 21 bytes", "earlier": [old]}
    end(stub, list(stub.jobs)[-1], "failed")
    page.get_by_role("button", name="Retry").wait_for()
    kept = page.evaluate("import('/view/index.js').then(({ bundleOf }) => bundleOf(views[0].feed))")
    assert kept["application/vnd.zbrain.job+json"].items() >= told.items()
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".zb-word")).to_have_text("Pending")
    assert page.evaluate("views[0].feed.saved").items() >= told.items()


def test_retry_under_a_cell_says_that_it_runs_the_code_as_it_was_submitted(page: Page, stub: StubServer) -> None:
    stub.add("failed", spec={"tags": {"zbrain.cell": "a cell"}})
    stub.add("succeeded", spec={"tags": {"zbrain.cell": "a cell"}})
    stub.add("failed")  # of no cell
    page.goto(stub.url())
    said = "Runs the code as it was submitted; run the cell for what it says now"
    again = page.get_by_role("button", name=re.compile("^(Retry|Run again)$"))
    expect(again).to_have_count(3)
    expect(again.nth(0)).to_have_attribute("title", said)
    expect(again.nth(1)).to_have_attribute("title", said)
    assert again.nth(2).get_attribute("title") is None
    stub.add_group(["failed", "succeeded"], spec={"tags": {"zbrain.cell": "a cell", "zbrain.group": "g"}})
    page.goto(stub.url())
    retry = page.get_by_role("button", name="Retry 1")
    expect(retry).to_have_count(2)
    for place in range(2):
        expect(retry.nth(place)).to_have_attribute("title", said)
