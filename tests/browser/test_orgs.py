"""The dashboard of who belongs to two orgs: what is on its way for one of them when the other is chosen."""

from __future__ import annotations

import re

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
    """Wait until all jobs of the org are here, and drawn."""
    page.wait_for_function(f"feed.org === '{org}' && feed.connection === 'live' && !feed.loading")
    count = page.evaluate("feed.rows.size.toLocaleString('en')")
    expect(page.locator(".zb-end")).to_contain_text(re.compile(rf"(^|\s){count} jobs?\b"))


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


def bulk(page: Page) -> Locator:
    return page.get_by_role("region", name="Selected jobs")


def test_rows_of_an_org_that_was_left_can_be_acted_on_no_more(page: Page, stub: StubServer) -> None:
    show(page, stub, "add('red', 'failed')")
    page.get_by_label("Select all shown").check()
    expect(bulk(page)).to_be_visible()
    assert page.evaluate("feed.choose('blue'); document.querySelector('.zb-bulk').hidden")  # also before the next frame


def test_act_that_is_done_when_another_org_is_shown_is_told_there_and_not_offered_again(
    page: Page, stub: StubServer
) -> None:
    show(page, stub, "add('blue', 'failed'); for (let more = 0; more < 3; more += 1) add('red', 'failed');")
    page.evaluate("held = hold(); after = (path) => path === 'jobs/retry' && held.until")
    press(page, "Retry 3")
    choose(page, "blue")
    page.get_by_label("Select all shown").check()
    page.evaluate("held.go()")
    expect(notice(page)).to_have_text("3 jobs submitted again in red.")
    expect(bulk(page)).to_contain_text("1 selected")  # what was chosen meanwhile was not asked for
    choose(page, "red")
    expect(bulk(page)).to_be_hidden()
    expect(notice(page)).to_be_hidden()


def test_act_that_is_refused_half_done_when_another_org_is_shown_offers_again_what_is_left(
    page: Page, stub: StubServer
) -> None:
    show(page, stub, "first = add('red', 'failed'); add('red', 'failed');")
    page.locator(".zb-seg [data-pick=failed]").click()
    page.evaluate("before = (path) => { if (path === 'jobs/retry') throw new NoAnswer(); }")
    page.evaluate("feed.act('retry', [first.id])")  # has a key of its own now, and is asked for apart
    page.evaluate(
        """() => {
          held = hold();
          const refuse = () => {
            if (acts.length === 3) throw new Refused(429, { error: { message: 'over the limit.' } });
          };
          before = (path) => path === 'jobs/retry' && held.until.then(refuse);
        }"""
    )
    press(page, "Retry 2")
    choose(page, "blue")
    page.evaluate("held.go()")
    expect(notice(page)).to_have_text(
        "In red: Not all jobs were tried again: over the limit. 1 job submitted again in red."
    )
    choose(page, "red")
    page.evaluate("before = pass")
    bulk(page).get_by_role("button", name="Retry 1").click()
    expect(notice(page)).to_have_text("1 job submitted again.")
    assert page.evaluate("jobs.filter((job) => job.retry_of).length") == 2


UNSURE = "Whether it was done is not known: the server did not answer. To ask again does nothing twice."


@pytest.mark.parametrize(
    ("verb", "state", "told", "lost"),
    [
        ("Retry", "failed", "1 job submitted again.", "before"),
        ("Cancel", "running", "1 job canceled.", "after"),
    ],
)
def test_act_whose_answer_is_lost_before_or_after_its_org_is_left_is_told_when_that_is_shown_again(
    page: Page, stub: StubServer, verb: str, state: str, told: str, lost: str
) -> None:
    show(page, stub, f"add('red', '{state}')")
    page.evaluate("[lost, load] = [hold(), hold()]; after = (path) => /^jobs.(retry|cancel)$/.test(path) && lost.until")
    press(page, f"{verb} 1")
    if lost == "before":
        choose(page, "blue")
        page.evaluate("lost.fail(new NoAnswer())")
        expect(notice(page)).to_have_text(f"In red: {UNSURE}")
    else:
        page.evaluate("before = (path) => path === 'whoami' && load.until; lost.fail(new NoAnswer())")
        expect(notice(page)).to_have_text(UNSURE)
        page.evaluate("before = pass")
        choose(page, "blue")
        expect(notice(page)).to_be_hidden()
    page.evaluate("before = (path) => path === 'whoami' && load.until; feed.choose('red')")
    expect(notice(page)).to_have_text(UNSURE)
    page.evaluate("load.go()")
    expect(notice(page)).to_have_text(told)
    expect(bulk(page)).to_be_hidden()
