"""Every state and every button, in JupyterLab and Notebook 7 under a base URL: real server, kernel, host and worker.

Each front end has one server, one kernel and one page for all that is here. The last test stops the server, so it has
to stay the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect

import zbrain_nb
from tests.browser.conftest import fresh_page
from tests.browser.desk import SLOTS, Desk, draw_console, line, prepare, press, word
from tests.browser.test_notices import NOTIFICATIONS
from tests.jupyter import Lab
from zbrain_nb import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

SLOW = 30_000  # ms; the first job of a server waits for its worker


@pytest.fixture(scope="module", params=["lab", "notebook"])
def desk(request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("a desk")
    lab = Lab(folder / "notebooks", folder / "data", app=request.param, ZWORKER_CONCURRENCY=str(SLOTS))
    prepare(lab)
    with lab, fresh_page(browser) as page:
        page.add_init_script(NOTIFICATIONS)
        # JupyterLab's own, over everything: it saves by itself now and then, also while its server is dead
        lost = page.get_by_role("dialog", name=re.compile("Server Connection Error|File Save Error"))
        page.add_locator_handler(lost, lambda dialog: dialog.locator(".jp-Dialog-footer button").last.click())
        yield Desk(lab, page)


@pytest.fixture(scope="module")
def client(desk: Desk) -> Iterator[Client]:
    with zbrain_nb.connect(desk.lab.url, desk.lab.token) as client:
        yield client


@pytest.fixture(autouse=True)
def _free_slots(client: Client) -> Iterator[None]:
    """End what a test has left running, which others would wait for."""
    yield
    for state in ("pending", "running", "retrying"):
        for job in client.jobs(state=state):
            job.cancel()


def clipboard(page: Page) -> str:
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def job_id(view: Locator) -> str:
    """Return the id of the job that a view shows."""
    href = view.locator(".zb-menu a").first.get_attribute("href")  # in a menu that is shut
    assert href is not None
    return href.rsplit("/", 1)[1]


def test_running_job_is_followed_searched_copied_and_canceled(desk: Desk) -> None:
    page, view = desk.page, desk.run("train")
    expect(word(view)).to_have_text("Running", timeout=SLOW)
    bar = view.get_by_role("progressbar", name="Progress of train")
    expect(bar).to_have_attribute("aria-valuetext", "10%, epoch 1 of 10")
    expect(view.locator(".zb-logbar")).to_contain_text("121 lines, 1 on stderr")
    newest = line(view, "epoch 1 step 119 loss 0.0167")
    expect(newest).to_be_in_viewport()
    expect(newest.locator("span").first).to_have_text("loss")  # in its colour

    follow = view.get_by_role("button", name="Follow")
    expect(follow).to_have_attribute("aria-pressed", "true")
    view.get_by_role("log").hover()
    page.mouse.wheel(0, -900)
    expect(follow).to_have_attribute("aria-pressed", "false")
    find = view.get_by_role("searchbox", name="Find in log")
    find.fill("step  7")
    expect(view.locator("[data-hit]")).to_contain_text("step  7")
    find.fill("step  3")
    expect(view.locator("[data-hit]")).to_contain_text("step  30")
    find.press("Enter")
    expect(view.locator("[data-hit]")).to_contain_text("step  31")
    find.press("Shift+Enter")
    expect(view.locator("[data-hit]")).to_contain_text("step  30")
    find.press("Escape")
    expect(find).to_have_value("")
    press(view, "stderr only")
    expect(view.locator(".zb-row")).to_have_count(1)
    expect(view.locator(".zb-row")).to_have_text("102errthe learning rate is high")
    press(view, "stderr only")
    expect(newest).not_to_be_in_viewport()
    press(view, "Follow")
    expect(newest).to_be_in_viewport()
    height = view.get_by_role("log").bounding_box()
    press(view, "Show more lines at once")
    taller = view.get_by_role("log").bounding_box()
    assert height is not None and taller is not None and taller["height"] > height["height"]
    press(view, "Show more lines at once")
    press(view, "Copy the whole log")
    expect(view.get_by_role("button", name="Copy the whole log")).to_be_visible()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.split('\\n').length === 122)")
    with page.expect_download() as download:
        press(view, "Download the whole log")
    assert download.value.suggested_filename == "train.log"
    assert Path(download.value.path()).read_text() == clipboard(page)

    desk.open_gate("train")
    expect(view.locator(".zb-time")).to_contain_text("left")
    expect(bar).to_have_attribute("aria-valuetext", "50%, epoch 5 of 10")
    expect(line(view, "epoch 5")).to_be_in_viewport()
    expect(view.locator(".zb-foot")).to_contain_text(re.compile(r"Deadline1:00:00, at \d"))
    desk.draw("running", view)

    press(view, "More for train")
    expect(view.get_by_role("button", name="Detach")).to_be_hidden()  # nobody waits
    desk.draw("menu", view)
    press(view, re.compile("^Copy client.job"))
    expect(view.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == f'client.job("{job_id(view)}")'
    press(view, "Copy the id")
    page.wait_for_function("id => navigator.clipboard.readText().then((text) => text === id)", arg=job_id(view))
    page.keyboard.press("Escape")

    fold_and_unfold(view, "train, Running: details")
    press(view, "Cancel")
    expect(word(view)).to_have_text("Canceled")
    expect(view.get_by_role("note")).to_contain_text(
        re.compile("Canceled by .* its processes are gone. The log is kept.")
    )
    expect(view.get_by_role("log")).to_be_visible()  # it is all there is
    desk.draw("canceled", view)
    old = job_id(view)
    press(view, "Run again")
    expect(word(view)).to_have_text("Running")
    assert job_id(view) != old
    press(view, "Cancel")
    expect(word(view)).to_have_text("Canceled")


def fold_and_unfold(view: Locator, name: str) -> None:
    twist = view.get_by_role("button", name=name)
    twist.click()
    expect(view.locator(".zb-foot").first).to_be_hidden()
    expect(twist).to_have_attribute("aria-expanded", "false")
    twist.press("Enter")
    expect(view.locator(".zb-foot").first).to_be_visible()


def test_group_fills_the_slots_others_wait_and_say_for_what(desk: Desk) -> None:
    group = desk.run("sweep")
    squares = group.get_by_role("listbox", name="3 runs")
    expect(squares.locator("[data-state=running]")).to_have_count(3, timeout=SLOW)
    queued = desk.run("queued")
    expect(word(queued)).to_have_text("Pending")
    line = f"Next in line for a worker of kind local; all {SLOTS} slots are busy."
    expect(queued.get_by_role("note")).to_have_text(line)
    expect(queued.locator(".zb-where")).to_have_text("local")
    expect(queued.locator(".zb-time")).to_contain_text("waiting")
    evaluate = desk.run("evaluate")
    row = evaluate.get_by_role("list", name="Waits for").get_by_role("listitem")
    expect(row).to_have_text("PendingqueuedWaiting for a free worker of kind local.")
    link = row.get_by_role("link", name="queued")
    expect(link).to_have_attribute("href", f"{desk.lab.url}zbrain/jobs/{job_id(queued)}")
    desk.draw("pending", queued)
    desk.draw("waits-for", evaluate)
    press(evaluate, "Cancel")
    expect(word(evaluate)).to_have_text("Canceled")
    expect(evaluate.get_by_role("note")).to_contain_text("before it ran.")
    press(evaluate, "Run again")
    expect(word(evaluate)).to_have_text("Pending")
    expect(evaluate.get_by_role("note")).to_contain_text(
        "Waiting for the job 'queued' to end. A new job with the same code"
    )

    squares.locator("[data-place='0']").click()
    run = group.locator(".zb-run .zb-card")
    expect(word(run)).to_have_text("Running")
    squares.press("ArrowRight")
    expect(group.locator(".zb-picked")).to_have_text(re.compile("Run 2, lr=0.2, running, .*half of it"))
    squares.press("Enter")
    expect(word(run)).to_have_text("Running")
    desk.draw("group-running", group)
    squares.press("Enter")
    expect(run).to_have_count(0)

    desk.open_gate("sweep")
    expect(word(group)).to_have_text("Failed", timeout=SLOW)
    expect(group.locator(".zb-note").first).to_have_text("3 of 3 ended, 2 failed")
    expect(group.locator(".zb-counts")).to_have_text("1 succeeded2 failed")
    desk.draw("group-failed", group)
    expect(word(queued)).to_have_text("Succeeded")
    expect(word(evaluate)).to_have_text("Succeeded")
    expect(evaluate.get_by_text("Waits for", exact=True)).to_have_count(0)
    desk.open_gate("mended")
    high = group.locator(".zb-why-list li").filter(has_text="ValueError: lr is too high")
    high.get_by_role("button", name="Retry 1").click()
    expect(group.locator(".zb-counts")).to_have_text("2 succeeded1 failed", timeout=SLOW)
    expect(high).to_have_count(0)
    group.locator(".zb-head").get_by_role("button", name="Retry 1").click()
    expect(word(group)).to_have_text("Succeeded", timeout=SLOW)

    twist = group.get_by_role("button", name="sweep, Succeeded: details")
    twist.click()
    expect(squares).to_be_hidden()
    twist.click()
    expect(squares).to_be_visible()
    everything = desk.run("all")
    expect(word(everything)).to_have_text("Running", timeout=SLOW)
    press(everything, "Cancel all")
    expect(word(everything)).to_have_text("Canceled")


def test_retrying_says_when_and_why_and_cancel_ends_it_at_once(desk: Desk) -> None:
    view = desk.run("flaky")
    tries = view.get_by_role("list", name="Attempts").get_by_role("listitem")
    # Back-off grows, so that a later pause is long enough to be seen on any machine.
    expect(word(view)).to_have_text(re.compile(r"Retrying [4-9] of 13"), timeout=SLOW)
    expect(view.locator(".zb-note").first).to_contain_text("starts in")
    expect(tries.first).to_contain_text(re.compile(r"Attempts 1 to \d\d failed"))
    expect(tries.nth(1)).to_contain_text("ConnectionError: the bucket does not answer")
    expect(tries.nth(2)).to_contain_text("Starts in")
    expect(tries.nth(3)).to_contain_text("If needed")
    expect(view.locator(".zb-rule").last).to_contain_text("Attempt")
    desk.draw("retrying", view)
    press(view, "Cancel")
    expect(word(view)).to_have_text("Canceled")


def test_failed_job_shows_its_line_jumps_to_its_error_and_is_retried(desk: Desk) -> None:
    view = desk.run("broken")
    expect(word(view)).to_have_text("Failed", timeout=SLOW)
    expect(view.locator(".zb-exc")).to_have_text("KeyError: 'labels'")
    expect(view.locator(".zb-frame [aria-current]")).to_contain_text('raise KeyError("labels")')
    expect(view.locator(".zb-frame [aria-current]")).to_contain_text("the line that failed")
    expect(view.get_by_role("table", name="Variables kept until the error")).to_contain_text("batch")
    expect(view.locator(".zb-foot")).to_contain_text("Exit code1")
    desk.draw("failed", view)
    mark = view.locator(".zb-row[data-mark]")
    expect(mark).to_have_count(0)  # far above what is seen
    first = view.get_by_role("button", name="First error")
    first.evaluate("button => button.scrollIntoView({ block: 'end' })")  # the window may end at it
    expect(view.get_by_role("log")).not_to_be_in_viewport()
    first.click()
    expect(mark).to_be_in_viewport()
    expect(mark).to_contain_text("Traceback (most recent call last):")
    fold_and_unfold(view, "broken, Failed: details")
    retry = view.get_by_role("button", name="Retry", exact=True)
    expect(retry).to_have_class(re.compile("zb-btn-main"))
    desk.open_gate("repaired")
    retry.click()
    expect(word(view)).to_have_text("Succeeded", timeout=SLOW)
    expect(view.get_by_role("group", name="Value")).to_contain_text("repaired")
    expect(view.locator(".zb-exc")).to_have_count(0)


def test_succeeded_job_shows_and_hands_out_what_it_kept(desk: Desk) -> None:
    page, view = desk.page, desk.run("keep")
    expect(word(view)).to_have_text("Succeeded", timeout=SLOW)
    expect(view.locator(".zb-note").first).to_have_text("value, 2 variables, 4 artifacts")
    expect(view.get_by_role("group", name="Value of keep")).to_contain_text("{'accuracy': 0.914}")
    figure = view.get_by_role("group", name="Outputs of keep").locator("img")
    figure.wait_for()
    assert figure.evaluate("image => image.naturalWidth") > 100

    kept = view.get_by_role("table", name="Variables kept with the job")
    kept.get_by_role("button", name='job.vars["model"]').click()
    expect(kept.get_by_text("Copied")).to_be_visible()
    assert clipboard(page) == 'job.vars["model"]'
    reference = f'job = client.job("{job_id(view)}")'
    press(view, f"Copy {reference}")
    page.wait_for_function("text => navigator.clipboard.readText().then((now) => now === text)", arg=reference)

    files = view.locator(".zb-arts li")
    expect(files).to_have_count(4)
    picture = files.filter(has_text="loss.png").locator("img")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("image => image.naturalWidth > 100", arg=picture.element_handle())
    expect(view.get_by_role("table", name="First rows of metrics.csv")).to_contain_text("2.214")
    expect(files.filter(has_text="notes.txt").locator("pre")).to_have_text("some notes")
    expect(files.filter(has_text="model.pkl")).to_contain_text("binary, no preview")
    with page.expect_download() as download:
        files.get_by_role("link", name="Download metrics.csv").click()
    assert Path(download.value.path()).read_text() == "epoch,loss\n1,2.214\n2,1.907\n"

    expect(view.get_by_role("log")).to_be_hidden()
    press(view, "Log")
    expect(line(view, "line 39")).to_be_visible()
    view.get_by_text("Parameters and environment").click()
    expect(view.locator(".zb-params")).to_contain_text('plt.savefig("loss.png")')
    desk.draw("succeeded", view)
    fold_and_unfold(view, "keep, Succeeded: details")
    old = job_id(view)
    press(view, "Run again")
    expect(view.get_by_role("group", name="Value of keep")).to_have_count(0)
    expect(word(view)).to_have_text("Succeeded", timeout=SLOW)
    assert job_id(view) != old


def test_cached_says_so_and_runs_anyway(desk: Desk) -> None:
    view = desk.run("tokens")
    expect(word(view)).to_have_text("Succeeded", timeout=SLOW)
    desk.run("tokens")
    expect(word(view)).to_have_text("Cached", timeout=SLOW)
    expect(view.locator(".zb-where")).to_have_text("nothing ran")
    expect(view.get_by_role("note")).to_contain_text("Nothing ran: same code and same inputs as tokens of")
    expect(view.get_by_role("group", name=re.compile("Value"))).to_contain_text("499500")
    desk.draw("cached", view)
    press(view, "Run anyway")
    expect(word(view)).to_have_text("Succeeded", timeout=SLOW)
    expect(view.get_by_role("note")).to_have_count(0)


def test_cell_that_changed_offers_to_cancel_its_earlier_job(desk: Desk, client: Client) -> None:
    jobs = []
    for seed in ("1", "2"):
        desk.run_to_end("seed")
        view = desk.run("again")
        expect(line(view, seed)).to_be_visible(timeout=SLOW)
        jobs.append(client.job(job_id(view)))
    said = view.locator(".zb-notice")
    expect(said).to_contain_text("An earlier run of this cell is still running.")
    desk.draw("earlier", view)
    press(view, "Cancel the earlier")
    expect(said).to_have_text("The earlier run of this cell was canceled.")
    assert jobs[0].wait(timeout=30).state == "canceled"
    expect(word(view)).to_have_text("Running")
    press(view, "Cancel")
    expect(word(view)).to_have_text("Canceled")
    assert jobs[1].refresh().state == "canceled"


def let_go_on(view: Locator) -> None:
    """Press Detach once somebody waits: that is asked when the menu opens, and a page that scrolls closes it."""
    more, detach = view.get_by_role("button", name="More for"), view.get_by_role("button", name="Detach")
    for again in range(30):
        if not view.locator(".zb-menu").first.is_visible():
            more.click()
        try:
            detach.click(timeout=1_000)
        except TimeoutError:
            assert again < 29, "nobody waits"
            view.page.keyboard.press("Escape")
        else:
            return


def test_detach_lets_the_kernel_go_and_cancel_works_while_it_is_busy(desk: Desk) -> None:
    view = desk.run("waits")
    expect(word(view)).to_have_text("Running", timeout=SLOW)
    desk.run("blocked")
    let_go_on(view)
    expect(desk.cell("blocked").locator(".jp-OutputArea-output")).to_have_text("detached\n")
    expect(desk.prompt("blocked")).to_have_text("[*]:")  # it goes on, and the job too
    expect(word(view)).to_have_text("Running")
    press(view, "Cancel")
    expect(word(view)).to_have_text("Canceled")
    expect(desk.prompt("blocked")).to_have_text("[*]:")
    desk.open_gate("free")
    expect(desk.prompt("blocked")).to_have_text(re.compile(r"\[\d+\]"))


def test_detach_on_the_card_of_a_group_lets_go_on_who_waits_for_all_of_it(desk: Desk) -> None:
    group = desk.run("herd")
    expect(group.locator(".zb-counts")).to_have_text("2 running", timeout=SLOW)
    desk.run("held")
    let_go_on(group)
    expect(desk.cell("held").locator(".jp-OutputArea-output")).to_have_text("detached\n")
    expect(desk.prompt("held")).to_have_text(re.compile(r"\[\d+\]"))
    expect(group.locator(".zb-counts")).to_have_text("2 running")  # they go on
    press(group, "Cancel all")
    expect(word(group)).to_have_text("Canceled")


def test_view_stays_with_the_job_run_again_when_the_kernel_saves_the_end_of_the_first_late(desk: Desk) -> None:
    desk.run_to_end("hold")
    view = desk.run("stopped")
    expect(word(view)).to_have_text("Running", timeout=SLOW)
    press(view, "Cancel")
    expect(word(view)).to_have_text("Canceled")
    press(view, "Run again")
    expect(word(view)).to_have_text("Running")
    again = job_id(view)
    desk.run_to_end("say")
    assert job_id(view) == again
    expect(word(view)).to_have_text("Running")
    assert desk.saved_ids("stopped") == [again]


def test_end_of_a_job_with_notify_after_is_told_to_who_looks_elsewhere(desk: Desk) -> None:
    page, view = desk.page, desk.run("tell")
    expect(word(view)).to_have_text("Running", timeout=SLOW)
    ask = view.get_by_role("button", name="Notify me when it ends")
    desk.draw("notify", view)
    ask.click()
    expect(ask).to_have_count(0)
    page.evaluate("document.hasFocus = () => false")
    desk.open_gate("tell")
    expect(page).to_have_title(re.compile("^✗ tell: failed "))
    page.wait_for_function("localStorage.notices")
    assert page.evaluate("JSON.parse(localStorage.notices)") == [["tell: failed", "ValueError: told"]]
    page.evaluate("() => { delete document.hasFocus; dispatchEvent(new Event('focus')) }")
    expect(page).not_to_have_title(re.compile("✗"))


def test_dashboard_filters_sorts_groups_selects_and_acts_on_many(desk: Desk, client: Client) -> None:
    page, table = desk.page, desk.run("table")
    never: dict[str, Any] = {"cpus": 900}
    for number in range(2):
        client.submit(["true"], name=f"huge-{number}", resources=never, tags={"set": "a"})
        client.submit(["false"], name=f"wrong-{number}", tags={"set": "b"})
    rows = table.locator(".zb-jobs tbody tr:not(.zb-space)")
    named = table.locator(".zb-jobs").get_by_role("link", name=re.compile("^(huge|wrong)-"))
    expect(named).to_have_count(4, timeout=SLOW)
    expect(rows.filter(has_text="wrong-").filter(has_text="Failed")).to_have_count(2)
    desk.draw("dashboard", table)

    search = table.get_by_role("searchbox", name="Filter jobs")
    search.fill("huge-")  # like the other name no part of an id, which is searched too
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("none that is here has enough")
    bulk = table.get_by_role("region", name="Selected jobs")
    table.get_by_role("checkbox", name="Select all shown").check()
    bulk.get_by_role("button", name="Clear").click()
    expect(bulk).to_be_hidden()
    table.get_by_role("checkbox", name="Select all shown").check()
    expect(bulk).to_contain_text("2 selected")
    bulk.get_by_role("button", name="Cancel 2").click()
    expect(rows.locator(".zb-word")).to_have_text(["Canceled", "Canceled"])
    assert {str(job.state) for job in client.jobs(q="huge-")} == {"canceled"}
    expect(bulk).to_be_hidden()
    expect(table.get_by_text("2 jobs canceled.").first).to_be_visible()

    search.fill("wrong-")
    expect(rows).to_have_count(2)
    heading = table.get_by_role("columnheader", name="Name")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(rows.locator("[data-c=name]")).to_have_text(["wrong-0", "wrong-1"])
    heading.get_by_role("button").click()
    expect(rows.locator("[data-c=name]")).to_have_text(["wrong-1", "wrong-0"])
    search.press("Escape")
    states = table.get_by_role("group", name="State")
    states.get_by_role("button", name=re.compile("^Failed")).click()
    expect(rows.locator("[data-c=state]").filter(has_not_text="Failed")).to_have_count(0)
    expect(named).to_have_count(2)
    states.get_by_role("button", name=re.compile("^All")).click()
    table.get_by_role("combobox", name="Group by").select_option(label="By tag set")
    expect(table.locator(".zb-grouprow").filter(has_text="b2 failed")).to_have_count(1)
    table.get_by_role("button", name="b", exact=True).click()
    expect(named).to_have_count(2)
    desk.draw("dashboard-grouped", table)
    table.get_by_role("combobox", name="Group by").select_option("")

    # By the keyboard alone; in a notebook its keys belong to the table only while the focus is in it.
    heading.get_by_role("button").focus()
    page.keyboard.press("/")
    expect(search).to_be_focused()
    page.keyboard.type("wrong-")
    expect(rows).to_have_count(2)
    rows.first.get_by_role("link").focus()
    for key, place in (("j", 1), ("k", 0)):
        page.keyboard.press(key)
        expect(rows.nth(place).get_by_role("link")).to_be_focused()
    page.keyboard.press("x")
    expect(rows.first.get_by_role("checkbox")).to_be_checked()
    page.keyboard.press("j")
    page.keyboard.press("x")
    bulk.get_by_role("button", name="Retry 2").click()
    expect(rows).to_have_count(4)
    rows.first.get_by_role("link").focus()
    with page.context.expect_page() as opened:
        page.keyboard.press("Enter")
    expect(opened.value.locator(".zb-jobhead h1")).to_contain_text("wrong-")
    opened.value.close()


def test_console_behind_the_relay_opens_at_a_job_and_acts_on_it(desk: Desk, client: Client) -> None:
    page = desk.page.context.new_page()
    job = client.submit(code="import time\nprint('begun')\nwhile True: time.sleep(0.1)", name="watched")
    page.goto(f"{desk.lab.url}zbrain/jobs/{job.id}")
    head = page.locator(".zb-jobhead")
    expect(page.locator(".zb-live")).to_have_text("Live", timeout=SLOW)
    expect(head.locator(".zb-word")).to_have_text("Running", timeout=SLOW)
    expect(page.locator(".zb-ln", has_text="begun")).to_be_visible()
    draw_console("job", page)
    head.get_by_role("button", name="Cancel").click()
    expect(head.locator(".zb-word")).to_have_text("Canceled")
    head.get_by_role("tab", name="Code").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("while True")
    assert page.url.endswith("#code")
    head.get_by_role("button", name="Run again").click()
    page.wait_for_url(lambda url: job.id not in url)
    expect(head.locator(".zb-word")).to_have_text("Running", timeout=SLOW)
    head.get_by_role("button", name="Cancel").click()
    expect(head.locator(".zb-word")).to_have_text("Canceled")
    head.get_by_role("link", name="Jobs").click()
    expect(page.locator(".zb-jobs").get_by_role("link", name="watched")).to_have_count(2)
    draw_console("jobs", page)
    page.close()


def test_reconnecting_says_so_tries_now_and_goes_on_where_it_was(desk: Desk) -> None:
    view = desk.run("survivor")
    expect(word(view)).to_have_text("Running", timeout=SLOW)
    expect(line(view, "before")).to_be_visible()
    desk.lab.kill()
    expect(word(view)).to_have_text("Reconnecting")
    expect(view.locator(".zb-note").first).to_contain_text("last heard")
    expect(view.get_by_role("note")).to_contain_text(re.compile("No connection to the server since .* The job goes on"))
    expect(view.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "75")
    expect(line(view, "before")).to_be_visible()
    expect(view.get_by_role("button", name="Cancel")).to_have_count(0)
    for _ in range(7):  # each pause before a try is twice the last, up to half a minute: more than a start takes
        press(view, "Try now")
        expect(view.get_by_role("note")).to_contain_text("Next try in")
    desk.draw("reconnecting", view, themes=[])  # Jupyter cannot save another one now
    desk.lab.start()
    desk.open_gate("survivor")
    press(view, "Try now")
    expect(word(view)).to_have_text("Succeeded", timeout=SLOW)
    expect(line(view, "before")).to_have_count(1)
    expect(line(view, "after")).to_be_visible()
