"""Acts whose answer is lost: nobody is told that they were not done, and asked for again they are not done twice."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route

from tests.browser.conftest import log_in
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser

FEEDS = {
    "job": ("server.js", "new it.ServerFeed(api, { id, name: 'n', state: 'canceled' })", "feed.act('retry')"),
    "group": (
        "groupfeed.js",
        "new it.GroupFeed(api, { name: 'g', org: 'default', runs: [{ id, state: 'canceled' }] })",
        "feed.act('retry', feed.jobs)",
    ),
    "dashboard": ("dashboard/jobsfeed.js", "new it.JobsFeed(api)", "feed.act('retry', [id])"),
}
LIVE = """() => new Promise((done) => {
  const look = () => feed.connection === 'live' && done();
  feed.on(look);
  look();
})"""


@pytest.mark.parametrize("kind", FEEDS)
def test_repeat_whose_answer_is_lost_is_not_denied_nor_made_twice(
    page: Page, host: Owner, hand: HandWorker, kind: str
) -> None:
    (job_id,) = hand.submit(name=f"lost-{kind}")
    hand.post("jobs/cancel", {"ids": [job_id]})
    log_in(page, host)
    module, feed, act = FEEDS[kind]
    page.evaluate(
        f"""async (id) => {{
          const it = await import('/zbrain/static/{module}');
          const api = new URL('/zbrain/api/', location).href;
          window.id = id;
          window.feed = {feed}.start();
        }}""",
        job_id,
    )
    page.evaluate(LIVE)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    def repeats() -> int:
        return len(hand.get(f"jobs?name=lost-{kind}")["jobs"]) - 1

    page.route("**/retry", lose)
    page.evaluate(act)
    assert "Whether it was done is not known" in page.evaluate("feed.problem")
    assert repeats() == 1
    page.unroute("**/retry")
    page.evaluate(act)
    assert page.evaluate("feed.problem") is None
    assert repeats() == 1
    if kind == "dashboard":  # what is meant as another repeat is one
        page.evaluate(act)
        assert repeats() == 2


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
