"""Acts on many rows of the dashboard: done once, to the rows that are seen, and told."""

from __future__ import annotations

from collections import Counter

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import log_in, pause
from tests.browser.stub import StubServer
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser


def states(hand: HandWorker, name: str) -> Counter[str]:
    """Count the jobs of this name by state."""
    return Counter(job["state"] for job in hand.get(f"jobs?name={name}")["jobs"])


def show(page: Page, text: str, count: int) -> None:
    """Filter the rows."""
    page.get_by_label("Filter jobs").fill(text)
    expect(page.locator(".zb-jobs tbody tr:not([aria-hidden])")).to_have_count(count)


def test_retry_of_many_is_told_and_a_second_press_does_nothing(page: Page, host: Owner, hand: HandWorker) -> None:
    hand.submit(3, name="again")
    for job_id in hand.start(3):
        hand.send(job_id, "failed", error={"ename": "E", "evalue": "no", "traceback": []}, exit_code=1)
    log_in(page, host)
    page.locator(".zb-seg [data-pick=failed]").click()
    show(page, "again", 3)
    page.get_by_label("Select all shown").check()
    retry = page.get_by_role("button", name="Retry 3")
    place = retry.bounding_box()
    assert place is not None
    retry.click()
    # The new jobs wait, and the filter hides them.
    expect(page.locator(".zb-notice")).to_contain_text("3 jobs submitted again.")
    expect(page.locator(".zb-vh[role=status]").last).to_have_text("3 jobs submitted again.")
    expect(page.get_by_role("region", name="Selected jobs")).to_be_hidden()
    expect(page.get_by_label("Select all shown")).to_be_focused()
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.locator(".zb-seg [data-pick='']").click()
    show(page, "again", 6)
    expect(page.locator(".zb-notice")).to_be_hidden()
    assert states(hand, "again") == {"failed": 3, "pending": 3}


def test_rows_that_the_filter_hides_are_not_acted_on(page: Page, host: Owner, hand: HandWorker) -> None:
    hand.submit(2, name="kept")
    hand.submit(2, name="ended")
    log_in(page, host)
    bulk = page.get_by_role("region", name="Selected jobs")
    show(page, "kept", 2)
    page.get_by_label("Select all shown").check()
    show(page, "ended", 2)
    expect(bulk).to_be_hidden()
    page.get_by_label("Select all shown").check()
    expect(bulk).to_contain_text("2 selected")
    bulk.get_by_role("button", name="Cancel 2").click()
    expect(page.locator(".zb-notice")).to_contain_text("2 jobs canceled.")
    assert states(hand, "ended") == {"canceled": 2}
    assert states(hand, "kept") == {"pending": 2}


def test_as_many_rows_of_another_filter_are_acted_on_in_place_of_the_first(
    page: Page, host: Owner, hand: HandWorker
) -> None:
    for name in ("this pair", "that pair"):
        hand.submit(2, name=name)
    log_in(page, host)
    for name in ("this pair", "that pair"):
        show(page, name, 2)
        page.get_by_label("Select all shown").check()
    show(page, "this pair", 2)
    page.get_by_role("button", name="Cancel 2").click()
    expect(page.locator(".zb-notice")).to_contain_text("2 jobs canceled.")
    assert states(hand, "this pair") == {"canceled": 2}
    assert states(hand, "that pair") == {"pending": 2}


def test_button_that_comes_to_stand_under_pointer_or_key_takes_no_press_that_was_meant_for_another(
    page: Page, host: Owner, hand: HandWorker
) -> None:
    hand.submit(name="turned")
    (job_id,) = hand.start()
    page.clock.install()
    log_in(page, host)
    show(page, "turned", 1)
    page.get_by_label("Select all shown").check()
    cancel, retry = (page.get_by_role("button", name=name) for name in ("Cancel 1", "Retry 1"))
    page.clock.run_for(500)
    cancel.focus()
    place = cancel.bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    pause(page)
    hand.send(job_id, "failed", error={"ename": "E", "evalue": "no", "traceback": []}, exit_code=1)
    for _ in range(100):  # frames; rows are put in order every few of them
        page.clock.run_for(16)
        if retry.is_visible():
            break
    under = retry.bounding_box()
    assert under is not None and under["x"] < x < under["x"] + under["width"]
    expect(page.get_by_role("button", name="Clear")).to_be_focused()
    page.mouse.click(x, y)
    page.evaluate("() => {}")
    assert states(hand, "turned") == {"failed": 1}
    page.clock.run_for(500)
    page.mouse.click(x, y)
    page.clock.run_for(500)
    expect(page.locator(".zb-notice")).to_contain_text("1 job submitted again.")


#: What else an overview says of nothing.
REST_OF_OVERVIEW = (
    "workers: [], failed_last_day: 0, storage: {}, now: 0, minutes: { first_at: 0, ended: [], failed: [], waiting: [],"
    " wait_p50_secs: [], wait_p95_secs: [] }"
)
#: A dashboard on a server of one running job, which refuses acts; `lose` and `back` are its connection.
LOSING = """async () => {
  const { JobsFeed } = await import('/view/dashboard/jobsfeed.js');
  const { Refused } = await import('/view/ask.js');
  const { renderDashboard } = await import('/view/dashboard/dashboard.js');
  let socket = null;
  let down = false;
  const job = { id: 'a', name: 'n', owner: 'ada', state: 'running', event_seq: 1, spec: {} };
  const server = {
    async ask(path) {
      if (down) {
        window.tries += 1;
        throw new Error('no answer');
      }
      if (path === 'jobs/cancel') throw new Refused(409, null);
      if (path === 'whoami') return [{ owner: 'ada' }];
      if (path.startsWith('overview')) return [{ org_id: 'o', states: {}, event_seq: 9, quotas: [], ...OVERVIEW }];
      return [{ jobs: [job], next_cursor: null }];
    },
    events() {
      socket = { close() {} };
      setTimeout(() => (down ? socket.onclose({}) : socket.onopen()));
      return socket;
    },
  };
  const card = document.createElement('div');
  document.body.replaceChildren(card);
  window.feed = new JobsFeed(server).start();
  renderDashboard(card, feed);
  window.tries = 0;
  window.lose = () => {
    down = true;
    socket.onclose({});
  };
  window.back = () => {
    down = false;
    feed.heardAt = 0; // a long break
    dispatchEvent(new Event('online'));
  };
}""".replace("...OVERVIEW", REST_OF_OVERVIEW)


def test_refused_act_does_not_hide_a_lost_connection_and_goes_with_it(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    page.evaluate(LOSING)
    page.wait_for_function("feed.connection === 'live' && !feed.loading")
    page.evaluate("feed.act('cancel', ['a'])")
    notice = page.locator(".zb-page > .zb-notice")
    expect(notice).to_contain_text("Not all jobs were canceled")
    page.evaluate("lose()")
    expect(notice).to_contain_text("No connection to the server")
    page.wait_for_function("feed.nextTryAt && tries > 1")
    expect(notice).to_contain_text("Not all jobs were canceled")
    page.evaluate("back()")
    page.wait_for_function("feed.connection === 'live' && !feed.loading")
    expect(notice).to_be_hidden()


#: Acts on, and looks at, five jobs of which a server takes two at once; returns what it was asked, and what it gave.
PARTS = """async () => {
  const { Refused, askMany } = await import('/view/ask.js');
  const { ManyActs } = await import('/view/many.js');
  const asked = [];
  const server = {
    async ask(path, { body: { ids }, key }) {
      asked.push([path, ids.length, Boolean(key)]);
      if (ids.length > 2) throw new Refused(413, null);
      return [{ jobs: ids.map((id) => ({ id })), event_seq: 1 }, 0];
    },
  };
  const ids = ['a', 'b', 'c', 'd', 'e'];
  const [{ jobs }] = await askMany(server, 'lookup', ids);
  const done = [];
  for await (const found of new ManyActs(server).ask('retry', ids)) done.push(...found.jobs);
  return { asked, seen: jobs.map(({ id }) => id), done: done.map(({ id }) => id) };
}"""


def test_jobs_that_are_too_large_together_are_taken_in_parts(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    told = page.evaluate(PARTS)
    assert told["seen"] == told["done"] == ["a", "b", "c", "d", "e"]
    sizes = [5, 2, 3, 1, 2]
    assert told["asked"] == [
        *(["jobs/lookup", size, False] for size in sizes),
        *(["jobs/retry", size, True] for size in sizes),
    ]


#: A dashboard of one job that waits; it begins while an overview is under way that has not counted that, and ends.
OVERTAKEN = """async () => {
  const { JobsFeed } = await import('/view/dashboard/jobsfeed.js');
  let socket = null;
  let let_go = null;
  let seq = 1;
  const states = { pending: 1, running: 0, succeeded: 0 };
  const job = { id: 'a', name: 'n', owner: 'ada', state: 'pending', event_seq: 1, org_id: 'o', spec: {} };
  const server = {
    async ask(path) {
      if (path === 'whoami') return [{ owner: 'ada' }];
      if (path.startsWith('overview')) {
        if (seq > 1) await new Promise((resolve) => (let_go = resolve));
        return [{ org_id: 'o', states, event_seq: 1, quotas: [], ...OVERVIEW }];
      }
      return [{ jobs: [job], next_cursor: null }];
    },
    events() {
      socket = { close() {} };
      setTimeout(() => socket.onopen());
      return socket;
    },
  };
  const feed = new JobsFeed(server).start();
  const until = async (holds) => {
    while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  const tell = async (kind, state) => {
    seq += 1;
    const event = { kind, seq, job_id: 'a', org_id: 'o', data: { state } };
    socket.onmessage({ data: JSON.stringify([event]) });
    await until(() => feed.rows.get('a').state === state);
  };
  await until(() => feed.connection === 'live' && !feed.loading);
  seq += 1;
  document.dispatchEvent(new Event('visibilitychange')); // looks again
  await until(() => let_go);
  await tell('job_started', 'running');
  const before = feed.overview;
  let_go();
  await until(() => feed.overview !== before);
  await tell('job_completed', 'succeeded');
  feed.stop();
  return feed.counts;
}""".replace("...OVERVIEW", REST_OF_OVERVIEW)


def test_states_that_changed_while_an_overview_was_under_way_are_counted(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    assert page.evaluate(OVERTAKEN) == {"pending": 0, "running": 0, "succeeded": 1}
