"""Acts whose answer is lost: nobody is told that they were not done, and asked for again they are not done twice."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

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


#: What stands below the table when no more rows come.
ALL_HERE = re.compile(r"^[\d,]+ (of [\d,]+ )?jobs?\b")


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
        page.evaluate("id => feed.act('cancel', [id])", canceled(hand, "other"))
        page.evaluate(act)
        assert [job["deduplicated"] for job in page.evaluate("feed.outcome.jobs")] == [True]
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
    page.evaluate("feed.act('retry', [id])")
    assert page.evaluate("feed.outcome.isWhole && !feed.outcome.jobs[0].deduplicated")
    assert repeats(hand, "known") == 2


def choose(page: Page, host: Owner, hand: HandWorker, name: str, count: int = 1) -> Locator:
    """Choose on the dashboard as many canceled jobs of this name; return what acts on them."""
    hand.post("jobs/cancel", {"ids": hand.submit(count, name=name)})
    log_in(page, host)
    expect(page.locator(".zb-end")).to_have_text(ALL_HERE)
    page.locator(".zb-seg [data-pick=canceled]").click()
    page.get_by_label("Filter jobs").fill(name)
    bulk = page.get_by_role("region", name="Selected jobs")
    page.get_by_label("Select all shown").check()
    expect(bulk).to_contain_text(f"{count:,} selected")
    return bulk


def notice(page: Page) -> Locator:
    return page.locator(".zb-page > .zb-notice")


def test_dashboard_says_of_a_repeat_that_it_had_been_made(page: Page, host: Owner, hand: HandWorker) -> None:
    bulk = choose(page, host, hand, "told-once")
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route("**/whoami", keep)
    page.route("**/retry", lose)
    bulk.get_by_role("button", name="Retry 1").click()
    expect(notice(page)).to_contain_text("Whether it was done is not known")
    page.unroute("**/retry")
    bulk.get_by_role("button", name="Retry 1").click()
    expect(notice(page)).to_have_text("1 job had been submitted again already; nothing new was made of it.")
    expect(page.locator(".zb-end")).to_contain_text("more come")
    held[0].continue_()
    expect(page.locator(".zb-end")).to_have_text(ALL_HERE)
    expect(notice(page)).to_have_text("1 job had been submitted again already; nothing new was made of it.")


def test_jobs_whose_repeats_a_load_shows_are_told_and_chosen_no_more(page: Page, host: Owner, hand: HandWorker) -> None:
    bulk = choose(page, host, hand, "shown", 3)
    page.route("**/retry", lose)
    bulk.get_by_role("button", name="Retry 3").click()
    expect(notice(page)).to_have_text("3 jobs submitted again.")
    expect(bulk).to_be_hidden()
    assert repeats(hand, "shown") == 2 + 3


def test_jobs_that_a_load_does_not_show_stay_chosen_until_their_repeats_come_to_light(
    page: Page, host: Owner, hand: HandWorker
) -> None:
    bulk = choose(page, host, hand, "slow", 2)
    asked: list[Request] = []

    def give_up(route: Route) -> None:
        asked.append(route.request)
        route.abort()

    page.route("**/retry", give_up)
    bulk.get_by_role("button", name="Retry 2").click()
    expect(notice(page)).to_have_text("No job is known to have been submitted again.")
    expect(bulk.get_by_role("button", name="Retry 2")).to_be_enabled()
    # The server had not come to it yet.
    keys = {"Idempotency-Key": asked[0].headers["idempotency-key"]}
    assert hand.http.post("jobs/retry", json=asked[0].post_data_json, headers=keys).status_code == 200
    expect(notice(page)).to_have_text("2 jobs submitted again.")
    expect(bulk).to_be_hidden()


def test_jobs_of_a_lot_that_was_done_are_not_repeated_when_the_next_is_refused(
    page: Page, host: Owner, hand: HandWorker
) -> None:
    bulk = choose(page, host, hand, "lots", 1001)
    asked: list[list[str]] = []

    def refuse_second(route: Route) -> None:
        asked.append(route.request.post_data_json["ids"])
        if len(asked) == 2:
            route.fulfill(status=429, json={"error": {"message": "over the limit of pending jobs."}})
        else:
            route.continue_()

    page.route("**/retry", refuse_second)
    bulk.get_by_role("button", name="Retry 1,001").click()
    expect(notice(page)).to_have_text(
        "Not all jobs were tried again: over the limit of pending jobs. 1,000 jobs submitted again."
    )
    bulk.get_by_role("button", name="Retry 1").click()
    expect(notice(page)).to_have_text("1 job submitted again.")
    expect(bulk).to_be_hidden()
    assert asked[2] == asked[1]


@pytest.mark.parametrize("kind", FEEDS)
def test_cancel_whose_answer_is_lost_is_told_until_a_load_shows_what_has_come_of_it(
    page: Page, host: Owner, hand: HandWorker, kind: str
) -> None:
    (job_id,) = hand.submit(name=f"cancel-{kind}")
    follow(page, host, kind, job_id)
    jobs = {"job": "", "group": ", feed.jobs", "dashboard": ", [id]"}[kind]
    # Not one answer comes until the connection has been given up.
    page.route("**/cancel", lose)
    loads = FEEDS[kind][-1]
    page.route(f"**/{loads}", lambda route: route.abort())
    page.evaluate(f"feed.act('cancel'{jobs})")
    until(page, "feed.connection === 'reconnecting' && feed.nextTryAt")
    page.evaluate("feed.tries = []; feed.on(() => feed.tries.push([feed.nextTryAt, feed.problem])); 1")
    until(page, "feed.tries.length > 3")  # loads begin, and do not succeed
    assert all("Whether it was done is not known" in (told or "") for _, told in page.evaluate("feed.tries"))
    page.unroute(f"**/{loads}")
    page.evaluate("dispatchEvent(new Event('online'))")
    until(page, "feed.connection === 'live' && !feed.loading")
    assert page.evaluate("feed.problem") is None
    if kind == "dashboard":
        assert page.evaluate("feed.outcome.jobs.map(({ state }) => state)") == ["canceled"]


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
