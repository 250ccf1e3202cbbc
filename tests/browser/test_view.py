"""The view of a job in a real browser, against a real HTTP and WebSocket server with scripted jobs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.states import TRACE, VARIABLES
from tests.browser.stub import LongLog, StubServer, progress, utc

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"


def show(page: Page, stub: StubServer, **options: Any) -> Locator:
    """Open the page and return its first view, loaded."""
    page.goto(stub.url(**options))
    page.wait_for_function("window.views?.length && views[0].feed.connection !== 'opening'")
    return page.locator(".zb").first


def rows(view: Locator) -> Locator:
    return view.locator(".zb-row")


def last_row(view: Locator) -> Locator:
    return rows(view).last.locator(".zb-ln")


def plot(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}


# ---- states


def test_pending_says_why_and_offers_cancel(page: Page, stub: StubServer) -> None:
    stub.add("pending", reason="Second in line on local: all 4 slots are busy")
    view = show(page, stub)
    expect(view.locator(".zb-word")).to_have_text("Pending")
    expect(view.get_by_role("note")).to_have_text("Second in line on local: all 4 slots are busy.")
    expect(view.locator(".zb-note")).to_be_empty()
    expect(view.get_by_role("button", name="Cancel")).to_be_enabled()
    expect(view.get_by_role("log")).to_have_count(0)
    expect(view.locator(".zb-foot")).to_contain_text("Asks for2 CPUs, 4 GBDeadlinenone")


def test_running_shows_bar_outputs_log_and_foot(page: Page, stub: StubServer) -> None:
    job = stub.add(progress=progress(0.62, "epoch 31 of 50", secs=600), spec={"timeout_secs": 3600})
    stub.stored(job, "one", "two")
    stub.outputs[job].append({"output_type": "display_data", "data": {"text/plain": "a plot"}, "metadata": {}})
    view = show(page, stub)
    bar = view.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "62")
    expect(bar).to_have_attribute("aria-valuetext", "62%, epoch 31 of 50")
    expect(view.locator(".zb-time")).to_contain_text("about 6 min left")
    expect(view.get_by_role("group", name="Outputs of")).to_contain_text("a plot")
    expect(last_row(view)).to_have_text("two")
    expect(view.locator(".zb-foot")).to_contain_text("Deadline1:00:00, at")


@pytest.mark.parametrize(
    ("secs", "since", "said"),
    [
        (3600, 0.85, "about 2.0 h left"),  # it goes on from a checkpoint
        (3600, 0.9, ""),  # the first that was told: nothing to go by
        (0.5, 0.1, ""),
        (None, 0, ""),  # a server that tells no times
    ],
)
def test_remaining_time_is_that_of_the_progress_seen_and_not_of_the_jobs_age(
    page: Page, stub: StubServer, secs: float | None, since: float, said: str
) -> None:
    stub.add(progress={"fraction": 0.9, "note": ""} if secs is None else progress(0.9, "", secs=secs, since=since))
    view = show(page, stub)
    expect(view.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "90")
    expect(view.locator(".zb-time")).to_have_text(re.compile(rf"^2:\d\d\s*{said}$"))


def test_retrying_shows_attempts_and_when_the_next_starts(page: Page, stub: StubServer) -> None:
    stub.add("retrying", failures=1, spec={"max_retries": 2}, reason="Killed by signal 9", not_before=utc(90))
    view = show(page, stub)
    expect(view.locator(".zb-word")).to_have_text("Retrying 2 of 3")
    items = view.get_by_role("list", name="Attempts").get_by_role("listitem")
    expect(items).to_have_count(3)
    expect(items.nth(0)).to_have_text("Attempt 1Killed by signal 9.")
    expect(items.nth(1)).to_contain_text("Starts in 1:")
    expect(view.get_by_role("button", name="Cancel")).to_be_visible()


def test_foot_says_what_the_last_attempt_used(page: Page, stub: StubServer) -> None:
    job = stub.add(spec={"resources": {"memory_mb": 8192}})
    foot = show(page, stub).locator(".zb-foot")
    expect(foot).to_contain_text("Attempt")
    expect(foot).not_to_contain_text("memory")
    stub.emit("job_retrying", job, {"state": "retrying", "peak_memory_mb": 8192.0, "cpu_secs": 3.21})
    expect(foot).to_contain_text("Peak memory8 of 8 GBCPU time3.2 s")
    stub.emit("job_leased", job, {"state": "running", "peak_memory_mb": None, "cpu_secs": None})
    expect(foot).not_to_contain_text("memory")
    stub.emit("job_completed", job, {"state": "succeeded", "peak_memory_mb": 312.4, "cpu_secs": 858.0})
    expect(foot).to_contain_text("Peak memory312 MB of 8 GBCPU time14:18")
    html = page.evaluate("import('/view/summary.js').then(({ bundleOf }) => bundleOf(views[0].feed)['text/html'])")
    assert "peak memory 312 MB \u00b7 CPU time 14:18" in html


def test_retrying_a_thousand_times_stays_short(page: Page, stub: StubServer) -> None:
    stub.add("retrying", attempt=400, failures=400, spec={"max_retries": 1000}, reason="No", not_before=utc(90))
    items = show(page, stub).get_by_role("list", name="Attempts").get_by_role("listitem")
    expect(items).to_have_count(4)
    expect(items.nth(3)).to_have_text("Attempts 402 to 1001If needed")


def test_succeeded_shows_what_was_kept_and_folds_the_log(page: Page, stub: StubServer) -> None:
    job = stub.add(
        "succeeded",
        output={"acc": 0.9},
        variables=[{"name": "model", "type": "ResNet", "summary": "", "sha256": "0" * 64, "size": 44_700_000}],
        artifacts=[{"name": "metrics.csv", "sha256": "0" * 64, "size": 2100}],
    )
    stub.files["metrics.csv"] = b'"epoch, from 0",loss\n0,2.214\n'
    stub.stored(job, *[f"line {n}" for n in range(21)])
    view = show(page, stub)
    expect(view.locator(".zb-note")).to_have_text("value, 1 variable, 1 artifact")
    expect(view.get_by_role("group", name="Value")).to_contain_text('"acc": 0.9')
    expect(view.get_by_role("table", name="Variables")).to_contain_text("44.7 MB")
    table = view.get_by_role("table", name="First rows of metrics.csv")
    expect(table.get_by_role("cell")).to_have_text(["epoch, from ", "loss", "0", "2.214"])
    expect(view.get_by_role("button", name="Log")).to_have_attribute("aria-expanded", "false")
    expect(view.get_by_role("log")).to_be_hidden()
    with page.expect_download() as download:
        view.get_by_role("link", name="Download metrics.csv").click()
    assert download.value.path().read_bytes() == stub.files["metrics.csv"]
    view.get_by_role("button", name=f'Copy job = client.job("{job}")').click()
    assert page.evaluate("navigator.clipboard.readText()") == f'job = client.job("{job}")'
    assert stub.opened == []  # an ended job holds no socket


def test_log_that_is_short_or_all_there_is_stays_open(page: Page, stub: StubServer) -> None:
    for lines, fields in [
        (20, {"output": 1}),
        (21, {"output": 1}),
        (21, {"variables": VARIABLES}),
        (3000, {}),
    ]:
        stub.stored(stub.add("succeeded", **fields), *[f"line {n}" for n in range(lines)])
    stub.stored(stub.add("canceled"), "a line")
    show(page, stub)
    page.wait_for_function("views.every(({ feed }) => feed.loaded)")
    folds = page.get_by_role("button", name="Log", exact=True)
    expect(folds).to_have_count(5)
    for place, is_open in enumerate(["true", "false", "true", "true", "true"]):
        expect(folds.nth(place)).to_have_attribute("aria-expanded", is_open)


def test_failed_marks_the_cells_own_line_and_folds_libraries(page: Page, stub: StubServer) -> None:
    stub.add("failed", error={"ename": "ValueError", "evalue": "Expected 128, got 96.", "traceback": TRACE})
    view = show(page, stub)
    expect(view.locator(".zb-exc")).to_have_text("ValueError: Expected 128, got 96.")
    marked = view.locator(".zb-frame [aria-current=true]").first
    expect(marked).to_contain_text("7    loss = F.cross_entropy(logits, yb)")
    expect(view.get_by_text("This cell, line 7")).to_be_visible()
    expect(view.get_by_text("1 frame in torch")).to_be_visible()
    expect(view.get_by_text("return _C._nn.cross_entropy_loss(")).to_be_hidden()
    expect(view.get_by_role("button", name="Retry")).to_have_class("zb-btn zb-btn-main")
    assert view.inner_text().count("Expected 128, got 96.") == 1


def test_failed_folds_lines_of_libraries_however_high_their_numbers(page: Page, stub: StubServer) -> None:
    # The arrow of IPython has the room that the number leaves: seven places in all.
    frames = [
        f"File /env/lib/python3.11/site-packages/pandas/core/frame.py:{at}, in DataFrame.groupby(self)\n"
        f"{at - 1:>7} a = 1\n{arrow}{at} return DataFrameGroupBy(self)"
        for arrow, at in [("-> ", 9_999), ("> ", 13_788), (">", 137_880), ("", 1_378_800)]
    ]
    trace = ["Cell In[3], line 7\n----> 7 df.groupby('missing')", *frames, "KeyError: 'missing'"]
    stub.add("failed", error={"ename": "KeyError", "evalue": "'missing'", "traceback": trace})
    show(page, stub)
    folds = page.locator(".zb-trace details")
    expect(folds).to_have_count(1)
    expect(folds.locator("summary")).to_have_text("4 frames in pandas")
    expect(folds.locator("[aria-current]")).to_have_count(4)
    expect(page.locator(".zb-raw")).to_have_count(0)


def test_failed_reads_a_plain_python_traceback(page: Page, stub: StubServer) -> None:
    text = (
        'Traceback (most recent call last):\n  File "<cell>", line 2, in <module>\n    open("nope")\n'
        "    ~~~~^^^^^^^^\nFileNotFoundError: nope"
    )
    stub.add("failed", error={"ename": "FileNotFoundError", "evalue": "nope", "traceback": text.splitlines()})
    view = show(page, stub)
    expect(view.get_by_text("This cell, line 2")).to_be_visible()
    expect(view.locator(".zb-frame [aria-current=true]")).to_contain_text('open("nope")')


def test_failed_command_says_its_reason(page: Page, stub: StubServer) -> None:
    stub.add("failed", reason="Exit code 2", exit_code=2, spec={"name": "make data"})
    view = show(page, stub)
    expect(view.locator(".zb-exc")).to_have_text("Exit code 2")
    expect(view.locator(".zb-foot")).to_contain_text("Exit code2")


def test_failed_says_its_reason_beside_the_error_if_it_says_more(page: Page, stub: StubServer) -> None:
    told = [
        ("no room", "MemoryError: no room (its memory had reached 15.9 GB)."),
        ("", "MemoryError (its memory had reached 15.9 GB)."),
        ("no room", "The worker was stopped."),
    ]
    known = [("no room\nof two lines", "MemoryError: no room."), ("", "MemoryError:")]
    for evalue, reason in told + known:
        stub.add("failed", reason=reason, error={"ename": "MemoryError", "evalue": evalue, "traceback": []})
    show(page, stub)
    expect(page.locator(".zb-exc")).to_have_count(len(told + known))
    expect(page.locator(".zb-why")).to_have_text([reason for _, reason in told])


def test_canceled_says_by_whom_when_and_what_is_kept(page: Page, stub: StubServer) -> None:
    job = stub.add("canceled", canceled_by="ada")
    stub.stored(job, "a line")
    view = show(page, stub)
    expect(view.get_by_role("note")).to_contain_text("Canceled by ada. It ended at")
    expect(view.get_by_role("note")).to_contain_text("its processes are gone. The log is kept.")
    expect(view.get_by_role("button", name="Run again")).to_be_visible()


def test_parameters_and_environment_unfold_and_stay_so(page: Page, stub: StubServer) -> None:
    spec = {
        "code": "for epoch in range(3):\n    fit(epoch)",
        "input": {"lr": 0.1},
        "inputs": {"frame": "0" * 64, "cell": "1" * 64, "2" * 64: "2" * 64},
        "env": {"OMP_NUM_THREADS": "***"},
        "cwd": "/home/ada",
        "tags": {"run": "7", "zbrain.notebook": "train.ipynb", "zbrain.print": "3" * 64},
    }
    job = stub.add("running", spec=spec)
    view = show(page, stub)
    view.get_by_text("Parameters and environment").focus()
    page.keyboard.press("Enter")
    shown = view.locator(".zb-params dl")
    expect(shown).to_contain_text("for epoch in range(3):")
    for term, text in {
        "Input": '"lr": 0.1',
        "Input files": "frame",
        "Notebook": "train.ipynb",
        "Environment": "OMP_NUM_THREADS (the values are not shown)",
        "Folder": "/home/ada",
        "Tags": "run=7",
        "Id": job,
    }.items():
        row = shown.locator("div").filter(has=page.get_by_text(term, exact=True))
        expect(row.locator("dd")).to_contain_text(text)
    expect(shown).not_to_contain_text("zbrain.")
    expect(shown).not_to_contain_text("cell")
    stub.emit("job_completed", job, {"state": "succeeded", "finished_at": utc(), "exit_code": 0})
    expect(view).to_have_attribute("data-face", "succeeded")
    expect(shown).to_be_visible()


def test_collapsed_is_one_line_that_says_the_error(page: Page, stub: StubServer) -> None:
    stub.add("failed", error={"ename": "ValueError", "evalue": "no", "traceback": TRACE})
    view = show(page, stub, opened=False)
    expect(view.locator(".zb-note")).to_have_text("ValueError: no")
    assert view.bounding_box()["height"] == 38  # type: ignore[index]
    expect(view.locator(".zb-exc")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 600, 1180])
def test_no_width_makes_the_page_scroll_sideways(page: Page, stub: StubServer, theme: str, width: int) -> None:
    job = stub.add(
        "succeeded",
        variables=[{"name": "m" * 80, "type": "t" * 200, "summary": "", "sha256": "0" * 64, "size": 1}],
        artifacts=[{"name": "a" * 120, "sha256": "0" * 64, "size": 5}],
        spec={"name": "n" * 200},
    )
    stub.stored(job, "x" * 3000)
    stub.add(progress={"fraction": 0.5, "note": "w" * 200}, spec={"name": "n" * 200})
    page.set_viewport_size({"width": width, "height": 800})
    show(page, stub, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


# ---- live


def test_events_move_the_job_through_its_states_and_are_spoken(page: Page, stub: StubServer) -> None:
    job = stub.add("pending")
    view = show(page, stub)
    stub.emit("job_started", job, {"state": "running", "attempt": 1, "started_at": utc(), "worker_id": "gpu-a"})
    expect(view).to_have_attribute("data-face", "running")
    expect(view.get_by_role("status")).to_have_text("train-resnet: Running")
    stub.emit("job_progressed", job, {"progress": {"fraction": 0.25, "note": "step 1"}})
    expect(view.locator(".zb-pct")).to_have_text("25%")
    stub.log(job, "hello")
    expect(last_row(view)).to_have_text("hello")
    stub.emit("job_completed", job, {"state": "succeeded", "finished_at": utc(), "output": 42, "exit_code": 0})
    expect(view.get_by_role("group", name="Value")).to_have_text("42")
    expect(view.get_by_role("status")).to_have_text("train-resnet: Succeeded")
    page.wait_for_function("views[0].feed.connection === 'live'")
    assert stub._do(lambda: len(stub.sockets)) == 0


def test_cancel_asks_nothing_and_reads_canceling_until_it_is_gone(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = show(page, stub)
    view.get_by_role("button", name="Cancel").click()
    expect(view.get_by_role("button", name="Canceling…")).to_be_disabled()
    expect(view.locator(".zb-note")).to_contain_text("cancel asked")
    assert stub.posts == ["cancel a-token"]
    stub.emit("job_canceled", job, {"state": "canceled", "finished_at": utc(), "canceled_by": "you"})
    expect(view.get_by_role("button", name="Run again")).to_be_visible()


def test_cancel_of_a_job_that_has_just_ended_keeps_its_last_lines_and_value(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, "before")
    view = show(page, stub)
    expect(last_row(view)).to_have_text("before")
    end = {"state": "succeeded", "finished_at": utc(), "event_seq": 9_000}

    def late(route: Route) -> None:  # the server has the end, the events are not here yet
        stub.stored(job, "the last line")
        stub.outputs[job].append({**plot("42"), "output_type": "execute_result"})
        stub.jobs[job].update(end)
        route.fulfill(json={"result": "already_finished", "job": stub.jobs[job]})

    page.route("**/cancel", late)
    view.get_by_role("button", name="Cancel").click()
    expect(view.locator(".zb-word")).to_have_text("Succeeded")
    expect(view.get_by_role("group", name="Value of")).to_contain_text("42")
    expect(last_row(view)).to_have_text("the last line")


def test_cancel_that_is_refused_says_so_and_gives_the_button_back(page: Page, stub: StubServer) -> None:
    stub.add()
    stub.answer_posts = False
    view = show(page, stub)
    view.get_by_role("button", name="Cancel").click()
    expect(view.get_by_role("note")).to_have_text("The job was not canceled: The stub says 409.")
    expect(view.get_by_role("button", name="Cancel")).to_be_enabled()


def test_retry_follows_the_new_job(page: Page, stub: StubServer) -> None:
    old = stub.add("failed", reason="No luck")
    stub.stored(old, "old line")
    view = show(page, stub)
    view.get_by_role("button", name="Retry").click()
    expect(view.locator(".zb-word")).to_have_text("Pending")
    expect(view.get_by_role("note")).to_contain_text("the old one stays in the history.")
    expect(view.get_by_text("old line")).to_have_count(0)
    new = next(job for job in stub.jobs.values() if job["retry_of"] == old)["id"]
    page.wait_for_function("id => views[0].feed.job.id === id && views[0].feed.loaded", arg=new)
    stub.emit("job_started", new, {"state": "running", "attempt": 1, "started_at": utc(), "worker_id": "w"})
    expect(view).to_have_attribute("data-face", "running")


def test_lines_and_patches_that_come_twice_count_once(page: Page, stub: StubServer) -> None:
    job = stub.add(progress={"fraction": 0.1, "note": "old"})
    view = show(page, stub)
    stub.emit("job_progressed", job, {"progress": {"fraction": 0.2, "note": "first"}})
    stub.emit("job_progressed", job, {"progress": {"fraction": 0.3, "note": "second"}})
    stub.log(job, "a", "b", stream="stderr")
    expect(last_row(view)).to_have_text("b")
    old_patch, _, lines = stub.events
    stub.raw(lines)
    stub.raw(old_patch)
    stub.log(job, "c")
    expect(last_row(view)).to_have_text("c")
    expect(rows(view)).to_have_count(3)
    expect(view.locator(".zb-logbar")).to_contain_text("3 lines, 2 on stderr")
    expect(view.locator(".zb-note")).to_have_text("second")


def test_what_happens_between_socket_and_load_is_neither_lost_nor_doubled(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, "before")
    stub.outputs[job].append({"output_type": "display_data", "data": {"text/plain": "plot 0"}, "metadata": {}})

    def meanwhile(part: str | None) -> None:
        text = "plot 1" if part == "outputs" else "plot 2"
        output = {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}
        stub._emit("job_displayed", job, {"outputs": [output]})
        if part is None:
            stub.while_loading = None
            stub._emit("job_logged", job, {"entries": stub.lines(job, ["during"])})
            stub._emit("job_progressed", job, {"progress": {"fraction": 0.5, "note": "half"}})

    stub.while_loading = meanwhile
    view = show(page, stub)
    expect(view.locator(".zb-note")).to_have_text("half")
    expect(rows(view)).to_have_count(2)
    expect(last_row(view)).to_have_text("during")
    expect(view.locator(".zb-output")).to_have_text(["plot 0", "plot 1", "plot 2"])


def test_outputs_of_a_job_that_ends_while_it_is_loaded_are_whole(page: Page, stub: StubServer) -> None:
    job = stub.add()

    def end(route: Route) -> None:
        stub.emit("job_displayed", job, {"outputs": [plot("the last one")]})
        stub.emit("job_completed", job, {"state": "succeeded", "finished_at": utc()})
        route.continue_()

    page.route(f"**/jobs/{job}", end, times=1)  # asked for behind the outputs
    view = show(page, stub)
    expect(view.locator(".zb-output")).to_have_text(["the last one"])
    assert stub.opened == []


def test_outputs_of_an_attempt_that_begins_while_it_is_loaded_are_its_own(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.outputs[job].append(plot("of the first"))

    def begin(attempt: int, text: str) -> None:
        stub.emit("job_started", job, {"state": "running", "attempt": attempt})
        stub.outputs[job].clear()
        stub.emit("job_displayed", job, {"outputs": [plot(text)]})

    def second(route: Route) -> None:
        begin(2, "of the second")
        page.route(f"**/jobs/{job}/outputs", third, times=1)
        route.continue_()

    def third(route: Route) -> None:
        begin(3, "of the third")
        route.continue_()

    page.route(f"**/jobs/{job}", second, times=1)
    view = show(page, stub)
    page.wait_for_function("views[0].feed.job.attempt === 3")
    expect(view.locator(".zb-output")).to_have_text(["of the third"])


def test_a_lost_connection_keeps_everything_and_resumes_without_gap(page: Page, stub: StubServer) -> None:
    job = stub.add(progress={"fraction": 0.5, "note": "half"})
    view = show(page, stub)
    stub.log(job, "seen")
    expect(last_row(view)).to_have_text("seen")
    stub.cut()
    expect(view).to_have_attribute("data-face", "reconnecting")
    expect(view.locator(".zb-bar-quiet")).to_be_visible()
    expect(view.get_by_role("note")).to_contain_text("The job goes on")
    expect(last_row(view)).to_have_text("seen")
    stub.log(job, "missed")
    stub.down = False
    view.get_by_role("button", name="Try now").click()
    expect(view).to_have_attribute("data-face", "running")
    expect(rows(view).locator(".zb-ln")).to_have_text(["seen", "missed"])
    assert "after=" in stub.opened[-1]
    expect(view.get_by_role("note")).to_have_count(0)


def test_a_lost_connection_comes_back_by_itself(page: Page, stub: StubServer) -> None:
    stub.add()
    view = show(page, stub)
    stub.cut()
    expect(view).to_have_attribute("data-face", "reconnecting")
    stub.down = False
    expect(view).to_have_attribute("data-face", "running")


def test_reset_loads_everything_again(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = show(page, stub)
    stub.jobs[job].update(progress={"fraction": 0.9, "note": "told to nobody"})
    stub.raw({"seq": 9000, "kind": "reset", "topic": f"jobs/{job}", "data": {}})
    expect(view.locator(".zb-note")).to_have_text("told to nobody")
    stub.log(job, "still live")
    expect(last_row(view)).to_have_text("still live")


def test_an_unknown_job_shows_what_the_notebook_saved(page: Page, stub: StubServer) -> None:
    job = stub.add("succeeded")
    saved = {"output": 7, "finished_at": utc(-60), "started_at": utc(-80), "attempt": 1}
    log = [{"seq": 40, "attempt": 1, "stream": "stdout", "ts": 0, "line": "from the notebook"}]
    stub.saved[0].update(job=saved, log=log)
    del stub.jobs[job]
    view = show(page, stub)
    expect(view.get_by_role("note")).to_contain_text("The server does not know this job.")
    expect(view.locator(".zb-word")).to_have_text("Succeeded")
    expect(view.get_by_role("group", name="Value")).to_have_text("7")
    expect(view.get_by_role("button", name="Run again")).to_have_count(0)
    view.get_by_role("button", name="Log").click()
    expect(last_row(view)).to_have_text("from the notebook")
    expect(rows(view).locator(".zb-no")).to_have_text("41")


def test_a_server_that_never_answers_leaves_what_the_notebook_saved(page: Page, stub: StubServer) -> None:
    stub.add("running")
    page.route("**/zbrain/api/**", lambda route: route.abort())
    view = show(page, stub)
    expect(view.get_by_role("note")).to_contain_text("What the notebook saved is shown.")
    expect(view).to_have_attribute("data-face", "reconnecting")
    expect(view.locator(".zb-name")).to_have_text("train-resnet")


# ---- hostile and rich data


def test_hostile_strings_are_text_everywhere(page: Page, stub: StubServer) -> None:
    evil: dict[str, Any] = {"name": HOSTILE, "type": HOSTILE, "summary": HOSTILE, "sha256": "0" * 64, "size": 1}
    error = {"ename": HOSTILE, "evalue": HOSTILE, "traceback": [f"Cell In[1], line 1\n----> 1 {HOSTILE}", HOSTILE]}
    failed = stub.add(
        "failed",
        spec={"name": HOSTILE, "worker": HOSTILE},
        error=error,
        reason=HOSTILE,
        worker_id=HOSTILE,
        variables=[evil],
        artifacts=[{"name": HOSTILE, "sha256": "0" * 64, "size": 1}],
    )
    stub.stored(failed, HOSTILE, f"\x1b[31m{HOSTILE}\x1b[0m \x1b]0;title\x07\x1b[2J", stream="stderr")
    stub.outputs[failed].append({"output_type": "display_data", "data": {"text/plain": HOSTILE}, "metadata": {}})
    stub.add("pending", reason=HOSTILE)
    stub.add("canceled", canceled_by=HOSTILE)
    stub.add(progress={"fraction": 0.5, "note": HOSTILE})
    stub.add("succeeded", output=HOSTILE)
    show(page, stub)
    page.wait_for_function("views.every(({ feed }) => feed.connection === 'live')")
    expect(page.locator(".zb-ln").first).to_have_text(HOSTILE)
    expect(page.locator(".zb-ln").nth(1)).to_have_text(f"{HOSTILE} ")
    assert page.locator(".zb script, .zb img").count() == 0
    assert page.evaluate("window.pwned") is None


def test_a_name_cannot_hide_its_direction_marks(page: Page, stub: StubServer) -> None:
    stub.add(spec={"name": "safe\u202egnp.exe"})
    expect(show(page, stub).locator(".zb-name")).to_have_text("safe⟨U+202E⟩gnp.exe")


def test_html_without_jupyters_renderers_is_caged(page: Page, stub: StubServer) -> None:
    job = stub.add()
    source = "<p id=shown>a table</p><script>try { parent.pwned = 1 } catch { }</script>"
    stub.outputs[job].append({"output_type": "display_data", "data": {"text/html": [source]}, "metadata": {}})
    view = show(page, stub)
    expect(view.frame_locator("iframe").locator("#shown")).to_have_text("a table")
    expect(view.locator("iframe")).to_have_attribute("sandbox", "allow-scripts")
    assert page.evaluate("window.pwned") is None


def test_many_outputs_show_the_newest_and_say_how_many_came_before(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = show(page, stub)
    outputs = [{"output_type": "display_data", "data": {"text/plain": f"{n}"}, "metadata": {}} for n in range(150)]
    stub.emit("job_displayed", job, {"outputs": outputs})
    shown = view.locator(".zb-output")
    expect(shown).to_have_count(100)
    expect(shown.first).to_have_text("50")
    view.get_by_role("button", name="Show 50 earlier outputs").click()
    expect(shown).to_have_count(150)
    expect(shown.first).to_have_text("0")
    expect(view.get_by_role("button", name="earlier output")).to_have_count(0)


def test_displays_are_updated_and_cleared_in_place(page: Page, stub: StubServer) -> None:
    def shown(kind: str, text: str, **more: Any) -> dict[str, Any]:
        return {"output_type": kind, "data": {"text/plain": text}, "metadata": {}, **more}

    job = stub.add()
    view = show(page, stub)
    outputs = view.locator(".zb-output")
    named = {"transient": {"display_id": "d1"}}
    stub.emit("job_displayed", job, {"outputs": [shown("display_data", "one", **named), shown("display_data", "two")]})
    expect(outputs).to_have_text(["one", "two"])
    page.evaluate("document.querySelectorAll('.zb-output')[1].dataset.kept = 'yes'")
    stub.emit("job_displayed", job, {"outputs": [shown("update_display_data", "one, better", **named)]})
    expect(outputs).to_have_text(["one, better", "two"])
    expect(outputs.nth(1)).to_have_attribute("data-kept", "yes")
    stub.emit("job_displayed", job, {"outputs": [{"output_type": "clear_output", "wait": True}]})
    stub.log(job, "after the clear")
    expect(last_row(view)).to_have_text("after the clear")
    expect(outputs).to_have_count(2)
    stub.emit("job_displayed", job, {"outputs": [shown("display_data", "three")]})
    expect(outputs).to_have_text(["three"])


def test_a_new_attempt_begins_without_the_outputs_of_the_last(page: Page, stub: StubServer) -> None:
    job = stub.add(spec={"max_retries": 1})
    stub.outputs[job].append({"output_type": "display_data", "data": {"text/plain": "old"}, "metadata": {}})
    view = show(page, stub)
    expect(view.locator(".zb-output")).to_have_text("old")
    stub.emit("job_leased", job, {"state": "running", "attempt": 2, "started_at": utc()})
    expect(view.locator(".zb-output")).to_have_count(0)


def test_the_value_stands_apart_from_what_was_displayed(page: Page, stub: StubServer) -> None:
    job = stub.add("succeeded", output="text form")
    for kind, text in (("display_data", "a plot"), ("execute_result", "a frame")):
        stub.outputs[job].append({"output_type": kind, "data": {"text/plain": text}, "metadata": {}})
    view = show(page, stub)
    expect(view.get_by_role("group", name="Outputs of")).to_have_text("a plot")
    expect(view.get_by_role("group", name="Value of")).to_have_text("a frame")
    expect(view.get_by_text("text form")).to_have_count(0)
    expect(view.locator(".zb-note")).to_have_text("value")


# ---- log


def test_colours_become_classes_and_other_escapes_vanish(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, "\x1b[1;31mred\x1b[22m thin\x1b[39m plain \x1b[38;5;208morange\x1b[38;2;1;2;3mtrue\x1b[0m\x1b[Kx")
    row = rows(show(page, stub)).first.locator(".zb-ln")
    expect(row).to_have_text("red thin plain orangetruex")
    expect(row.locator("span").nth(0)).to_have_class("zb-a1 zb-a31")
    expect(row.locator("span").nth(1)).to_have_class("zb-a31")
    expect(row.locator(".zb-ax")).to_have_text(["orange", "true"])


def test_follow_stays_at_the_tail_until_one_scrolls_up(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *[f"line {i}" for i in range(200)])
    view = show(page, stub)
    follow = view.get_by_role("button", name="Follow")
    log = view.get_by_role("log")
    expect(follow).to_have_attribute("aria-pressed", "true")
    expect(last_row(view)).to_have_text("line 199")
    log.evaluate("el => el.scrollBy(0, -1000)")
    expect(follow).to_have_attribute("aria-pressed", "false")
    top = log.evaluate("el => el.scrollTop")
    stub.log(job, "a new one")
    expect(view.locator(".zb-logbar")).to_contain_text("201 lines")
    assert log.evaluate("el => el.scrollTop") == top
    follow.click()
    expect(last_row(view)).to_have_text("a new one")
    stub.log(job, "another")
    expect(last_row(view)).to_be_in_viewport()
    expect(last_row(view)).to_have_text("another")


def test_rules_stand_between_attempts(page: Page, stub: StubServer) -> None:
    job = stub.add(attempt=2, spec={"max_retries": 1})
    stub.stored(job, "first try")
    stub.stored(job, "second try", attempt=2)
    expect(rows(show(page, stub))).to_have_text(["Attempt 1", "1first try", "Attempt 2", "2second try"])


def test_a_hundred_thousand_lines_load_only_what_is_looked_at(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *[f"line number {i}" for i in range(100_000)])
    stub.logs[job][41_234]["line"] = "the needle"
    stub.logs[job][70_000]["stream"] = "stderr"
    view = show(page, stub)
    log = view.get_by_role("log")
    expect(last_row(view)).to_have_text("line number 99999")
    assert sum("/logs" in uri for uri in stub.gets) <= 2
    log.focus()
    page.keyboard.press("Home")
    expect(rows(view).first.locator(".zb-ln")).to_have_text("line number 0")
    assert rows(view).count() < 80
    log.evaluate("el => { el.scrollTop = 50_000 * 18 }")
    expect(view.get_by_text("line number 50000", exact=True)).to_be_visible()
    assert sum("/logs" in uri for uri in stub.gets) <= 6
    view.get_by_role("searchbox").fill("NEEDLE")
    expect(view.locator("[data-hit] mark")).to_have_text("needle")
    expect(view.locator("[data-hit]")).to_be_in_viewport()
    expect(view.locator(".zb-logbar")).to_contain_text("1 of 1")
    view.get_by_role("searchbox").fill("")
    view.get_by_role("button", name="stderr only").click()
    expect(rows(view)).to_have_text(["70,001errline number 70000"])


def test_a_log_higher_than_a_page_can_be_is_reached_from_end_to_end(page: Page, stub: StubServer) -> None:
    job = stub.add("failed", reason="Exit code 3")
    stub.logs[job] = LongLog(1_000_000, error_at=5000)
    view = show(page, stub)
    log = view.get_by_role("log")
    expect(last_row(view)).to_have_text("line number 999999")
    log.focus()
    page.keyboard.press("Home")
    expect(rows(view).first.locator(".zb-ln")).to_have_text("line number 0")
    view.get_by_role("button", name="First error").click()
    expect(view.locator("[data-mark]")).to_be_in_viewport()
    expect(view.locator("[data-mark] .zb-no")).to_have_text("5,001")
    log.focus()
    page.keyboard.press("End")
    expect(last_row(view)).to_have_text("line number 999999")
    expect(last_row(view)).to_be_in_viewport()


def test_a_jump_in_the_log_outlasts_a_scroll_that_was_under_way(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *[f"line {i}" for i in range(400)])
    stub.stored(job, "Traceback (most recent call last):", stream="stderr")
    stub.stored(job, *[f"line {i}" for i in range(400)])
    view = show(page, stub)
    expect(last_row(view)).to_have_text("line 399")
    # The event of this scroll comes with the next frame.
    scroll_and_press = """(log, name) => {
      log.scrollTop = 0;
      [...document.querySelectorAll('button')].find((each) => each.textContent === name).click();
    }"""
    log = view.get_by_role("log")
    log.evaluate(scroll_and_press, "First error")
    expect(view.locator("[data-mark]")).to_be_in_viewport()
    log.evaluate(scroll_and_press, "Follow")
    expect(last_row(view)).to_have_text("line 399")
    expect(view.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "true")


def test_a_view_opened_in_a_flood_does_not_wait_for_its_end(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, "before")

    def pour(part: str | None) -> None:
        if part is None:
            stub._emit("job_logged", job, {"entries": stub.lines(job, [f"{len(stub.gets)} {i}" for i in range(1000)])})

    stub.while_loading = pour
    page.goto(stub.url())
    page.wait_for_function("window.views?.[0].feed.connection === 'live'")
    assert sum("/logs" in uri for uri in stub.gets) == 1
    expect(page.locator(".zb-logbar")).to_contain_text("1,001 lines")
    expect(page.locator(".zb-ln").first).to_be_visible()


def test_log_of_a_view_that_is_put_elsewhere_in_the_page_is_still_seen(page: Page, stub: StubServer) -> None:
    job = stub.add("failed", error={"ename": "KeyError", "evalue": "'x'", "traceback": []})
    stub.stored(job, *[f"line {i}" for i in range(95)])
    view = show(page, stub)
    expect(last_row(view)).to_have_text("line 94")
    view.evaluate("view => { const { parentNode } = view; view.remove(); parentNode.append(view); }")
    expect(view.get_by_text("line 94", exact=True)).to_be_in_viewport()


def test_log_that_cannot_be_read_whole_is_not_saved_in_part(page: Page, stub: StubServer) -> None:
    job = stub.add("failed", reason="Exit code 3")
    stub.logs[job] = LongLog(50_000, error_at=5000)
    view = show(page, stub)
    expect(last_row(view)).to_have_text("line number 49999")
    stub.down = True
    view.get_by_role("button", name="Download the whole log").click()
    expect(view.get_by_role("note")).to_contain_text("The log could not be read: The stub says 503.")
    view.get_by_role("searchbox").fill("number 7")
    expect(view.locator(".zb-logbar")).to_contain_text("no match, searched up to line 0")


def test_a_flood_of_lines_keeps_frames_short_and_the_page_small(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = show(page, stub)
    page.evaluate(
        """() => { window.frames_ = []; let last = performance.now();
        const step = (now) => { frames_.push(now - last); last = now; window.beat = requestAnimationFrame(step); };
        requestAnimationFrame(step); }"""
    )
    for start in range(0, 120_000, 2000):
        stub.log(job, *[f"\x1b[32mstep\x1b[0m {i}" for i in range(start, start + 2000)])
    expect(view.locator(".zb-logbar")).to_contain_text("120,000 lines")
    expect(last_row(view)).to_have_text("step 119999")
    frames = sorted(page.evaluate("frames_"))
    assert frames[len(frames) // 2] < 40, "half of the frames take longer than 40 ms"
    assert frames[-1] < 500, f"a frame took {frames[-1]:.0f} ms"
    assert page.locator(".zb-row").count() < 80
    assert page.evaluate("document.querySelectorAll('.zb *').length") < 1000


def test_search_steps_through_hits_with_enter(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *[f"{'hit' if i % 50 == 0 else 'no'} {i}" for i in range(200)])
    view = show(page, stub)
    box = view.get_by_role("searchbox")
    box.fill("hit")
    expect(view.locator("[data-hit] .zb-ln")).to_have_text("hit 0")
    box.press("Enter")
    expect(view.locator("[data-hit] .zb-ln")).to_have_text("hit 50")
    box.press("Shift+Enter")
    box.press("Shift+Enter")
    expect(view.locator("[data-hit] .zb-ln")).to_have_text("hit 150")
    box.press("Escape")
    expect(box).to_have_value("")
    expect(view.locator(".zb-logbar")).to_contain_text("200 lines")


def test_search_asks_the_server_about_lines_that_are_not_here(page: Page, stub: StubServer) -> None:
    job = stub.add("failed")
    stub.logs[job] = LongLog(100_000, error_at=5000)
    view = show(page, stub)
    stub.gets.clear()
    box = view.get_by_role("searchbox")
    box.fill("NUMBER 70123")  # which the server finds in its fourth page
    expect(view.locator("[data-hit] .zb-ln")).to_have_text("line number 70123")
    expect(view.locator(".zb-logbar")).to_contain_text("1 of 1")
    asked = [uri for uri in stub.gets if "/logs?" in uri]
    assert len([uri for uri in asked if "q=number%2070123" in uri]) == 5
    assert len(asked) <= 6  # and the page of lines that is looked at


def test_search_for_what_is_everywhere_goes_on_when_one_comes_near_its_end(page: Page, stub: StubServer) -> None:
    job = stub.add("failed")
    stub.logs[job] = LongLog(100_000, error_at=5000)
    view = show(page, stub)
    box = view.get_by_role("searchbox")
    box.fill("line")
    expect(view.locator(".zb-logbar")).to_contain_text("1 of 10,100+")
    box.press("Shift+Enter")
    expect(view.locator(".zb-logbar")).to_contain_text("10,100 of 20,100+")


def test_large_input_is_looked_at_once_however_often_the_job_changes(page: Page, stub: StubServer) -> None:
    job = stub.add(spec={"code": "train()", "input": {"rate": 0.5}})
    view = show(page, stub)
    expect(view.locator(".zb-params")).to_contain_text("rate")
    page.evaluate(
        "Object.defineProperty(views[0].feed.job.spec, 'input', { get() { throw new Error('looked at again'); } })"
    )
    for done in range(1, 4):
        stub.emit("job_progressed", job, {"progress": {"fraction": done / 10, "note": f"step {done}"}})
        expect(view.locator(".zb-note")).to_have_text(f"step {done}")
    expect(view.locator(".zb-params")).to_contain_text("rate")


def test_outputs_that_the_notebook_left_out_are_said_until_the_server_shows_them(page: Page, stub: StubServer) -> None:
    job = stub.add("succeeded")
    last = {"output_type": "display_data", "data": {"text/plain": "the last plot"}, "metadata": {}}
    stub.saved[0].update(outputs=[last], outputs_left_out=3)
    said = "The first 3 outputs were too large for the notebook, and are kept with the job: open it in zbrain."
    stub.outputs[job] = [last] * 4
    view = show(page, stub)
    expect(view.locator(".zb-output")).to_have_count(4)
    expect(view.get_by_text(said)).to_have_count(0)
    del stub.jobs[job]
    view = show(page, stub)
    expect(view.locator(".zb-output")).to_have_text("the last plot")
    expect(view.get_by_text(said)).to_be_visible()


def test_page_says_what_it_leaves_out_of_the_notebook(page: Page, stub: StubServer) -> None:
    job = stub.add("succeeded")
    stub.outputs[job] = [
        {"output_type": "display_data", "data": {"text/plain": f"{n}" * 1_500_000}, "metadata": {}} for n in range(3)
    ]
    show(page, stub)
    kept = page.evaluate("import('/view/index.js').then(({ bundleOf }) => bundleOf(views[0].feed))")
    saved = kept["application/vnd.zbrain.job+json"]
    assert (len(saved["outputs"]), saved["outputs_left_out"]) == (2, 1)
    assert "The first output was too large for the notebook, and is kept with the job" in kept["text/html"]


def test_page_saves_the_value_once_in_static_html(page: Page, stub: StubServer) -> None:
    shown = stub.add("succeeded", output="the value")
    stub.outputs[shown].append({**plot("the value"), "output_type": "execute_result"})
    stub.add("succeeded", output="the value")
    show(page, stub)
    page.wait_for_function("views.every(({ feed }) => feed.loaded)")
    saved = "import('/view/index.js').then(({ bundleOf }) => views.map(({ feed }) => bundleOf(feed)['text/html']))"
    assert [html.count("the value") for html in page.evaluate(saved)] == [1, 1]


def test_the_whole_log_can_be_copied_and_saved(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *[f"\x1b[32mline\x1b[0m {i}" for i in range(3000)])
    view = show(page, stub)
    with page.expect_download() as download:
        view.get_by_role("button", name="Download the whole log").click()
    text = download.value.path().read_text()
    assert text.splitlines() == [f"line {i}" for i in range(3000)]
    view.get_by_role("button", name="Copy the whole log").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).endsWith('line 2999\\n')")


# ---- access


def test_everything_is_reached_by_keyboard(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *[f"line {i}" for i in range(100)])
    stub.stored(job, "oops", stream="stderr")
    view = show(page, stub)
    expect(last_row(view)).to_have_text("oops")
    names = []
    for _ in range(10):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))
    assert names == [
        "train-resnet, Running: details",
        "Cancel",
        "More for train-resnet",
        "Log",
        "Find in log",
        "stderr only",
        "Follow",
        "Show more lines at once",
        "Copy the whole log",
        "Download the whole log",
    ]


def test_twist_and_menu_answer_the_keyboard(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = show(page, stub)
    twist = view.locator(".zb-twist").first
    twist.focus()
    page.keyboard.press("Enter")
    expect(twist).to_have_attribute("aria-expanded", "false")
    expect(twist).to_be_focused()
    expect(view.locator(".zb-foot")).to_be_hidden()
    page.keyboard.press("Space")
    expect(view.locator(".zb-foot")).to_be_visible()
    view.get_by_role("button", name="More for").focus()
    page.keyboard.press("Enter")
    item = view.get_by_role("button", name='Copy client.job("…")')
    expect(item).to_be_visible()
    page.keyboard.press("Tab")
    expect(item).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_function('async id => (await navigator.clipboard.readText()) === `client.job("${id}")`', arg=job)
    page.keyboard.press("Escape")
    expect(item).to_be_hidden()
    expect(view.get_by_role("button", name="More for")).to_be_focused()


def test_a_rebuild_keeps_the_keyboards_place(page: Page, stub: StubServer) -> None:
    job = stub.add("pending")
    view = show(page, stub)
    view.get_by_role("button", name="More for").focus()
    stub.emit("job_started", job, {"state": "running", "attempt": 1, "started_at": utc(), "worker_id": "w"})
    expect(view).to_have_attribute("data-face", "running")
    expect(view.get_by_role("button", name="More for")).to_be_focused()


def test_the_log_is_no_live_region_and_motion_can_be_off(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, "x")
    view = show(page, stub)
    expect(view.get_by_role("log")).to_have_attribute("aria-live", "off")
    expect(view.get_by_role("status")).to_be_empty()
    assert view.locator(".zb-spin").evaluate("el => getComputedStyle(el).animationName") == "none"


def test_a_reader_in_the_log_keeps_it_open_when_the_job_ends(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *[f"line {i}" for i in range(100)])
    view = show(page, stub)
    expect(last_row(view)).to_have_text("line 99")
    view.get_by_role("log").focus()
    stub.emit("job_completed", job, {"state": "succeeded", "finished_at": utc()})
    expect(view).to_have_attribute("data-face", "succeeded")
    expect(view.get_by_role("log")).to_be_visible()
    expect(view.get_by_role("log")).to_be_focused()


def test_dispose_leaves_nothing_running(page: Page, stub: StubServer) -> None:
    job = stub.add()
    view = show(page, stub)
    page.evaluate("views[0].dispose(); views[0].feed.stop()")
    expect(view).to_be_empty()
    page.wait_for_function("views[0].feed.connection")
    stub.log(job, "to nobody")
    expect(view).to_be_empty()
