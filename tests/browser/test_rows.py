"""The rows that the dashboard holds: bounded whatever pours in, and those of the server after any break."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stub import StubServer

pytestmark = pytest.mark.browser

#: A feed at a server that is a list of jobs, the oldest first; `hear` is its socket, `sorts` counts sorts on the page.
FEED = """async ([count, running]) => {
  const { JobsFeed, MOST_ROWS } = await import('/view/dashboard/jobsfeed.js');
  const idOf = (number) => String(number).padStart(36, '0');
  const jobs = [];
  const submit = (state) => {
    jobs.push({ id: idOf(jobs.length), state, spec: { code: '1' }, owner: 'ada', event_seq: jobs.length + 1 });
    return jobs.at(-1);
  };
  for (let number = 0; number < count; number += 1) submit(running.includes(number) ? 'running' : 'succeeded');
  let seq = 1_000_000;
  let socket = null;
  const server = {
    async ask(path) {
      if (path.startsWith('overview')) {
        const failed = jobs.filter(({ state }) => state === 'failed').length;
        const minutes = { first_at: 0, ended: [], failed: [], waiting: [], wait_p50_secs: [], wait_p95_secs: [] };
        const numbers = { minutes, workers: [], storage: {}, failed_last_day: failed, now: 0, quotas: [] };
        return [{ org_id: 'default', states: { failed }, event_seq: seq, ...numbers }];
      }
      if (path === 'whoami') return [{ owner: 'ada' }];
      const query = new URLSearchParams(path.split('?')[1]);
      const state = query.get('state');
      const owner = query.get('owner');
      const limit = Number(query.get('limit'));
      const end = Number(query.get('cursor') ?? jobs.length);
      const fits = (job) => (!state || job.state === state) && (!owner || job.owner === owner);
      const found = jobs.slice(0, end).filter(fits).reverse().slice(0, limit);
      const cursor = found.length === limit ? Number(found.at(-1).id) : 0;
      return [{ jobs: structuredClone(found), next_cursor: cursor ? String(cursor) : null }];
    },
    events() {
      socket = { close() {} };
      setTimeout(() => socket.onopen());
      return socket;
    },
  };
  const hear = (events) => socket.onmessage({ data: JSON.stringify(events) });
  const heard = (kind, job) => ({ kind, seq: ++seq, job_id: job.id, data: structuredClone(job) });
  const sort = Array.prototype.sort;
  window.sorts = 0;
  Array.prototype.sort = function (...given) {
    sorts += 1;
    return sort.apply(this, given);
  };
  window.feed = new JobsFeed(server, {});
  Object.assign(window, { MOST_ROWS, idOf, jobs, submit, hear, heard, breakSocket: () => socket.onclose({}) });
  feed.start();
}"""


def begin(page: Page, stub: StubServer, count: int, *running: int) -> None:
    """Have the page read that many jobs, of which some run and all others have succeeded."""
    page.goto(stub.url())
    page.evaluate(FEED, [count, list(running)])
    page.wait_for_function("feed.connection === 'live' && !feed.loading && feed.rows.size")


def test_flood_of_submits_is_bounded_and_put_in_order_once_a_batch(page: Page, stub: StubServer) -> None:
    begin(page, stub, 3, 0)
    held = page.evaluate(
        """() => {
          const held = [];
          for (let batch = 0; batch < 7; batch += 1) {
            sorts = 0;
            hear(Array.from({ length: 2000 }, () => heard('job_submitted', submit('pending'))));
            held.push([feed.rows.size, sorts]);
          }
          return held;
        }"""
    )
    most = page.evaluate("MOST_ROWS")
    assert [rows for rows, _ in held] == [2003, 4003, 6003, 8003, 10_003, most, most]
    assert max(sorts for _, sorts in held) == 1
    assert page.evaluate("feed.rows.has(jobs.at(-1).id)")
    assert page.evaluate("feed.rows.get(idOf(0)).state") == "running"  # what runs stays, however old
    assert not page.evaluate("feed.rows.has(idOf(3)) || feed.complete")


def test_rows_after_a_long_break_are_those_of_the_server_and_shown_meanwhile(page: Page, stub: StubServer) -> None:
    begin(page, stub, 12_000, 5000)
    assert page.evaluate("[feed.rows.size, feed.rows.get(idOf(5000)).state]") == [10_000, "running"]
    fewest = page.evaluate(
        """async () => {
          jobs[5000].state = 'succeeded';
          jobs[5000].event_seq = 900_000;
          for (let number = 0; number < 400; number += 1) submit('succeeded');
          let fewest = Infinity;
          const loaded = new Promise((done) => {
            let began = false;
            feed.on(() => {
              fewest = Math.min(fewest, feed.rows.size);
              began ||= feed.loading;
              if (began && !feed.loading) done();
            });
          });
          feed.heardAt = Date.now() - 120_000;
          breakSocket();
          await loaded;
          return fewest;
        }"""
    )
    most = page.evaluate("MOST_ROWS")
    assert fewest == most
    assert page.evaluate("feed.rows.get(idOf(5000)).state") == "succeeded"
    newest = "Array.from({ length: MOST_ROWS }, (_, place) => jobs.at(-1 - place).id)"
    assert page.evaluate(f"{newest}.every((id) => feed.rows.has(id))")
    assert page.evaluate("feed.rows.size") == most


BREAK = """() => {
  const loaded = new Promise((done) => {
    let began = false;
    feed.on(() => {
      began ||= feed.loading;
      if (began && !feed.loading) done();
    });
  });
  feed.heardAt = Date.now() - 120_000;
  breakSocket();
  return loaded;
}"""
FAILED = "[...feed.rows.values()].filter(({ state }) => state === 'failed').length"
FLOOD = "hear(Array.from({ length: 2000 }, () => heard('job_submitted', submit('pending'))))"


def test_older_jobs_that_were_looked_for_stay_while_they_are_wanted(page: Page, stub: StubServer) -> None:
    begin(page, stub, 12_000)
    page.evaluate("for (const job of jobs.slice(0, 1200)) job.state = 'failed'")
    page.evaluate(
        """async () => {
          const { renderDashboard } = await import('/view/dashboard/dashboard.js');
          const styles = document.createElement('style');
          styles.textContent = '.zb-jobsbox { height: 300px }';
          const card = document.createElement('div');
          document.body.replaceChildren(styles, card);
          renderDashboard(card, feed);
        }"""
    )
    page.evaluate(BREAK)  # the overview counts what failed
    page.locator(".zb-seg [data-pick=failed]").click()
    expect(page.locator(".zb-end")).to_contain_text("Newest 1,000 of 1,200 failed; a narrower filter finds older ones")
    page.evaluate(FLOOD)
    assert page.evaluate(FAILED) == 1000
    assert page.evaluate("feed.rows.size") <= page.evaluate("MOST_ROWS") + 500
    page.evaluate(BREAK)
    assert page.evaluate(FAILED) == 1000
    page.evaluate("jobs[1250].owner = 'bob'")
    page.evaluate("feed.find({ owner: 'bob' })")
    assert page.evaluate("[feed.rows.has(idOf(1250)), feed.moreFit]") == [True, False]
    page.evaluate(FLOOD)
    assert page.evaluate(FAILED) == 0
    assert page.evaluate("feed.rows.has(idOf(1250))")


def test_older_jobs_are_looked_for_by_a_filter_that_was_there_before_the_rows(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    page.evaluate(FEED, [11_000, []])
    page.evaluate("jobs[7].owner = 'bob'")
    page.evaluate(
        """async () => {
          const { renderDashboard } = await import('/view/dashboard/dashboard.js');
          renderDashboard(document.body, feed, { filter: { owner: 'bob' } });
        }"""
    )
    expect(page.locator(".zb-jobs tbody tr:not([aria-hidden])")).to_have_count(1)
    expect(page.get_by_label("Owner")).to_have_value("bob")
