"""The dashboard of who belongs to two orgs: what is on its way for one of them when the other is chosen."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.stub import StubServer

pytestmark = pytest.mark.browser

#: A dashboard on a server of two orgs. Each request awaits `before(path)`, then what is asked is done, then it
#: awaits `after(path)`; both may throw. `add` makes a job, `hear` tells of one.
DASHBOARD = """async () => {
  const { JobsFeed } = await import('/view/dashboard/jobsfeed.js');
  const { renderDashboard } = await import('/view/dashboard/dashboard.js');
  const { NoAnswer, Refused } = await import('/view/ask.js');
  const minutes = { first_at: 0, ended: [0], failed: [0], waiting: [0], wait_p50_secs: [null], wait_p95_secs: [null] };
  const numbers = { minutes, states: {}, workers: [], storage: {}, failed_last_day: 0, now: 0, quotas: [] };
  const jobs = []; // the newest first
  const byKey = new Map();
  let socket = null;
  let seq = 0;
  const add = (org, state, fields = {}) => {
    const id = String(jobs.length).padStart(36, '0');
    jobs.unshift({ id, org_id: org, owner: 'ada', state, event_seq: ++seq, spec: {}, ...fields });
    return jobs[0];
  };
  const repeat = ({ id, org_id: org }, key) => {
    const isThere = byKey.has(key + id);
    if (!isThere) byKey.set(key + id, add(org, 'pending', { retry_of: id }));
    return { ...byKey.get(key + id), deduplicated: isThere };
  };
  const answer = (path, { body, key }) => {
    if (path === 'whoami') return { owner: 'ada', home: 'red', roles: { red: 'submitter', blue: 'submitter' } };
    const query = new URLSearchParams(path.split('?')[1]);
    const org = query.get('org') ?? 'red';
    if (path.startsWith('overview')) return { org_id: org, event_seq: seq, ...numbers };
    if (path.startsWith('jobs?')) {
      const state = query.get('state');
      const from = Number(query.get('cursor'));
      const end = from + Number(query.get('limit'));
      const found = jobs.filter((job) => job.org_id === org && (!state || job.state === state));
      return { jobs: structuredClone(found.slice(from, end)), next_cursor: end < found.length ? end : null };
    }
    const meant = jobs.filter(({ id }) => body.ids.includes(id));
    if (path === 'jobs/retry') return { jobs: meant.map((job) => repeat(job, key)) };
    if (path === 'jobs/cancel') for (const job of meant) Object.assign(job, { state: 'canceled', event_seq: ++seq });
    return { jobs: structuredClone(meant) };
  };
  const server = {
    async ask(path, options = {}) {
      if (options.key) acts.push(options.key);
      await before(path);
      const found = answer(path, options);
      await after(path);
      return [found];
    },
    events() {
      socket = { close() {} };
      const opened = socket;
      setTimeout(() => opened.onopen());
      return socket;
    },
    homePage: () => '#',
  };
  const hear = (kind, job) =>
    socket.onmessage({ data: JSON.stringify([{ kind, seq: ++seq, job_id: job.id, org_id: job.org_id, data: job }]) });
  const hold = () => {
    const held = {};
    held.until = new Promise((go, fail) => Object.assign(held, { go, fail }));
    return held;
  };
  const settled = () => new Promise((done) => setTimeout(done)); // what is answered at once has been taken
  const pass = () => {};
  Object.assign(window, { NoAnswer, Refused, jobs, add, hear, hold, settled, acts: [] });
  Object.assign(window, { pass, before: pass, after: pass });
  window.show = () => {
    const card = document.createElement('div');
    document.body.replaceChildren(card);
    window.feed = new JobsFeed(server).start();
    renderDashboard(card, feed, { jobUrl: (id) => `#${id}` });
  };
}"""


def show(page: Page, stub: StubServer, jobs: str) -> None:
    """Open the dashboard on the jobs of the org red that a script makes."""
    page.goto(stub.url())
    page.evaluate(DASHBOARD)
    page.evaluate(f"{{ {jobs} }} show()")
    loaded(page, "red")


def loaded(page: Page, org: str) -> None:
    page.wait_for_function(f"feed.org === '{org}' && feed.connection === 'live' && !feed.loading")


def choose(page: Page, org: str) -> None:
    page.evaluate(f"feed.choose('{org}')")
    loaded(page, org)


@pytest.mark.parametrize("late", ["until it is asked for", "until it is answered"])
def test_job_that_was_unknown_in_one_org_stands_in_no_other(page: Page, stub: StubServer, late: str) -> None:
    show(page, stub, "add('blue', 'failed')")
    page.evaluate(
        "held = hold(); asked = false; before = (path) => path === 'jobs/lookup' && (asked = true) && held.until"
    )
    page.evaluate("hear('job_progressed', add('red', 'running'))")
    if late == "until it is answered":
        page.wait_for_function("asked")
    choose(page, "blue")
    page.wait_for_function("asked")
    page.evaluate("held.go(); settled()")
    assert page.evaluate("[...feed.rows.values()].map(({ state }) => state)") == ["failed"]


def test_read_of_one_org_that_ends_late_says_nothing_of_the_next(page: Page, stub: StubServer) -> None:
    show(page, stub, "for (let more = 0; more < 201; more += 1) add('blue', 'failed')")
    page.evaluate(
        """async () => {
          [red, blue] = [hold(), hold()];
          before = (path) => (/org=red.*state=/.test(path) ? red.until : /org=blue.*cursor=/.test(path) && blue.until);
          feed.choose('red');
        }"""
    )
    page.wait_for_function("feed.connection === 'live'")
    page.evaluate("feed.choose('blue')")
    page.wait_for_function("feed.rows.size === 200 && feed.connection === 'live'")
    page.evaluate("red.go(); settled()")
    assert page.evaluate("[feed.complete, feed.loading]") == [False, True]
    page.evaluate("blue.go()")
    loaded(page, "blue")
    assert page.evaluate("[feed.complete, feed.rows.size]") == [True, 201]


def test_search_in_one_org_that_fails_late_is_not_told_of_the_next(page: Page, stub: StubServer) -> None:
    show(page, stub, "")
    page.evaluate(
        """() => {
          [others, search] = [hold(), hold()];
          before = (path) => (/state=/.test(path) ? others.until : /q=old/.test(path) && search.until);
          feed.choose('red');
        }"""
    )
    page.wait_for_function("feed.connection === 'live'")
    page.evaluate("void feed.find({ q: 'old' }); before = pass")
    choose(page, "blue")
    page.evaluate("search.fail(new Refused(503, null)); settled()")
    assert page.evaluate("feed.problem") is None


def press(page: Page, name: str) -> None:
    """Choose all rows that are shown, and act on them."""
    page.get_by_label("Select all shown").check()
    page.get_by_role("button", name=name, exact=True).click()


def notice(page: Page) -> Locator:
    return page.locator(".zb-page > .zb-notice")


def test_repeat_of_long_ago_or_of_a_colleague_is_no_answer_to_the_one_that_was_lost(
    page: Page, stub: StubServer
) -> None:
    show(page, stub, "failed = add('red', 'failed'); add('red', 'succeeded', { retry_of: failed.id });")
    page.evaluate("before = (path) => { if (path === 'jobs/retry') throw new NoAnswer(); }")
    page.locator(".zb-seg [data-pick=failed]").click()
    press(page, "Retry 1")
    expect(notice(page)).to_have_text("No job is known to have been submitted again.")
    choose(page, "blue")
    choose(page, "red")  # all rows come anew
    page.evaluate("hear('job_submitted', add('red', 'pending', { retry_of: failed.id, owner: 'bob' }))")
    page.evaluate("before = pass; settled()")
    expect(notice(page)).to_be_hidden()
    page.get_by_role("button", name="Retry 1").click()
    expect(notice(page)).to_have_text("1 job submitted again.")
    assert page.evaluate("acts.length === 2 && acts[0] === acts[1]")  # one key
