"""The numbers above the jobs: what stands side by side counts the same."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stub import StubServer

pytestmark = pytest.mark.browser

#: A dashboard of a feed that has heard how things are, and hears nothing more.
STILL = """async ([counts, workers]) => {
  const { JobsFeed } = await import('/view/dashboard/jobsfeed.js');
  const { renderDashboard } = await import('/view/dashboard/dashboard.js');
  const feed = new JobsFeed('/nowhere/');
  const nothing = [0, 0, 0];
  const minutes = { first_at: 0, ended: nothing, failed: nothing, waiting: [4, 6, 1] };
  const waits = { wait_p50_secs: [null, null, null], wait_p95_secs: [null, null, null] };
  const rest = { workers, failed_last_day: 0, storage: {}, now: 130, quotas: [] };
  feed.overview = { minutes: { ...minutes, ...waits }, ...rest };
  feed.counts = counts;
  const run = { state: 'running', spec: {}, worker_id: 'pool', started_at: new Date().toISOString() };
  for (const id of ['a', 'b']) feed.rows.set(id, { ...run, id, name: id });
  const card = document.createElement('div');
  document.body.replaceChildren(card);
  renderDashboard(card, feed, { jobUrl: (id) => `#${id}` });
}"""


def test_chart_of_the_queue_counts_in_every_bar_who_waits_for_the_first_start(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    page.evaluate(STILL, [{"pending": 3, "retrying": 40}, []])
    queued = page.get_by_role("group", name="Now").get_by_role("button", name="Queued")
    expect(queued.locator(".zb-big")).to_have_text("43")
    expect(queued.get_by_role("img", name="now 3")).to_be_attached()
    titles = queued.locator("svg title").all_text_contents()
    assert [title.partition(": ")[2] for title in titles] == [f"{n} waiting for their first start" for n in (4, 6, 3)]
    heights = [float(bar.get_attribute("height") or 0) for bar in queued.locator(".zb-all").all()]
    assert heights[2] == pytest.approx(heights[1] / 2)


def test_slots_are_free_by_what_their_workers_say_whosever_jobs_run_there(page: Page, stub: StubServer) -> None:
    pool = {"id": "pool", "kind": "local", "slots": 8, "free": 1, "running": 7, "seen_at": 125}
    silent = {"id": "silent", "kind": "local", "slots": 4, "free": 4, "running": 0, "seen_at": 60}
    page.goto(stub.url())
    page.evaluate(STILL, [{"running": 2}, [pool, silent]])
    free = page.get_by_role("group", name="Now").get_by_role("button", name="Slots free")
    expect(free.locator(".zb-big")).to_have_text("1of 8")
    expect(free).to_contain_text("2 workers, 1 quiet")
    expect(page.get_by_role("img", name="7 of 8 slots used")).to_be_attached()


@pytest.mark.parametrize(
    ("secs", "said"), [(7, "7 s"), (785, "13 min"), (3 * 3600 + 1700, "3.5 h"), (30 * 3600, "30 h"), (-2, "0 s")]
)
def test_wait_of_the_oldest_is_no_time_of_day(page: Page, stub: StubServer, secs: float, said: str) -> None:
    page.goto(stub.url())
    page.evaluate(
        STILL.replace("now: 130,", f"now: 86_400 * 9 + {secs}, oldest_pending_at: '1970-01-10T00:00:00Z',"),
        [{"pending": 3}, []],
    )
    queued = page.get_by_role("group", name="Now").get_by_role("button", name="Queued")
    expect(queued.locator(".zb-told")).to_have_text(f"Queued3oldest waits {said}")
