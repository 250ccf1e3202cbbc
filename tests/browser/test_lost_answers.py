"""Acts whose answer is lost: nobody is told that they were not done, and asked for again they are not done twice."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import log_in
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser

#: By kind of view: module, feed, what a retry asks, and the request by which a load waits here.
FEEDS = {
    "job": ("server.js", "new it.ServerFeed(api, { id, name: 'n', state: 'canceled' })", "feed.act('retry')", "whoami"),
    "group": (
        "groupfeed.js",
        "new it.GroupFeed(api, { name: 'g', org: 'default', runs: [{ id, state: 'canceled' }] })",
        "feed.act('retry', feed.jobs)",
        "lookup",
    ),
    "dashboard": ("dashboard/jobsfeed.js", "new it.JobsFeed(api)", "feed.act('retry', [id])", "whoami"),
}


def until(page: Page, condition: str) -> None:
    """Wait until the feed says so."""
    page.evaluate(f"new Promise((done) => {{ const look = () => ({condition}) && done(); feed.on(look); look(); }})")


def lose(route: Route) -> None:
    """Let the server do it, and no answer come."""
    route.fetch()
    route.abort()


def hold(_: Route) -> None:
    """Let no answer come as long as the test lasts."""


def canceled(hand: HandWorker, name: str) -> str:
    """Make a job that can be submitted again."""
    (job_id,) = hand.submit(name=name, tags={"zbrain.group": name})
    hand.post("jobs/cancel", {"ids": [job_id]})
    return job_id


def repeats(hand: HandWorker, name: str) -> int:
    return len(hand.get(f"jobs?name={name}")["jobs"]) - 1


def follow(page: Page, host: Owner, kind: str, job_id: str) -> None:
    """Begin a feed of the job."""
    log_in(page, host)
    module, feed, *_ = FEEDS[kind]
    page.evaluate(
        f"""async (id) => {{
          const it = await import('/zbrain/static/{module}');
          const api = new URL('/zbrain/api/', location).href;
          window.id = id;
          window.feed = {feed}.start();
        }}""",
        job_id,
    )
    until(page, "feed.connection === 'live' && !feed.loading")


@pytest.mark.parametrize("kind", FEEDS)
def test_repeat_whose_answer_is_lost_is_not_denied_nor_made_twice(
    page: Page, host: Owner, hand: HandWorker, kind: str
) -> None:
    name = f"lost-{kind}"
    follow(page, host, kind, canceled(hand, name))
    *_, act, first = FEEDS[kind]
    page.route(f"**/{first}", hold)
    page.route("**/retry", lose)
    page.evaluate(act)
    assert "Whether it was done is not known" in page.evaluate("feed.problem")
    assert repeats(hand, name) == 1
    page.unroute("**/retry")
    if kind == "dashboard":  # what is done to another job answers nothing of this one
        page.evaluate("id => feed.act('cancel', [id]).then(() => 1)", canceled(hand, "other"))
        assert [job["deduplicated"] for job in page.evaluate(act)] == [True]
    else:
        page.evaluate(act)
        assert "already" in page.evaluate("feed.problem")
    assert repeats(hand, name) == 1


def test_repeat_that_has_come_to_light_is_repeated_once_more_if_that_is_asked(
    page: Page, host: Owner, hand: HandWorker
) -> None:
    follow(page, host, "dashboard", canceled(hand, "known"))
    page.route("**/retry", lose)
    page.evaluate("feed.act('retry', [id])")
    page.unroute("**/retry")
    until(page, "!feed.problem")  # the rows tell
    assert [job.get("deduplicated") for job in page.evaluate("feed.act('retry', [id])")] == [None]
    assert repeats(hand, "known") == 2


def test_dashboard_says_of_a_repeat_that_it_had_been_made(page: Page, host: Owner, hand: HandWorker) -> None:
    canceled(hand, "told-once")
    log_in(page, host)
    page.get_by_label("Filter jobs").fill("told-once")
    rows = page.locator(".zb-jobs tbody tr:not([aria-hidden])")
    expect(rows).to_have_count(1)
    page.get_by_label("Select all shown").check()
    page.route("**/whoami", hold)
    page.route("**/retry", lose)
    page.get_by_role("button", name="Retry 1").click()
    notice = page.locator(".zb-page > .zb-notice")
    expect(notice).to_contain_text("Whether it was done is not known")
    page.unroute("**/retry")
    page.get_by_role("button", name="Retry 1").click()
    expect(notice).to_have_text("1 job had been submitted again already; nothing new was made of it.")


def test_kernel_that_ends_leaves_open_only_what_it_was_asked(page: Page, host: Owner) -> None:
    log_in(page, host)
    unsure = page.evaluate(
        """async () => {
          const { KernelServer } = await import('/zbrain/static/kernel.js');
          const { Unreached } = await import('/zbrain/static/ask.js');
          const post = (open) =>
            new KernelServer(open).ask('jobs/cancel', { method: 'POST' }).catch((error) => error.isUnsure);
          const ends = (heard, lost) => ({ send: () => setTimeout(() => lost('It has ended.')), close() {} });
          const absent = () => {
            throw new Unreached('No kernel runs.');
          };
          return [await post(ends), await post(absent)];
        }"""
    )
    assert unsure == [True, False]
