"""What a tab holds of a job that writes without end: as much after a long while as after a short one."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.benchmarks.bench_console import run
from tests.benchmarks.loads import percentile
from tests.browser.conftest import log_in
from tests.browser.stub import StubServer
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser

FILL = """async (fetched) => {
  const { LogLines } = await import('/view/lines.js');
  const entry = (seq) => ({ seq, attempt: 1, stream: seq % 10 ? 'stdout' : 'stderr', ts: 0, line: `line ${seq}` });
  const entries = (from, count) => Array.from({ length: count }, (_, i) => entry(from + i));
  const lines = new LogLines(fetched ? async (from, limit) => entries(from, limit) : null);
  for (let from = 0; from < 200_000; from += 500) lines.add(entries(from, 500));
  const told = { ...about(lines), before: Boolean(lines.get(100)) };
  if (fetched) {
    await lines.fetchAround(100);
    told.read = lines.get(100).line;
  }
  lines.add([{ ...entry(200_000), line: 'x'.repeat(30_000_000) }]);
  return [told, about(lines)];
  function about({ pages, held, stderr, begin, end, chars }) {
    return { pages: pages.size, held, stderr, begin, end, chars };
  }
}"""

#: Lines come with holes in the page that still grows; 1250 is nowhere.
HOLES = """async () => {
  const { LogLines } = await import('/view/lines.js');
  const entry = (seq) => ({ seq, attempt: 1, stream: 'stdout', ts: 0, line: 'x' });
  const all = (from, to) => Array.from({ length: to - from }, (_, i) => entry(from + i));
  const range = (from, to) => all(from, to).filter(({ seq }) => seq !== 1250);
  let written = 0;
  let asked = 0;
  const lines = new LogLines(async (from, limit) => {
    asked += 1;
    return range(from, Math.min(written, from + limit));
  });
  const told = [];
  for (const [hole, from, to] of [[1000, 1200, 1500], [1500, 1700, 1900]]) {
    written = to;
    lines.add(range(from, to));
    const came = await Promise.all([lines.fetchAround(hole), lines.fetchAround(hole)]);
    told.push([...came, Boolean(lines.get(hole)), await lines.fetchAround(1250)]);
  }
  return [told, asked];
}"""


def after_collection(page: Page) -> tuple[float, int]:
    """Return the script's heap in MB, and how many nodes there are, those that are in no page too."""
    tab = page.context.new_cdp_session(page)
    tab.send("Performance.enable")
    for _ in range(2):
        tab.send("HeapProfiler.collectGarbage")
    found: dict[str, Any] = {each["name"]: each["value"] for each in tab.send("Performance.getMetrics")["metrics"]}
    tab.detach()
    return found["JSHeapUsedSize"] / 1e6, int(found["Nodes"])


@pytest.mark.parametrize("fetched", [True, False])
def test_lines_that_are_kept_are_bounded_in_number_and_in_size(page: Page, stub: StubServer, fetched: bool) -> None:
    page.goto(stub.url())
    many, long = page.evaluate(FILL, fetched)
    assert many["pages"] == 50
    assert many["held"] == 50_000
    assert many["stderr"] == 5_000
    assert not many["before"]
    if fetched:
        assert (many["begin"], many["end"], many["read"]) == (0, 200_000, "line 100")  # older ones come when looked at
    else:
        assert (many["begin"], many["end"]) == (150_000, 200_000)
    assert long["chars"] < 30_100_000
    assert long["pages"] <= 7  # the newest two, and those around the line that was read


def test_hole_in_a_page_is_fetched_again_once_the_page_has_grown(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    assert page.evaluate(HOLES) == [[[True, False, True, False]] * 2, 2]


def test_line_that_nobody_has_is_not_asked_for_without_end(page: Page, stub: StubServer) -> None:
    page.clock.install()
    job = stub.add("failed", error={"ename": "E", "evalue": "", "traceback": []})
    stub.stored(job, *"abc")
    del stub.logs[job][1]
    page.goto(stub.url())
    expect(page.locator(".zb-row")).to_have_count(3)
    page.evaluate(
        """() => {
          const { log } = views[0].feed;
          const fetchAround = log.fetchAround.bind(log);
          window.asked = 0;
          log.fetchAround = (seq) => { asked += 1; return fetchAround(seq); };
        }"""
    )
    page.clock.run_for(5_000)
    assert page.evaluate("asked") <= 2


def test_reader_of_a_log_that_loses_its_first_lines_stays_at_the_same_line(page: Page, stub: StubServer) -> None:
    stub.add("running")
    page.goto(stub.url())
    page.wait_for_function("views[0].feed.connection === 'live'")
    add = """([from, to]) => {
      const { feed } = views[0];
      feed.log.fetchLines = null;
      const entry = (seq) => ({ seq, attempt: 1, stream: 'stdout', ts: 0, line: `line number ${seq}` });
      feed.log.add(Array.from({ length: to - from }, (_, i) => entry(from + i)));
      feed.tell();
    }"""
    page.evaluate(add, [0, 49_500])
    log = page.locator(".zb-lines")
    expect(log).to_contain_text("line number 49499")
    log.evaluate("box => { box.scrollTop = 18 * 30_000; }")
    expect(log).to_contain_text("line number 30000")
    before = log.get_by_text("line number 30000", exact=True).bounding_box()
    page.evaluate(add, [49_500, 55_500])
    expect(page.locator(".zb-logbar")).to_contain_text("55,500 lines, the last 49,500 are here")
    assert log.get_by_text("line number 30000", exact=True).bounding_box() == before


def test_tab_of_a_job_that_writes_without_end_stays_level(page: Page, stub: StubServer) -> None:
    job_id = stub.add("running")
    page.goto(stub.url())
    page.wait_for_function("views[0].feed.connection === 'live'")

    def write(first: int, last: int) -> tuple[float, int]:
        for start in range(first, last, 1000):
            stub.log(
                job_id, *(f"epoch {n}: loss=0.12345 accuracy=0.9876 lr=0.0010" for n in range(start, start + 1000))
            )
        expect(page.locator(".zb-lines")).to_contain_text(f"epoch {last - 1}:")
        return after_collection(page)

    first_mb, first_nodes = write(0, 60_000)
    mb, nodes = write(60_000, 150_000)
    assert mb < first_mb + 3
    assert nodes < first_nodes + 100


def test_brief_runs_of_a_worker_are_drawn_together(page: Page, host: Owner, hand: HandWorker) -> None:
    hand.submit(40, name="brief")
    for _ in range(10):
        for job_id in hand.start(4):
            hand.send(job_id, "completed", exit_code=0)
    log_in(page, host)
    spans = page.locator(".zb-span[data-state=succeeded]")
    expect(spans).not_to_have_count(0)
    titles = spans.evaluate_all("each => each.map(({ title }) => title)")
    assert len(titles) <= 12  # four slots, and the jobs may lie on both sides of two borders
    counts = [int(title.split()[0]) if ", the last brief" in title else 1 for title in titles]
    assert sum(counts) == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dashboard", "job"])
def test_console_answers_clicks_and_stays_level_over_five_minutes(browser: Browser, name: str) -> None:
    (found,) = run(browser, 300, only=name)
    assert len(found.clicks) == found.pressed
    assert percentile(found.clicks, 0.99) < 100  # ms
    _, settled, *later = found.heaps
    assert max(later) < settled + 3  # MB, from the second minute on
    assert max(found.nodes) < 5_000
