"""Views on a page that cannot reach the server: job, group and dashboard live through a real kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psutil
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.conftest import end_everything
from tests.jupyter import Lab, Notebook

pytestmark = pytest.mark.browser

LOAD = "%load_ext zbrain_nb\nimport time, pathlib, zbrain_nb"
#: Writes a line a tenth of a second until a file is there.
STEADY = """%%zbrain --name steady --artifacts *.txt
import itertools, pathlib, time
pathlib.Path("kept.txt").write_text("from the job")
for number in itertools.count(1):
    print("line", number)
    time.sleep(0.1)
    if pathlib.Path({gate!r}).exists():
        break
"the value" """
SHUT = re.compile(r"/zbrain/api/")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("through the kernel")
    with Lab(folder / "notebooks", folder / "data") as lab:
        yield lab


@pytest.fixture
def shut(page: Page) -> Page:
    """A page that cannot reach the server."""
    page.route(SHUT, lambda route: route.abort())
    page.route_web_socket(SHUT, lambda socket: socket.close())
    return page


def head(view: Locator) -> Locator:
    return view.locator(".zb-head .zb-word").first


def opened(lab: Lab, page: Page, name: str, *cells: str) -> Notebook:
    lab.write_notebook(name, LOAD, *cells)
    notebook = lab.open(page, name)
    notebook.run_to_end(0)
    return notebook


def last_line(view: Locator) -> Locator:
    return view.locator(".zb-lines .zb-ln").last


def test_job_is_live_reloaded_whole_and_told_when_its_kernel_is_dead(lab: Lab, shut: Page) -> None:
    gate = lab.folder / "gate"
    notebook = opened(lab, shut, "job.ipynb", STEADY.format(gate=str(gate)), "import os; os._exit(1)")
    notebook.run(1)
    view = notebook.view(1)
    expect(head(view)).to_have_text("Running", timeout=20_000)
    expect(last_line(view)).to_have_text(re.compile(r"line \d+"))
    notebook.save()
    notebook = lab.open(shut, "job.ipynb")
    view = notebook.view(1)
    expect(head(view)).to_have_text("Running", timeout=20_000)
    expect(last_line(view)).to_have_text(re.compile(r"line \d\d+"), timeout=20_000)
    view.locator(".zb-lines").evaluate("log => { log.scrollTop = 0; }")
    view.locator(".zb-lines").get_by_text("line 1", exact=True).wait_for()
    notebook.run(2)
    expect(head(view)).to_have_text("Reconnecting", timeout=20_000)
    expect(view.get_by_role("note")).to_contain_text("kernel", ignore_case=True)
    expect(view.get_by_role("button", name="Cancel")).to_have_count(0)
    shut.screenshot(path="/tmp/history-dead.png")
    # JupyterLab has started another kernel, which learns of zbrain by its first cell.
    shut.locator(".jp-Dialog").get_by_role("button", name="Ok").click()
    notebook.wait_until_idle()
    notebook.run_to_end(0)
    shut.evaluate("() => window.dispatchEvent(new Event('online'))")  # the next try would come by itself, later
    expect(head(view)).to_have_text("Running", timeout=40_000)
    gate.touch()
    expect(head(view)).to_have_text("Succeeded", timeout=20_000)
    expect(view).to_contain_text("the value")
    expect(view.locator(".zb-peek")).to_have_text("from the job")
    with shut.expect_download() as download:
        view.get_by_role("button", name="Download kept.txt").click()
    assert download.value.path().read_text() == "from the job"
    shut.screenshot(path="/tmp/history-job.png")


@pytest.mark.slow
def test_lines_come_and_cancel_works_while_the_kernel_is_busy(lab: Lab, shut: Page) -> None:
    done = lab.folder / "done"
    busy = f"while not pathlib.Path({str(done)!r}).exists(): time.sleep(0.1)"
    notebook = opened(lab, shut, "busy.ipynb", STEADY.format(gate=str(lab.folder / "never")), busy)
    notebook.run(1)
    view = notebook.view(1)
    expect(last_line(view)).to_have_text(re.compile(r"line \d+"), timeout=20_000)
    notebook.run(2)
    expect(notebook.prompt(2)).to_have_text(re.compile(r"\[\*\]"))
    seen = last_line(view).inner_text()
    expect(last_line(view)).not_to_have_text(seen)
    # JupyterLab hands messages of comms to a thread of the kernel that is free (a subshell).
    view.locator(".zb-acts").get_by_role("button", name="Cancel").click()
    expect(head(view)).to_have_text("Canceled", timeout=20_000)
    expect(notebook.prompt(2)).to_have_text(re.compile(r"\[\*\]"))
    done.touch()


@pytest.mark.slow
def test_group_is_live_and_its_runs_open(lab: Lab, shut: Page) -> None:
    gate = lab.folder / "runs"
    grid = f"""%%zbrain --name runs --grid lr=0.1,0.01,bad
import pathlib, time
print("rate", lr)
while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.05)
float(lr)"""
    notebook = opened(lab, shut, "group.ipynb", grid)
    notebook.run(1)
    view = notebook.view(1)
    expect(view.locator(".zb-counts")).to_contain_text("running", timeout=20_000)
    gate.touch()
    expect(view.locator(".zb-counts")).to_have_text("2 succeeded1 failed", timeout=40_000)
    view.locator(".zb-squares .zb-sq").nth(0).click()
    expect(view.locator(".zb-run .zb-word").first).to_have_text("Succeeded", timeout=20_000)
    expect(view.locator(".zb-run")).to_contain_text("0.1")
    shut.screenshot(path="/tmp/history-group.png", full_page=True)
    view.locator(".zb-acts").first.get_by_role("button", name="Retry 1").click()
    expect(view.locator(".zb-counts")).to_have_text("2 succeeded1 failed", timeout=40_000)


def test_dashboard_is_live(lab: Lab, shut: Page) -> None:
    notebook = opened(lab, shut, "dashboard.ipynb", "%zbrain", "%%zbrain --name for-the-table\nprint(1)")
    notebook.run(1)
    table = notebook.view(1)
    expect(table.locator(".zb-jobs th").first).to_be_visible(timeout=20_000)
    notebook.run(2)
    row = table.locator("tr", has_text="for-the-table")
    expect(row.locator(".zb-word")).to_have_text("Succeeded", timeout=30_000)
    expect(table.get_by_text("cannot reach the server")).to_have_count(0)
    expect(table.locator(".zb-strip")).to_be_visible()
    shut.screenshot(path="/tmp/history-dashboard.png", full_page=True)


@pytest.mark.slow
def test_widgets_in_a_layout_are_live_and_come_back_after_a_reload(lab: Lab, shut: Page) -> None:
    gate = lab.folder / "layout"
    layout = """import ipywidgets
ipywidgets.VBox([_zb.widget(), zbrain_nb.connect().dashboard()])"""
    notebook = opened(lab, shut, "layout.ipynb", STEADY.format(gate=str(gate)), layout)
    notebook.run(1)
    notebook.run(2)
    views = notebook.cell(2).locator(".zb")
    expect(last_line(views.nth(0))).to_have_text(re.compile(r"line \d+"), timeout=20_000)
    expect(views.nth(1).locator(".zb-jobs")).to_contain_text("steady")
    notebook.save()
    notebook = lab.open(shut, "layout.ipynb")
    views = notebook.cell(2).locator(".zb")
    expect(head(views.nth(0))).to_have_text("Running", timeout=20_000)
    gate.touch()
    expect(head(views.nth(0))).to_have_text("Succeeded", timeout=20_000)
    steady = views.nth(1).locator("tr", has_text="steady").first
    expect(steady.locator(".zb-word")).to_have_text("Succeeded", timeout=20_000)
    shut.screenshot(path="/tmp/history-layout.png", full_page=True)


@pytest.mark.slow
def test_kernel_is_asked_where_the_server_of_the_page_does_not_know_the_job(lab: Lab, page: Page) -> None:
    elsewhere = lab.data.parent / "elsewhere"
    away = f"""import os, zbrain_nb
for name in ("ZBRAIN_URL", "ZBRAIN_TOKEN", "JPY_PARENT_PID"):
    os.environ.pop(name)
os.environ["ZDB_DATA"] = {str(elsewhere)!r}"""
    gate = lab.folder / "away"
    lab.write_notebook("away.ipynb", f"{away}\n%load_ext zbrain_nb", STEADY.format(gate=str(gate)), "%zbrain")
    try:
        notebook = lab.open(page, "away.ipynb")
        notebook.run_to_end(0)
        notebook.run(1)
        view = notebook.view(1)
        expect(last_line(view)).to_have_text(re.compile(r"line \d+"), timeout=20_000)
        notebook.run(2)
        table = notebook.view(2)
        expect(table.locator(".zb-jobs tbody tr:not([aria-hidden])")).to_have_count(1, timeout=20_000)
        gate.touch()
        expect(head(view)).to_have_text("Succeeded", timeout=20_000)
        expect(table.locator("tr", has_text="steady").locator(".zb-word")).to_have_text("Succeeded")
    finally:
        end_everything(elsewhere)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_million_lines_stay_small_in_kernel_and_page(lab: Lab, shut: Page) -> None:
    loud = """%%zbrain --name loud
for number in range(1_000_000):
    print("line", number, "of what a verbose library writes")"""
    notebook = opened(lab, shut, "loud.ipynb", "import os; os.getpid()", loud)
    notebook.run_to_end(1)
    pid = int(notebook.cell(1).locator(".jp-OutputArea-executeResult").inner_text().split()[-1])
    before = psutil.Process(pid).memory_info().rss
    notebook.run(2)
    view = notebook.view(2)
    expect(head(view)).to_have_text("Succeeded", timeout=300_000)
    expect(view.locator(".zb-logbar")).to_contain_text("1,000,000 lines", timeout=60_000)
    expect(last_line(view)).to_have_text(re.compile("line 999999 "), timeout=20_000)
    view.locator(".zb-lines").evaluate("log => { log.scrollTop = log.scrollHeight / 2; }")
    expect(view.locator(".zb-lines .zb-ln").first).to_have_text(re.compile(r"line [45]\d{5} "), timeout=20_000)
    grown = (psutil.Process(pid).memory_info().rss - before) / 1e6
    heap = shut.evaluate("performance.memory.usedJSHeapSize") / 1e6
    print(f"kernel grew by {grown:.0f} MB, the page holds {heap:.0f} MB in all")
    assert grown < 100
    assert heap < 400
