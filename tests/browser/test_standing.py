"""What a view says of how its job stands to others: the kernel that waits, jobs before it, attempts, a cached one."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stub import StubServer, progress, utc
from tests.browser.test_view import show

pytestmark = pytest.mark.browser


def test_detach_is_offered_only_while_somebody_waits(page: Page, stub: StubServer) -> None:
    stub.add()
    view = show(page, stub)
    more = view.get_by_role("button", name="More for train-resnet")
    detach = view.get_by_role("button", name="Detach")
    with page.expect_response("**/jobs/*"):
        more.click()
    expect(view.get_by_role("button", name="Copy the id")).to_be_visible()
    expect(detach).to_be_hidden()
    more.click()
    stub.waiting = 1
    more.click()
    with page.expect_response("**/detach"):
        detach.click()
    assert stub.posts == ["detach a-token"]
    expect(detach).to_be_hidden()
    expect(view.get_by_role("note")).to_have_count(0)
    stub.answer_posts = False
    more.click()
    detach.click()
    expect(view.get_by_role("note")).to_have_text("Nobody was detached: The stub says 409.")


def test_pending_follows_the_jobs_that_it_waits_for(page: Page, stub: StubServer) -> None:
    spec = {"name": "train"}
    running = stub.add(spec=spec, progress=progress(0.5, "epoch 2", secs=134), event_seq=50)
    done = stub.add("succeeded", spec={"name": "fetch"}, started_at=utc(-33), finished_at=utc(-2))
    later = stub.add("pending", spec={"name": "then"}, reason="Waiting for train.")
    stub.saved.clear()
    job = stub.add("pending", spec={"name": "evaluate", "after": [done, running, later]}, reason="Two jobs to go.")
    view = show(page, stub)
    rows = view.get_by_role("list", name="Waits for").get_by_role("listitem")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_have_text("Succeededfetchtook 0:31")
    expect(rows.nth(1)).to_have_text("Runningtrainabout 2 min left")
    expect(rows.nth(2)).to_have_text("PendingthenWaiting for train.")
    link = rows.nth(1).get_by_role("link", name="train")
    expect(link).to_have_attribute("href", f"http://127.0.0.1:{stub.port}/zbrain/jobs/{running}")
    assert f"states%2F{running}" in stub.opened[0] and f"jobs%2F{running}" not in stub.opened[0]
    link.focus()
    stub.log(running, "a line of another job")
    stub.emit("job_completed", running, {"state": "succeeded", "finished_at": utc()})
    expect(rows.nth(1)).to_contain_text("Succeededtraintook 2:1")
    expect(link).to_be_focused()
    expect(view.get_by_role("log")).to_have_count(0)
    stub.emit("job_failed", later, {"state": "failed", "error": {"ename": "KeyError", "evalue": "'x'"}})
    expect(view.get_by_text("Waits for", exact=True)).to_have_count(0)  # nothing to wait for
    stub.emit("job_leased", job, {"state": "running", "attempt": 1, "started_at": utc()})
    expect(view.locator(".zb-word")).to_have_text("Running")


def test_cached_says_that_nothing_ran_and_runs_anyway(page: Page, stub: StubServer) -> None:
    job = stub.add("succeeded", spec={"name": "tokenize"}, output="48_210_334", finished_at="2026-03-10T12:00:00Z")
    stub.jobs[job]["started_at"] = "2026-03-10T11:53:20Z"
    stub.saved[0]["cached"] = True
    view = show(page, stub)
    expect(view.locator(".zb-word")).to_have_text("Cached")
    expect(view.locator(".zb-where")).to_have_text("nothing ran")
    expect(view.locator(".zb-note")).to_contain_text("from 10 Mar 2026")
    expect(view.get_by_role("note")).to_contain_text(
        "Nothing ran: same code and same inputs as tokenize of 10 Mar 2026"
    )
    expect(view.get_by_role("note")).to_contain_text(", which took 6:40. Its value is shown.")
    expect(view.get_by_role("group", name="Value")).to_have_text("48_210_334")
    expect(view.locator(".zb-foot")).to_have_count(0)
    view.get_by_role("button", name="Run anyway").click()
    expect(view.locator(".zb-word")).to_have_text("Pending")
    expect(view.locator(".zb-where")).to_have_text("local")
    assert stub.posts == ["retry a-token"]


LOST = "Its worker vanished. It runs again at once; a lost attempt uses up no retry."


@pytest.mark.parametrize(
    ("job", "attempts", "told"),
    [
        ({"losses": 1}, [], ["2 of 4", f"lost Attempt 1 {LOST}"]),
        ({"failures": 1}, [], ["2 of 3", f"failed Attempt 1 {LOST}"]),
        (
            {"failures": 1, "losses": 1},
            [("lost", "Its worker vanished."), ("failed", "Killed.")],
            ["3 of 4", "lost Attempt 1 Its worker vanished.", f"failed Attempt 2 {LOST}"],
        ),
        (
            {"failures": 1, "losses": 1},
            [("failed", "Killed."), ("lost", "Its worker vanished.")],
            ["3 of 4", "failed Attempt 1 Killed.", f"lost Attempt 2 {LOST}"],
        ),
        (
            {"failures": 2, "losses": 2},
            [("failed", ""), ("lost", ""), ("failed", ""), ("lost", "")],
            ["5 of 5", "failed Attempts 1 to 3 2 failed, 1 lost", f"lost Attempt 4 {LOST}"],
        ),
        (
            {"losses": 2},
            [("lost", ""), ("lost", "")],
            ["3 of 5", "lost Attempt 1 Lost", f"lost Attempt 2 {LOST}"],
        ),
        # What a worker gave back before it ran uses up no retry either.
        ({"failures": 1, "attempt": 2}, [], ["3 of 4", "failed Attempt 1 Did not succeed either"]),
        # Events that are kept no more: the counts alone are known, and not their order.
        (
            {"failures": 1, "losses": 1},
            [("lost", "")],
            ["3 of 4", "failed Attempt 1 Did not succeed either"],
        ),
    ],
)
def test_attempts_are_told_as_they_ended(
    page: Page, stub: StubServer, job: dict[str, Any], attempts: list[tuple[str, str]], told: list[str]
) -> None:
    count = job.get("failures", 0) + job.get("losses", 0)
    stub.attempts = [
        {"attempt": number, "state": state, "reason": reason} for number, (state, reason) in enumerate(attempts, 1)
    ]
    stub.add("retrying", **{"attempt": count, **job}, spec={"max_retries": 2}, reason=LOST, not_before=utc(90))
    view = show(page, stub)
    expect(view.locator(".zb-word")).to_have_text(f"Retrying {told[0]}")
    items = view.get_by_role("list", name="Attempts").get_by_role("listitem")
    for place, text in enumerate(told[1:]):
        state, _, words = text.partition(" ")
        expect(items.nth(place)).to_have_attribute("data-state", state)
        name, _, note = words.partition(" 1 to 3 ")
        whole = f"{name} 1 to 3{note}" if note else f"{words[:9]}{words[10:]}"
        expect(items.nth(place)).to_have_text(whole)


def test_log_that_cannot_be_read_says_what_went_wrong(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, "a line")
    view = show(page, stub)
    page.evaluate("() => { URL.createObjectURL = () => { throw new Error('Out of memory') } }")
    download = view.get_by_role("button", name="Download the whole log")
    download.click()
    expect(view.get_by_role("note")).to_have_text("The log could not be read: Out of memory")
