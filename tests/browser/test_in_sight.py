"""What draws only the rows in sight keeps them there when it is hidden for a moment, and when it gets another height.

JupyterLab hides all of itself once its theme has changed, and shows it in the next frame: what is drawn in that frame
before has no height to go by, and no observer sees at its end that anything was hidden.

And what a person asks a log for comes into the window, of which the bar with the log's buttons may have been the end.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.stub import StubServer
from tests.browser.test_view import show

pytestmark = pytest.mark.browser

#: The texts of those rows of a box that are in it with their whole height.
IN_SIGHT = """(box, rows) => {
  const { top, bottom } = box.getBoundingClientRect();
  const isIn = (row) => row.getBoundingClientRect().top >= top && row.getBoundingClientRect().bottom <= bottom;
  return [...box.querySelectorAll(rows)].filter(isIn).map((row) => row.textContent);
}"""

#: Have `draw` do its work in a frame in which the page is hidden at first; return what is in sight at its end.
DRAW_HIDDEN = f"""async (box, [draw, rows]) => {{
  draw();
  document.body.style.display = 'none';
  requestAnimationFrame(() => (document.body.style.display = ''));
  await new Promise(requestAnimationFrame);
  return ({IN_SIGHT})(box, rows);
}}"""

#: A table of the dashboard on a thousand jobs, and `draw`, which draws it in the next frame.
TABLE = """async () => {
  const { jobsTable } = await import('/view/dashboard/table.js');
  const style = { rel: 'stylesheet', href: '/view/dashboard/dashboard.css' };
  const link = Object.assign(document.createElement('link'), style);
  const loaded = new Promise((done) => (link.onload = done));
  document.head.append(link);
  await loaded;
  const card = document.createElement('div');
  card.className = 'zb';
  document.body.replaceChildren(card);
  const table = jobsTable({ chosen: new Set(), now: () => Date.now() / 1000 });
  table.el.style.cssText = 'height: 400px; overflow: auto';
  card.append(table.el);
  const job = { owner: 'ada', state: 'pending', spec: {}, created_at: '2026-01-01T00:00:00Z' };
  const jobOf = (number) => ({ ...job, id: `${number}`, name: `job ${number}` });
  table.show(Array.from({ length: 1000 }, (_, number) => jobOf(number)), { sort: ['name', 1] });
  window.draw = table.schedule;
}"""


def lines_in_sight(log: Locator) -> list[int]:
    """Return the numbers of the lines that a reader sees of a log."""
    return [int(number) for number in log.evaluate(IN_SIGHT, ".zb-no")]


def next_frames(page: Page) -> None:
    """Return when what is to be drawn in the next frame, and for what that has scrolled, is drawn."""
    page.evaluate("async () => { for (let i = 0; i < 3; i += 1) await new Promise(requestAnimationFrame) }")


def set_height(page: Page, height: int) -> None:
    """Give the window this height; return when all is drawn for it."""
    page.set_viewport_size({"width": 1180, "height": height})
    page.wait_for_function("height => innerHeight === height", arg=height)
    next_frames(page)


def draw_hidden(box: Locator, rows: str, draw: str = "() => views[0].feed.tell()") -> list[str]:
    """Have `draw`, a function in JavaScript, draw in a frame in which the page is hidden at first.

    Return the texts of the rows that a reader sees at the end of that frame.
    """
    function = box.page.evaluate_handle(f"() => {draw}")
    seen: list[str] = box.evaluate(DRAW_HIDDEN, [function, rows])
    return seen


def open_log(page: Page, stub: StubServer, *lines: str) -> Locator:
    """Open the view of a job that has ended: no clock draws it again."""
    stub.stored(stub.add("canceled"), *lines)
    log = show(page, stub).get_by_role("log")
    expect(log).to_be_visible()
    next_frames(page)
    return log


@pytest.mark.parametrize(
    ("count", "width", "scrolled", "seen"),
    [
        (3, 1, 0, range(1, 4)),
        (3, 20_000, 0, range(1, 4)),
        (60, 1, -360, range(28, 41)),
    ],
)
def test_log_that_is_drawn_while_hidden_is_seen_where_it_was(
    page: Page, stub: StubServer, count: int, width: int, scrolled: int, seen: range
) -> None:
    log = open_log(page, stub, *["x" * width] * count)
    log.evaluate("(log, by) => log.scrollBy(0, by)", scrolled)
    next_frames(page)
    assert lines_in_sight(log) == list(seen)
    assert draw_hidden(log, ".zb-no") == [str(number) for number in seen]
    next_frames(page)
    assert lines_in_sight(log) == list(seen)


def test_lines_that_come_while_the_log_is_hidden_are_seen(page: Page, stub: StubServer) -> None:
    log = open_log(page, stub, *["x"] * 60)
    page.evaluate("window.entry = { seq: 60, attempt: 1, stream: 'stdout', ts: 0, line: 'new' }")
    draw_hidden(log, ".zb-no", "() => { views[0].feed.log.add([entry]); views[0].feed.tell(); }")
    next_frames(page)
    assert lines_in_sight(log)[-1] == 61


def test_hidden_log_is_not_drawn_in_every_frame(page: Page, stub: StubServer) -> None:
    log = open_log(page, stub, "one")
    asked = log.evaluate(
        """async (log) => {
          const given = requestAnimationFrame;
          let asked = 0;
          window.requestAnimationFrame = (paint) => { asked += 1; return given(paint); };
          document.body.style.display = 'none';
          views[0].feed.tell();
          for (let frames = 0; frames < 20; frames += 1) await new Promise(given);
          return asked;
        }"""
    )
    assert asked <= 5
    page.evaluate("document.body.style.display = ''")
    next_frames(page)
    assert lines_in_sight(log) == [1]


def test_log_scrolled_up_is_seen_when_it_has_room_for_all_of_it(page: Page, stub: StubServer) -> None:
    log = open_log(page, stub, *["x"] * 16)
    log.evaluate("log => log.scrollBy(0, -20)")
    next_frames(page)
    page.get_by_role("button", name="Show more lines at once").click()
    next_frames(page)
    assert lines_in_sight(log) == list(range(1, 17))


@pytest.mark.parametrize("scrolled", [0, -60])
def test_tall_log_is_seen_whatever_height_the_window_gets(page: Page, stub: StubServer, scrolled: int) -> None:
    log = open_log(page, stub, *["x"] * 30)
    page.get_by_role("button", name="Show more lines at once").click()
    set_height(page, 600)
    log.evaluate("(log, by) => log.scrollBy(0, by)", scrolled)
    for height, most in ((2400, 30), (600, 23), (900, 30), (640, 24)):
        set_height(page, height)
        seen = lines_in_sight(log)
        assert len(seen) >= most - 1
        assert scrolled or seen[-1] == 30  # it follows


def test_log_follows_on_when_its_height_and_not_the_reader_has_scrolled_it(page: Page, stub: StubServer) -> None:
    log = open_log(page, stub, *["x"] * 30)
    log.evaluate(
        """log => {
          log.style.maxHeight = 'none'; // all of it fits, so the browser scrolls it to its top
          log.getBoundingClientRect();
          log.style.maxHeight = '400px';
        }"""
    )
    next_frames(page)
    assert lines_in_sight(log)[-1] == 30


def test_what_is_asked_of_a_log_is_seen_though_the_window_ended_at_its_bar(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *["x"] * 30)
    stub.stored(job, "Traceback (most recent call last):", stream="stderr")
    stub.stored(job, *["x"] * 30, "needle", "needle", *["x"] * 30)
    view = show(page, stub)
    expect(view.get_by_role("log")).to_be_visible()
    page.evaluate("document.querySelector('main').style.marginBlock = '2000px'")
    bar, find = view.locator(".zb-logbar"), view.get_by_role("searchbox")

    def leave_its_bar() -> None:
        bar.evaluate("bar => scrollBy(0, bar.getBoundingClientRect().bottom - innerHeight)")
        expect(view.get_by_role("log")).not_to_be_in_viewport()

    leave_its_bar()
    view.get_by_role("button", name="First error").click()
    expect(view.locator("[data-mark]")).to_be_in_viewport(ratio=1)
    leave_its_bar()
    view.get_by_role("button", name="Follow").click()
    expect(view.locator(".zb-row").last).to_be_in_viewport(ratio=1)
    leave_its_bar()
    find.fill("needle")
    expect(view.locator("[data-hit] .zb-no")).to_have_text("62")
    expect(view.locator("[data-hit]")).to_be_in_viewport(ratio=1)
    leave_its_bar()
    find.press("Enter")
    expect(view.locator("[data-hit] .zb-no")).to_have_text("63")
    expect(view.locator("[data-hit]")).to_be_in_viewport(ratio=1)


def test_page_is_not_moved_by_what_is_found_later(page: Page, stub: StubServer) -> None:
    job = stub.add()
    stub.stored(job, *["x"] * 30)
    view = show(page, stub)
    view.get_by_role("searchbox").fill("needle")
    expect(view.locator(".zb-logbar")).to_contain_text("no match")
    page.evaluate("document.querySelector('main').style.marginBlock = '2000px'")
    page.evaluate("scrollTo(0, 0)")
    stub.log(job, "needle")
    expect(view.locator(".zb-logbar")).to_contain_text("1 of 1")
    assert page.evaluate("scrollY") == 0


def test_jump_is_seen_in_a_window_lower_than_the_log(page: Page, stub: StubServer) -> None:
    job = stub.add("canceled")
    stub.stored(job, *["x"] * 90)
    stub.stored(job, "Traceback (most recent call last):", stream="stderr")
    stub.stored(job, *["x"] * 90)
    view = show(page, stub)
    view.get_by_role("button", name="Show more lines at once").click()
    page.evaluate("document.querySelector('main').style.cssText = 'height: 200px; overflow: auto'")
    view.get_by_role("button", name="First error").click()
    expect(view.locator("[data-mark]")).to_be_in_viewport(ratio=1)


def test_jump_stays_in_sight_when_rules_between_attempts_come_above_it(page: Page, stub: StubServer) -> None:
    job = stub.add("failed", attempt=100, spec={"max_retries": 99})
    for attempt in range(1, 101):
        stub.stored(job, *["x"] * 40, attempt=attempt)
    stub.logs[job][1990]["line"] = "needle"
    view = show(page, stub)
    expect(view.locator(".zb-row").last).to_be_visible()
    view.get_by_role("searchbox").fill("needle")
    expect(view.locator("[data-hit] mark")).to_have_text("needle")  # fetched, with the rules of its page
    next_frames(page)
    expect(view.locator("[data-hit]")).to_be_in_viewport(ratio=1, timeout=1)


def test_reader_scrolls_on_when_lines_that_come_into_sight_change_the_height_of_the_log(
    page: Page, stub: StubServer
) -> None:
    job = stub.add("canceled")
    stub.stored(job, *["x"] * 110)
    stub.stored(job, "Traceback (most recent call last):", stream="stderr")
    stub.stored(job, *["x"] * 190)
    log = show(page, stub).get_by_role("log")
    # As a line does that is wider than the log: its scroll bar takes some of the height, but not in this browser.
    page.add_style_tag(content=".zb-lines:has([data-mark]) { max-height: 220px }")
    next_frames(page)
    log.evaluate(
        """async (log) => {
          log.scrollTop = 100 * 18;
          // The end of the frame that draws what stands there.
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          log.scrollTop = 103 * 18;
        }"""
    )
    next_frames(page)
    assert lines_in_sight(log)[0] == 104


def test_table_that_is_drawn_while_hidden_is_seen_where_it_was(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    page.evaluate(TABLE)
    next_frames(page)
    table = page.locator(".zb-jobsbox")
    table.evaluate("table => { table.scrollTop = 10_000 }")
    next_frames(page)
    before = table.evaluate(IN_SIGHT, "tr[data-state]")
    assert len(before) > 10
    assert draw_hidden(table, "tr[data-state]", "draw") == before
    next_frames(page)
    assert table.evaluate(IN_SIGHT, "tr[data-state]") == before
