"""How a page answers: a line is there in the next frame, and a click counts although what was pressed has changed.

A press takes a person a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, Route, WebSocket, expect

from tests.browser.conftest import log_in, pause
from tests.browser.stub import StubServer
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser

TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def open_page(page: Page, address: str) -> WebSocket:
    """Open it, and return the socket that brings its events."""
    with page.expect_websocket(lambda socket: "/events?" in socket.url) as found:
        page.goto(address)
    return found.value


def press(page: Page, target: Locator, socket: WebSocket, meanwhile: Callable[[], None], said: str) -> None:
    """Press a button, release it when what happened `meanwhile` is in the page."""
    target.hover()
    page.mouse.down()
    with socket.expect_event("framereceived", lambda frame: said in str(frame)):
        meanwhile()
    page.evaluate(TWO_FRAMES)
    page.mouse.up()


def test_button_of_a_view_that_changes_under_the_pointer_takes_the_click(page: Page, stub: StubServer) -> None:
    job_id = stub.add("running")
    socket = open_page(page, stub.url())
    cancel = page.get_by_role("button", name="Cancel")
    press(
        page, cancel, socket, lambda: stub.emit("job_progressed", job_id, {"progress": {"fraction": 0.5}}), "progressed"
    )
    expect(page.get_by_role("button", name="Canceling")).to_be_visible()
    assert [post.split()[0] for post in stub.posts] == ["cancel"]
    expect(page.get_by_role("progressbar")).to_be_visible()  # what waited for the release is shown then


def test_button_of_a_group_that_changes_under_the_pointer_takes_the_click(page: Page, stub: StubServer) -> None:
    first, *_ = stub.add_group(["running", "running", "running"])
    socket = open_page(page, stub.url())
    cancel = page.get_by_role("button", name="Cancel")
    press(page, cancel, socket, lambda: stub.emit("job_completed", first, {"state": "succeeded"}), "completed")
    expect(page.locator(".zb-counts")).to_have_text("1 succeeded2 canceled")  # the ended one was not asked for


def test_tab_of_a_job_that_writes_takes_the_click_and_keeps_the_focus(
    host: Owner, hand: HandWorker, page: Page
) -> None:
    (job_id,) = hand.submit(name="it writes", code="x = 1")
    hand.start()
    hand.log(job_id, "one")
    log_in(page, host)
    socket = open_page(page, f"{host.url}zbrain/jobs/{job_id}")
    log, code = page.get_by_role("tab", name="Log"), page.get_by_role("tab", name="Code")
    expect(log).to_have_text("Log1")
    press(page, code, socket, lambda: hand.log(job_id, "two"), "two")
    expect(page.locator(".zb-src")).to_be_visible()
    expect(code).to_have_attribute("aria-selected", "true")
    code.focus()
    code.evaluate("tab => { window.lost = 0; tab.addEventListener('blur', () => { window.lost += 1; }); }")
    hand.log(job_id, "three")
    expect(log).to_have_text("Log3")
    expect(code).to_be_focused()
    assert page.evaluate("window.lost") == 0  # or a screen reader would say the tab again with each line


def test_filter_and_bulk_act_of_a_busy_dashboard_take_the_click(host: Owner, hand: HandWorker, page: Page) -> None:
    hand.submit(3, name="to be filtered")
    running = hand.start(2)
    log_in(page, host)
    socket = open_page(page, f"{host.url}zbrain")
    rows = page.locator(".zb-jobs tbody tr").filter(has_text="to be filtered")
    expect(rows).to_have_count(3)
    failed = page.locator(".zb-seg [data-pick=failed]")
    error = {"ename": "ValueError", "evalue": "no", "traceback": []}
    press(page, failed, socket, lambda: hand.send(running[0], "failed", error=error), "job_failed")
    expect(rows).to_have_count(1)
    expect(failed).to_have_attribute("aria-pressed", "true")
    page.locator(".zb-seg [data-pick='']").click()
    expect(rows).to_have_count(3)
    for row in range(3):
        rows.nth(row).get_by_role("checkbox").check()
    cancel = page.get_by_role("button", name="Cancel 2")
    press(page, cancel, socket, lambda: hand.send(running[1], "failed", error=error), "job_failed")
    expect(page.locator(".zb-jobs tbody tr[data-state=canceled]").filter(has_text="to be filtered")).to_have_count(1)


def double_click(page: Page, target: Locator, gap: int, done: str, other: Locator) -> None:
    """Click twice, `gap` ms apart by the page's paused clock; once it is `done`, `other` lies under the pointer."""
    box = target.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(x, y)
    page.wait_for_function(done)
    page.clock.run_for(gap)
    under = other.bounding_box()
    assert under is not None and under["x"] < x < under["x"] + under["width"]
    page.mouse.down(click_count=2)
    page.mouse.up(click_count=2)
    page.evaluate("() => {}")  # what the click does to the server is begun


def test_double_click_acts_once_and_what_it_did_can_be_undone_a_moment_later(page: Page, stub: StubServer) -> None:
    stub.add("pending")
    page.clock.install()
    page.goto(stub.url())
    cancel, again = (page.get_by_role("button", name=name) for name in ("Cancel", "Run again"))
    expect(cancel).to_be_visible()
    pause(page)
    for gap in (80, 120, 200, 300):
        for target, other, state in ((cancel, again, "canceled"), (again, cancel, "pending")):
            before = len(stub.posts)
            done = f"(({{ job, canAct, acting }}) => job.state === '{state}' && canAct && !acting)(views[0].feed)"
            double_click(page, target, gap, done, other)
            page.clock.run_for(500)
            expect(other).to_be_visible()
            assert len(stub.posts) == before + 1


def test_double_click_on_the_page_of_a_job_cancels_it_and_does_not_run_it_again(
    host: Owner, hand: HandWorker, page: Page
) -> None:
    (job_id,) = hand.submit(name="pressed twice")
    page.clock.install()
    log_in(page, host)
    page.goto(f"{host.url}zbrain/jobs/{job_id}")
    cancel, again = (page.get_by_role("button", name=name) for name in ("Cancel", "Run again"))
    expect(cancel).to_be_visible()
    pause(page)
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url[-6:]) if request.method == "POST" else None)
    with page.expect_response("**/whoami"):  # the last that is read of a job that has ended
        cancel.click()
    for _ in range(100):  # frames, few of which are needed
        page.clock.run_for(16)
        if again.is_visible() and again.is_enabled():
            break
    box = again.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    page.evaluate("() => {}")
    assert posts == ["cancel"]
    page.clock.run_for(500)
    again.click()
    page.evaluate("() => {}")
    assert posts == ["cancel", "/retry"]


def test_double_click_on_a_reason_of_a_group_leaves_the_reason_that_moves_up_alone(
    page: Page, stub: StubServer
) -> None:
    first, second, third, _ = stub.add_group(["failed", "failed", "failed", "running"])
    for job_id, name in ((first, "KeyError"), (second, "KeyError"), (third, "ValueError")):
        stub.jobs[job_id]["error"] = {"ename": name, "evalue": "", "traceback": []}
    page.clock.install()
    page.goto(stub.url())
    row = page.locator(".zb-why-list li").first
    expect(row).to_contain_text("KeyError")
    pause(page)
    moved = "views[0].feed.failed.length === 1 && !views[0].feed.acting"
    button = row.get_by_role("button")
    double_click(page, button, 80, moved, button)
    expect(row).to_contain_text("ValueError")
    assert [post.split()[0] for post in stub.posts if not post.startswith("lookup")] == ["retry"]
    page.clock.run_for(500)
    button.click()
    page.wait_for_function("views[0].feed.failed.length === 0")


def test_reasons_of_a_group_stay_where_they_are_and_take_clicks_while_more_runs_fail(
    page: Page, stub: StubServer
) -> None:
    ids = stub.add_group(["running"] * 6)
    page.clock.install()
    page.goto(stub.url())
    rows = page.locator(".zb-why-list li")

    def fail(place: int, name: str, said: list[str]) -> None:
        error = {"ename": name, "evalue": "", "traceback": []}
        stub.emit("job_failed", ids[place], {"state": "failed", "error": error})
        page.wait_for_function(f"views[0].feed.jobs[{place}].state === 'failed'")
        page.clock.run_for(50)
        expect(rows).to_have_text(said)

    fail(5, "KeyError", ["1KeyErrorRetry 1"])
    pause(page)
    fail(0, "ValueError", ["1KeyErrorRetry 1", "1ValueErrorRetry 1"])  # no more than behind it, whatever its place
    fail(1, "ValueError", ["1KeyErrorRetry 1", "2ValueErrorRetry 2"])
    with page.expect_websocket():  # all was loaded again, and what follows is heard: a paused page draws nothing later
        rows.first.get_by_role("button").click()
    page.wait_for_function("views[0].feed.jobs[5].state === 'pending' && !views[0].feed.acting")
    page.clock.run_for(600)  # the other has moved up
    fail(2, "KeyError", ["2ValueErrorRetry 2", "1KeyErrorRetry 1"])  # and stays there
    rows.first.get_by_role("button").click()
    page.wait_for_function("views[0].feed.failed.length === 1")
    assert [post.split()[0] for post in stub.posts if not post.startswith("lookup")] == ["retry", "retry"]


#: A page whose elements keep what happens on them to themselves.
PRESS = """async () => {
  const { pressIn } = await import('/view/press.js');
  const main = document.querySelector('main');
  main.innerHTML = '<button></button><select></select><p></p>';
  window.released = 0;
  window.press = pressIn(main, () => (released += 1));
  window.fire = (place, kind, more = {}) => {
    document.querySelector(place).dispatchEvent(new PointerEvent(kind, { bubbles: true, button: 0, ...more }));
    return [press.on, released];
  };
  const keep = (event) => event.stopPropagation();
  for (const each of main.children)
    for (const kind of ['pointerdown', 'pointerup', 'contextmenu']) each.addEventListener(kind, keep);
}"""


def test_press_ends_however_its_release_is_told_and_without_it(page: Page, stub: StubServer) -> None:
    page.clock.install()
    page.goto(stub.url())
    page.evaluate(PRESS)
    for other in ("fire('select', 'pointerdown')", "fire('button', 'pointerdown', { button: 2 })"):
        assert page.evaluate(other) == [False, 0]
    ends = [
        "fire('button', 'pointerup')",
        "fire('p', 'contextmenu')",
        "dispatchEvent(new Event('blur')) && [press.on, released]",
    ]
    for count, end in enumerate(ends):
        assert page.evaluate("fire('button', 'pointerdown')") == [True, count]
        assert page.evaluate("fire('p', 'blur', { bubbles: false })") == [True, count]  # the focus moves
        assert page.evaluate("fire('p', 'pointerdown')") == [True, count]  # another finger
        assert page.evaluate(end) == [False, count + 1]
    assert page.evaluate("fire('button', 'pointerdown')") == [True, 3]
    page.clock.run_for(3_000)
    assert page.evaluate("[press.on, released]") == [False, 4]
    page.clock.run_for(3_000)
    assert page.evaluate("released") == 4


def test_line_is_shown_in_the_first_frame_after_it_came(page: Page, stub: StubServer) -> None:
    job_id = stub.add("running")
    stub.stored(job_id, "one")
    page.goto(stub.url())
    expect(page.locator(".zb-lines")).to_contain_text("one")
    shown = page.evaluate(
        """() => new Promise((done) => {
          const { feed } = views[0];
          feed.apply({ kind: 'job_logged', data: { entries: [{ ...feed.log.get(0), seq: 1, line: 'two' }] } });
          feed.tell();
          // Asked for behind the view's own: it runs in the same frame, after that.
          requestAnimationFrame(() => done(document.querySelector('.zb-lines').textContent.includes('two')));
        })"""
    )
    assert shown


def test_menu_stays_open_while_the_log_follows_its_tail(page: Page, stub: StubServer) -> None:
    job_id = stub.add("running")
    stub.stored(job_id, *(f"line {n}" for n in range(50)))
    page.goto(stub.url())
    expect(page.get_by_text("line 49")).to_be_visible()
    page.get_by_role("button", name="More for").click()
    copy = page.get_by_role("button", name="Copy the id")
    expect(copy).to_be_visible()
    page.evaluate("addEventListener('scroll', () => { window.scrolls = true; }, true)")
    stub.log(job_id, "the next line")
    expect(page.get_by_text("the next line")).to_be_visible()
    page.wait_for_function("window.scrolls")
    page.evaluate(TWO_FRAMES)
    expect(copy).to_be_visible()
    page.evaluate("document.body.style.height = '4000px'; scrollBy(0, 40)")  # that moves its button
    expect(copy).to_be_hidden()


def test_menu_opened_before_the_view_is_live_offers_detach_once_it_is(page: Page, stub: StubServer) -> None:
    job_id = stub.add("running")
    stub.waiting = 1
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(lambda url: url.endswith(f"/jobs/{job_id}"), hold, times=1)
    with page.expect_request(f"**/jobs/{job_id}"):
        page.goto(stub.url())
    page.get_by_role("button", name="More for").click()
    detach = page.get_by_role("button", name="Detach")
    expect(page.get_by_role("button", name="Copy the id")).to_be_visible()
    expect(detach).to_be_hidden()
    held[0].continue_()
    expect(detach).to_be_visible()


@pytest.mark.parametrize("verb", ["detach", "cancel_earlier"])
def test_job_is_canceled_while_what_does_not_concern_it_has_no_answer(page: Page, stub: StubServer, verb: str) -> None:
    tags = {"zbrain.cell": "a cell"}
    earlier = stub.add("running", spec={"tags": tags})
    stub.saved.clear()
    job_id = stub.add("running", spec={"tags": tags})
    stub.saved[0]["earlier"] = earlier
    stub.waiting = 1
    page.goto(stub.url())
    held = {"detach": f"/{job_id}/detach", "cancel_earlier": ("jobs/cancel", f"/{earlier}/cancel")}[verb]
    page.route(lambda url: url.endswith(held), lambda _: None)
    more = page.get_by_role("button", name="Cancel the earlier")
    if verb == "detach":
        page.get_by_role("button", name="More for").click()
        page.get_by_role("button", name="Detach").click()
    else:
        more.click()
        expect(more).to_be_disabled()
        assert page.evaluate("document.activeElement !== document.body")
    with page.expect_response(f"**/{job_id}/cancel"):
        page.get_by_role("button", name="Cancel", exact=True).click()
    assert stub.jobs[job_id]["cancel_requested_at"]
