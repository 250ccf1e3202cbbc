"""The view of a group in a real browser: a square a run, counts, failures by reason, and the run that is picked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.stub import StubServer, utc
from tests.places import CASES, runs_of

pytestmark = pytest.mark.browser


def show(page: Page, stub: StubServer, theme: str = "light") -> Locator:
    page.goto(stub.url(theme=theme))
    page.wait_for_function("window.views?.length && views[0].feed.connection !== 'opening'")
    return page.locator(".zb").first


def squares(view: Locator) -> Locator:
    return view.locator(".zb-squares .zb-sq")


def test_group_shows_a_square_a_run_and_counts_that_move(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["succeeded", "running", "pending", "pending"])
    view = show(page, stub)
    expect(squares(view)).to_have_count(4)
    expect(view.locator(".zb-word").first).to_have_text("Running")
    expect(view.locator(".zb-note").first).to_have_text("1 of 4 ended")
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 running2 pending")
    expect(view.locator(".zb-time").first).to_have_text(re.compile(r"2:[12]\d"))  # one end tells nothing of the next
    stub.emit("job_completed", ids[1], {"state": "succeeded", "finished_at": utc()})
    expect(view.locator(".zb-counts")).to_have_text("2 succeeded2 pending")
    expect(view.locator(".zb-note").first).to_have_text("2 of 4 ended")
    expect(view.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    expect(view.locator(".zb-time").first).to_have_text(re.compile(r"2:[12]\dabout 2 min left"))
    for job in ids[2:]:
        stub.emit("job_completed", job, {"state": "succeeded", "started_at": utc(-9), "finished_at": utc(-4)})
    expect(view.locator(".zb-time").first).to_have_text(re.compile(r"2:[12]\dat \d\d:\d\d"))


def test_failures_are_told_by_reason_and_tried_again(page: Page, stub: StubServer) -> None:
    error = {"ename": "ValueError", "evalue": "bad rate", "traceback": []}
    stub.add_group(["failed", "failed", "succeeded"], error=error)
    view = show(page, stub)
    expect(view.locator(".zb-word").first).to_have_text("Failed")
    expect(view.locator(".zb-why-list li")).to_have_text("2ValueError: bad rateRetry 2")
    view.locator(".zb-acts").get_by_role("button", name="Retry 2").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded2 pending")
    assert "retry a-token" in stub.posts


def test_cancel_all_ends_what_has_not_ended(page: Page, stub: StubServer) -> None:
    *_, failed = stub.add_group(["succeeded", "running", "pending", "failed"])
    repeats = [add_again(stub, failed, "running") for _ in range(2)]  # of which the second waits for the place
    view = show(page, stub)
    view.get_by_role("button", name="Cancel all").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded3 canceled")
    assert [stub.jobs[job]["state"] for job in repeats] == ["canceled"] * 2
    expect(view.get_by_role("button", name="Cancel all")).to_have_count(0)


def test_menu_offers_detach_while_somebody_waits_and_stays_open_while_the_head_is_built_anew(
    page: Page, stub: StubServer
) -> None:
    ids = stub.add_group(["running", "running", "pending"])
    view = show(page, stub)
    more, detach = view.get_by_role("button", name="More for"), view.get_by_role("button", name="Detach")
    copy = view.get_by_role("button", name="Copy the ids")
    with page.expect_response(f"**/jobs/{ids[0]}"):
        more.click()
    expect(copy).to_be_visible()
    expect(detach).to_be_hidden()
    more.click()
    stub.waiting = 1
    more.click()
    expect(detach).to_be_visible()
    stub.emit("job_failed", ids[0], {"state": "failed", "finished_at": utc()})
    expect(view.locator(".zb-note").first).to_have_text("1 of 3 ended, 1 failed")
    copy.click()
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(ids)
    detach.click()
    page.wait_for_function("views[0].feed.acting === null")
    assert stub.posts[-2:] == ["detach a-token"] * 2  # by the first, and by the first that has not ended
    expect(detach).to_be_hidden()
    stub.answer_posts = False
    more.click()
    detach.click()
    expect(view.get_by_role("note")).to_contain_text("Nobody was detached: The stub says 409.")


def test_detach_reaches_who_waits_by_a_run_that_was_tried_again(page: Page, stub: StubServer) -> None:
    first, _ = stub.add_group(["failed", "running"])
    view = show(page, stub)
    view.locator(".zb-head").get_by_role("button", name="Cancel all").wait_for()
    view.locator(".zb-why-list").get_by_role("button", name="Retry 1").click()
    expect(view.locator(".zb-counts")).to_have_text("1 running1 pending")
    stub.waiting = 1
    view.get_by_role("button", name="More for").click()
    with page.expect_request(f"**/jobs/{first}/detach"):
        view.get_by_role("button", name="Detach").click()


def test_group_that_the_server_does_not_know_says_so_and_offers_nothing(page: Page, stub: StubServer) -> None:
    for job_id in stub.add_group(["running", "pending"]):
        del stub.jobs[job_id]
    view = show(page, stub)
    expect(view.get_by_role("note")).to_contain_text("does not know these runs")
    expect(view.get_by_role("button", name="Cancel all")).to_have_count(0)


#: A group's feed with two ways to ask: the first knows none of the jobs, the second is the page's server.
TWO_WAYS = """async (saved) => {
  const { GroupFeed } = await import('/view/groupfeed.js');
  const { Ways } = await import('/view/ways.js');
  const { PageServer, Refused, apiOfPage } = await import('/view/ask.js');
  class Stranger extends PageServer {
    async ask(path) {
      if (path === 'jobs/lookup') return [{ jobs: [], event_seq: 0 }];
      throw new Refused(404, { error: { message: 'There is no such job.' } });
    }
  }
  window.known = new PageServer(apiOfPage());
  window.ways = new Ways([new Stranger(apiOfPage()), known], saved.runs.map(({ id }) => id));
  window.feed = new GroupFeed(ways, saved).start();
}"""


def test_group_that_neither_way_knows_is_unknown(page: Page, stub: StubServer) -> None:
    for job_id in stub.add_group(["succeeded", "failed"]):
        del stub.jobs[job_id]
    show(page, stub)
    page.evaluate(TWO_WAYS, stub.group)
    page.wait_for_function("feed.connection === 'unknown'")


def test_way_that_knows_some_of_a_group_is_taken_also_when_its_first_run_is_gone(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["succeeded", "running"])
    del stub.jobs[ids[0]]
    show(page, stub)
    page.evaluate(TWO_WAYS, stub.group)
    page.wait_for_function("feed.connection === 'live'")
    stub.emit("job_completed", ids[1], {"state": "succeeded", "finished_at": utc()})
    page.wait_for_function("feed.jobs[1].state === 'succeeded'")


def test_refused_cancel_is_told(page: Page, stub: StubServer) -> None:
    stub.add_group(["running"])
    stub.answer_posts = False
    view = show(page, stub)
    view.get_by_role("button", name="Cancel all").click()
    expect(view.get_by_role("note")).to_have_text("Not all runs were canceled: The stub says 409.")


def test_run_that_is_picked_says_what_it_is_and_opens_its_own_view(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["succeeded", "running", "failed"], spec={"name": "train"})
    stub.stored(ids[1], "epoch 1")
    view = show(page, stub)
    view.locator(".zb-squares").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(view.locator(".zb-picked")).to_contain_text("Run 2, lr=1, running")
    page.keyboard.press("Enter")
    run = view.locator(".zb-run .zb-card")
    expect(run.locator(".zb-name")).to_have_text("train")
    expect(run.locator(".zb-ln").last).to_have_text("epoch 1")
    squares(view).nth(0).click()
    expect(view.locator(".zb-run .zb-card")).to_have_count(1)
    expect(view.locator(".zb-run .zb-word")).to_have_text("Succeeded")


def test_group_comes_back_after_a_break(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["running", "running"])
    view = show(page, stub)
    stub.cut()
    expect(view.locator(".zb-word").first).to_have_text("Reconnecting")
    expect(view.get_by_role("note")).to_contain_text("No connection to the server")
    stub.emit("job_completed", ids[0], {"state": "succeeded", "finished_at": utc()})
    stub.down = False
    view.get_by_role("button", name="Try now").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 running")


def test_hostile_names_are_text(page: Page, stub: StubServer) -> None:
    stub.add_group(["failed"], error={"ename": "<img src=x onerror='window.pwned=1'>", "evalue": "", "traceback": []})
    assert stub.group is not None
    stub.group["name"] = stub.group["runs"][0]["label"] = "<img src=x onerror='window.pwned=1'>"
    view = show(page, stub)
    expect(view.locator(".zb-why-list")).to_contain_text("<img src=x")
    assert page.evaluate("window.pwned") is None


def add_again(stub: StubServer, job_id: str, state: str = "pending", **fields: Any) -> str:
    """Submit a run of the group again, as somebody else does."""
    saved = list(stub.saved)
    again = stub.add(state, retry_of=job_id, spec={"tags": {"zbrain.group": "g"}}, **fields)
    stub.saved = saved
    return again


def test_runs_that_were_tried_again_elsewhere_stand_in_place_of_those_that_failed(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["failed", "failed", "running"])
    again = add_again(stub, add_again(stub, ids[0], "failed"), "succeeded")
    view = show(page, stub)
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 running1 failed")
    assert page.evaluate("views[0].feed.jobs[0].id") == again
    live = add_again(stub, ids[1])
    stub.emit("job_submitted", live, dict(stub.jobs[live]))
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 running1 pending")
    stub.emit("job_completed", live, {"state": "succeeded", "finished_at": utc()})
    expect(view.locator(".zb-counts")).to_have_text("2 succeeded1 running")
    aside = add_again(stub, ids[1])  # the same once more, as on the page of the first: it stands in nobody's place
    stub.emit("job_submitted", aside, dict(stub.jobs[aside]))
    stub.emit("job_completed", ids[2], {"state": "succeeded", "finished_at": utc()})
    expect(view.locator(".zb-counts")).to_have_text("3 succeeded")
    page.reload()
    expect(view.locator(".zb-counts")).to_have_text("3 succeeded")


def test_repeat_stands_where_the_kernel_has_it_however_it_is_heard_of(page: Page, stub: StubServer) -> None:
    *firsts, last = stub.add_group([runs_of(case)[0].state for case in CASES] + ["running"])
    show(page, stub)
    places = [{"A": first} for first in firsts]
    states = {}
    for ids, case in zip(places, CASES, strict=True):
        for name, repeats, state in runs_of(case)[1:]:
            job = ids[name] = add_again(stub, ids[repeats or ""], "pending")
            stub.emit("job_submitted", job, dict(stub.jobs[job]))
            states[job] = state
    for job, state in states.items():
        stub.emit("job_progressed", job, {"state": state})
    stub.emit("job_progressed", last, {"reason": "all is told"})
    names = {job: name for ids in places for name, job in ids.items()}
    for is_loaded, holds in ((False, 0), (True, 0), (True, -2)):  # the notebook holds the first, or a later one
        if is_loaded:
            for run, ids in zip(stub.group["runs"], places, strict=False):
                run["id"] = [*ids.values()][holds:][0]
            page.reload()
        page.wait_for_function("views[0]?.feed.jobs.at(-1).reason === 'all is told'")
        shown = page.evaluate("views[0].feed.jobs.map(({ id }) => id)")[:-1]
        assert {case: names[job] for case, job in zip(CASES, shown, strict=True)} == CASES


def test_run_that_is_open_gives_way_to_what_repeats_it(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["failed", "running"])
    view = show(page, stub)
    squares(view).first.click()
    card = view.locator(".zb-run .zb-card")
    expect(card.locator(".zb-word")).to_have_text("Failed")
    card.locator(".zb-twist").first.focus()
    again = add_again(stub, ids[0], "running")
    stub.emit("job_submitted", again, dict(stub.jobs[again]))
    expect(card.locator(".zb-word")).to_have_text("Running")
    expect(card.get_by_role("button", name="Retry")).to_have_count(0)
    assert page.evaluate("document.querySelector('.zb-run').contains(document.activeElement)")


def mark(card: Locator) -> None:
    """Make it known again: what is built anew bears no mark."""
    card.evaluate("card => { card.dataset.mark = 'here'; }")


def test_retry_in_the_run_that_is_open_is_told_in_the_group_and_stays_open(page: Page, stub: StubServer) -> None:
    stub.add_group(["failed", "succeeded"])
    page.route(re.compile("limit=1$"), lambda route: route.abort())  # the looks of a group that has ended
    view = show(page, stub)
    squares(view).first.click()
    card = view.locator(".zb-run .zb-card")
    mark(card)
    card.get_by_role("button", name="Retry").click()
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 pending")
    *_, again = stub.jobs
    stub.log(again, "once more")
    expect(card.locator(".zb-ln")).to_have_text("once more")
    stub.emit("job_failed", again, {"state": "failed", "finished_at": utc()})
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 failed")
    expect(card.locator(".zb-word")).to_have_text("Failed")
    expect(card).to_have_attribute("data-mark", "here")
    squares(view).first.click()  # which shuts what is open there
    expect(card).to_have_count(0)
    assert sum(again in uri for uri in stub.opened) == 1


@pytest.mark.parametrize("is_answered", [True, False])
def test_retry_in_the_run_that_is_open_is_heard_of_before_its_answer_and_opens_one_socket(
    page: Page, stub: StubServer, is_answered: bool
) -> None:
    stub.add_group(["failed", "running"])
    view = show(page, stub)
    squares(view).first.click()
    card = view.locator(".zb-run .zb-card")
    mark(card)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/retry", hold)
    with page.expect_request("**/retry"):
        card.get_by_role("button", name="Retry").click()
    answer = held[0].fetch()
    *_, again = stub.jobs
    stub.emit("job_submitted", again, dict(stub.jobs[again]))
    expect(view.locator(".zb-counts")).to_have_text("1 running1 pending")
    if is_answered:
        held[0].fulfill(response=answer)
    else:
        held[0].abort()
    stub.log(again, "once more")
    expect(card.locator(".zb-ln")).to_have_text("once more")
    assert card.get_attribute("data-mark") == ("here" if is_answered else None)
    assert sum(again in uri for uri in stub.opened) == 1


#: Have `rests` note how long each pause is that begins from now on.
NOTE_RESTS = """() => {
  const set = setTimeout;
  window.rests = [];
  window.setTimeout = (call, wait) => {
    if (wait >= 10_000) rests.push(wait);
    return set(call, wait);
  };
}"""


def test_ended_group_sees_that_runs_are_tried_again_and_loads_nothing_till_then(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["failed", "succeeded"])
    page.clock.install()
    view = show(page, stub)
    expect(view.locator(".zb-word").first).to_have_text("Failed")
    page.evaluate(NOTE_RESTS)
    for looks in (1, 2):  # nothing new
        page.clock.fast_forward(10_000)
        page.wait_for_function(f"rests.length === {looks}")
    assert [post.split()[0] for post in stub.posts] == ["lookup"]
    again = add_again(stub, ids[0])
    page.clock.fast_forward(10_000)
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 pending")
    stub.emit("job_completed", again, {"state": "succeeded", "finished_at": utc()})
    expect(view.locator(".zb-counts")).to_have_text("2 succeeded")


def test_run_that_failed_once_more_is_told_with_its_own_reason_and_is_the_one_that_is_tried_again(
    page: Page, stub: StubServer
) -> None:
    def error(why: str) -> dict[str, Any]:
        return {"ename": why, "evalue": "", "traceback": []}

    ids = stub.add_group(["failed", "succeeded"], error=error("FirstError"))
    page.clock.install()
    view = show(page, stub)
    reasons = view.locator(".zb-why-list li")
    expect(reasons).to_have_text("1FirstErrorRetry 1")
    again = add_again(stub, ids[0], "failed", error=error("SecondError"))
    page.clock.fast_forward(10_000)
    expect(reasons).to_have_text("1SecondErrorRetry 1")
    expect(squares(view).first).to_have_attribute("aria-label", re.compile("SecondError"))
    with page.expect_request("**/jobs/retry") as retry:
        view.locator(".zb-head").get_by_role("button", name="Retry 1").click()
    assert retry.value.post_data_json == {"ids": [again]}
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 pending")


def test_runs_of_a_lot_that_was_done_are_not_tried_again_when_the_next_is_refused(page: Page, stub: StubServer) -> None:
    stub.add_group(["failed"] * 1001)
    view = show(page, stub)
    asked: list[list[str]] = []

    def refuse_second(route: Route) -> None:
        asked.append(route.request.post_data_json["ids"])
        if len(asked) == 2:
            route.fulfill(status=429, json={"error": {"message": "over the limit."}})
        else:
            route.continue_()

    page.route("**/jobs/retry", refuse_second)
    view.locator(".zb-acts").get_by_role("button", name="Retry 1,001").click()
    expect(view.get_by_role("note")).to_have_text("Not all runs were tried again: over the limit.")
    expect(view.locator(".zb-counts")).to_have_text("1,000 pending1 failed")
    view.locator(".zb-why-list").get_by_role("button", name="Retry 1").click()
    expect(view.locator(".zb-counts")).to_have_text("1,001 pending")
    assert asked[2] == asked[1]


def test_look_at_an_ended_group_that_fails_changes_nothing_and_is_made_again(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["failed", "succeeded"])
    page.clock.install()
    view = show(page, stub)
    page.evaluate(NOTE_RESTS)
    stub.down = True
    page.clock.fast_forward(10_000)
    page.wait_for_function("rests.length")
    assert page.evaluate("rests") == [20_000]
    stub.down = False
    add_again(stub, ids[0], "succeeded")
    expect(view.locator(".zb-word").first).to_have_text("Failed")
    page.clock.fast_forward(20_000)
    expect(view.locator(".zb-counts")).to_have_text("2 succeeded")


def test_runs_that_the_server_does_not_know_are_said_to_be_old_and_hold_up_nothing(
    page: Page, stub: StubServer
) -> None:
    ids = stub.add_group(["succeeded", "running", "failed"])
    assert stub.group is not None
    stub.group["runs"][2]["state"] = "failed"
    del stub.jobs[ids[0]], stub.jobs[ids[2]]
    view = show(page, stub)
    expect(view.get_by_role("note")).to_have_text(
        "2 of these 3 runs are unknown to the server, and shown as the notebook saved them."
    )
    stub.emit("job_completed", ids[1], {"state": "succeeded", "finished_at": utc()})
    expect(view.locator(".zb-word").first).to_have_text("Succeeded")
    expect(view.locator(".zb-counts")).to_have_text("1 succeeded1 pending1 failed")
    expect(view.locator(".zb-acts [data-part=act]").first.get_by_role("button")).to_have_count(0)


#: JupyterLab as far as the extension sees it: `output` is the model of the cell's output, `kept` what it was set to.
LAB = """async (group) => {
  class Widget {
    constructor() { this.node = document.createElement('div'); this.isAttached = true; }
    addClass() {}
    dispose() { this.isDisposed = true; }
  }
  const factories = {};
  const registry = { addFactory: (factory) => factory.mimeTypes.forEach((type) => (factories[type] = factory)) };
  const share = (module) => ({ '1': { loaded: true, get: async () => () => module } });
  await new Promise((resolve) => {
    const script = document.createElement('script');
    Object.assign(script, { src: '/remoteEntry.js', onload: resolve });
    document.head.append(script);
  });
  const container = window._JUPYTERLAB.zbrain_nb;
  container.init({
    '@lumino/widgets': share({ Widget }),
    '@jupyterlab/rendermime': share({ IRenderMimeRegistry: {} }),
  });
  const found = (await container.get())().default;
  const plugin = Array.isArray(found) ? found[0] : found;
  const registryOf = { ...registry, clone: () => ({}) };
  plugin.activate({}, registryOf);
  window.kept = [];
  const renderer = factories['application/vnd.zbrain.group+json'].createRenderer({});
  const output = {
    trusted: true,
    data: { 'application/vnd.zbrain.group+json': group },
    setData({ data }) { kept.push(data); output.data = data; void renderer.renderModel(output); },
  };
  await renderer.renderModel(output);
  document.querySelector('main').replaceChildren(renderer.node);
}"""


def test_page_saves_in_the_notebook_what_was_tried_again_and_how_all_ended(page: Page, stub: StubServer) -> None:
    ids = stub.add_group(["failed", "succeeded"])
    group, stub.group = stub.group, None
    page.goto(stub.url())
    page.evaluate(LAB, group)
    runs = "kept.at(-1)['application/vnd.zbrain.group+json'].runs"
    page.wait_for_function("kept.length === 1")  # the notebook said that they were waiting
    assert page.evaluate(f"{runs}.map(({{ state }}) => state)") == ["failed", "succeeded"]
    page.locator(".zb-acts").get_by_role("button", name="Retry 1").click()
    page.wait_for_function("kept.length === 2")
    again = list(stub.jobs)[-1]
    assert page.evaluate(f"{runs}.map(({{ id }}) => id)") == [again, ids[1]]
    expect(page.locator(".zb-counts")).to_have_text("1 succeeded1 pending")
    stub.emit("job_completed", again, {"state": "succeeded", "finished_at": utc()})
    page.wait_for_function("kept.length === 3")
    assert page.evaluate(f"{runs}.map(({{ state, label }}) => [state, label])") == [
        ["succeeded", "lr=0"],
        ["succeeded", "lr=1"],
    ]
    summary = page.evaluate("kept.at(-1)['text/html']")
    assert "<b>sweep</b>: 2 runs, 2 succeeded" in summary
    assert "<td>lr=0</td><td>succeeded</td>" in summary
    expect(page.locator(".zb-squares .zb-sq")).to_have_count(2)
