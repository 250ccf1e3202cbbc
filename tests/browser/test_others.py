"""Two people on one host: each sees their own job as if its cell had run here, and the other's only in a cage."""

from __future__ import annotations

import httpx
import msgspec
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import log_in
from tests.browser.stub import StubServer
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser
OUTPUT = {"text/html": "<b>shown</b><script>try { top.pwned = 1 } catch { }</script>", "text/plain": "shown"}
#: As Jupyter's renderers are handed in; they would run what an output holds in the page.
RENDER = """async ([modules, api, saved]) => {
  const { ServerFeed, render } = await import(`${modules}/index.js`);
  const { body } = document;
  body.replaceChildren();
  for (const one of saved) {
    const card = body.appendChild(document.createElement('div'));
    card.id = `job-${one.id}`;
    const renderOutput = (output, host) => {
      host.append(Object.assign(document.createElement('i'), { className: 'native' }));
    };
    render(card, new ServerFeed(api, { name: 'job', state: 'succeeded', ...one }).start(), { renderOutput });
  }
}"""


def headers_of(token: str) -> dict[str, str]:
    return {"Authorization": f"token {token}"}


def make_token_of_bob(host: Owner) -> dict[str, str]:
    wanted = {"owner": "bob", "roles": {"default": "submitter"}}
    made = httpx.post(f"{host.url}zbrain/api/tokens", headers=headers_of(host.token), json=wanted, trust_env=False)
    token: dict[str, str] = made.json()
    return token


@pytest.mark.parametrize("viewer", ["holder", "bob"])
def test_others_outputs_are_shown_in_a_frame_of_no_origin_and_own_ones_natively(
    page: Page, host: Owner, hand: HandWorker, viewer: str
) -> None:
    bob = make_token_of_bob(host)["secret"]
    spec = {"cmd": ["true"], "worker": hand.name}
    answer = httpx.post(f"{host.url}zbrain/api/jobs", headers=headers_of(bob), json=spec, trust_env=False)
    ids = [hand.submit()[0], answer.json()["id"]]
    for job_id in hand.start(2):
        hand.display(job_id, OUTPUT)
        hand.send(job_id, "completed", exit_code=0)
    own, foreign = ids if viewer == "holder" else ids[::-1]
    log_in(page, host if viewer == "holder" else msgspec.structs.replace(host, token=bob))
    # A page of the same origin, as Jupyter's is: the console's own policy would forbid what is tried here.
    page.route(
        "**/blank", lambda route: route.fulfill(content_type="text/html", body="<!doctype html><title>x</title>")
    )
    page.goto(f"{host.url}zbrain/blank")
    root = f"{host.url}zbrain"
    page.evaluate(RENDER, [f"{root}/static", f"{root}/api/", [{"id": job_id} for job_id in ids]])
    expect(page.locator(f"#job-{own} .native")).to_have_count(1)
    expect(page.locator(f"#job-{own} iframe")).to_have_count(0)
    frame = page.locator(f"#job-{foreign} iframe")
    expect(frame).to_have_attribute("sandbox", "allow-scripts")
    expect(frame.content_frame.locator("b")).to_have_text("shown")
    expect(page.locator(f"#job-{foreign} .native")).to_have_count(0)
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("shows", ["jobs", "a job"])
def test_console_whose_token_is_revoked_says_so_and_does_not_reconnect_for_ever(
    page: Page, host: Owner, hand: HandWorker, shows: str
) -> None:
    (job_id,) = hand.submit(name="kept in sight")
    bob = make_token_of_bob(host)
    log_in(page, msgspec.structs.replace(host, token=bob["secret"]))
    if shows == "a job":
        page.goto(f"{host.url}zbrain/jobs/{job_id}")
        expect(page.locator(".zb-live")).to_have_text("Live")
    url = f"{host.url}zbrain/api/tokens/{bob['id']}"
    assert httpx.delete(url, headers=headers_of(host.token), trust_env=False).status_code == 200
    expect(page.get_by_text("The token that opened this was revoked, or has expired.").first).to_be_visible()
    expect(page.locator(".zb-live")).to_have_text("Unknown")
    expect(page.get_by_text("kept in sight").first).to_be_visible()


@pytest.mark.parametrize(("viewer", "is_native"), [("ada", True), ("eve", False), (None, False)])
def test_outputs_in_the_notebook_are_caged_unless_it_was_said_that_the_job_is_ones_own(
    page: Page, stub: StubServer, viewer: str | None, is_native: bool
) -> None:
    job_id = stub.add("succeeded")
    saved = {"id": job_id, "job": stub.jobs[job_id], "outputs": [{"output_type": "display_data", "data": OUTPUT}]}
    if viewer is not None:
        saved["viewer"] = viewer
    page.goto(stub.url())
    stub.down = True
    root = stub.url().rsplit("/", 1)[0]
    page.evaluate(RENDER, [f"{root}/view", f"{root}/zbrain/api/", [saved]])
    expect(page.locator(".native")).to_have_count(int(is_native))
    expect(page.locator("iframe[sandbox=allow-scripts]")).to_have_count(int(not is_native))


def test_outputs_that_the_notebook_took_for_own_are_caged_once_the_server_says_otherwise(
    page: Page, stub: StubServer
) -> None:
    job_id = stub.add("succeeded", owner="eve")
    stub.outputs[job_id].append({"output_type": "display_data", "data": OUTPUT})
    page.goto(stub.url())
    root = stub.url().rsplit("/", 1)[0]
    page.evaluate(RENDER, [f"{root}/view", f"{root}/zbrain/api/", [{"id": job_id, "viewer": "eve"}]])
    expect(page.locator("iframe[sandbox=allow-scripts]")).to_have_count(1)
    expect(page.locator(".native")).to_have_count(0)


def test_code_of_another_runs_as_the_viewer_only_when_that_was_answered(page: Page, stub: StubServer) -> None:
    job_id = stub.add("failed", owner="eve")
    page.goto(stub.url())
    view = page.locator(".zb").first
    page.wait_for_function("views[0].feed.loaded")
    view.get_by_role("button", name="Retry").evaluate("button => (button.click(), button.click())")  # in haste
    expect(view.get_by_role("note")).to_contain_text("This is the code of eve; it will run as you")
    assert stub.posts == []
    view.get_by_role("button", name="No").click()
    view.get_by_role("button", name="Retry").click()
    view.get_by_role("button", name="Run as me").click()
    expect(view.locator(".zb-word")).to_have_text("Pending")
    assert [job["retry_of"] for job in stub.jobs.values() if job["retry_of"]] == [job_id]
    assert stub.asked_for_others == ["1"]


def test_held_enter_on_retry_of_anothers_job_asks_and_stays_on_no(page: Page, stub: StubServer) -> None:
    stub.add("failed", owner="eve")
    page.goto(stub.url())
    page.get_by_role("button", name="Retry").focus()
    page.keyboard.down("Enter")
    no = page.get_by_role("button", name="No", exact=True)
    expect(no).to_be_focused()
    for _ in range(3):
        page.keyboard.down("Enter")  # as the key repeats
    expect(no).to_be_focused()
    page.get_by_role("button", name="Run as me").focus()
    page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    assert stub.posts == []
    page.keyboard.press("Enter")
    expect(page.locator(".zb-word")).to_have_text("Pending")
    assert stub.asked_for_others == ["1"]
