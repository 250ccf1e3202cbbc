"""What a person does in JupyterLab and Notebook 7, with the real server, worker and kernel."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Locator, Page, expect

from tests.jupyter import Lab

pytestmark = pytest.mark.browser

LOAD = "%load_ext zbrain_nb\nimport time"
COUNT = """%%zbrain --name count
for number in range(1, {count} + 1):
    print("line", number)
    time.sleep(0.2)"""
COUNT_TILL_TOLD = """%%zbrain --name count
import pathlib

for number in range(1, 41):
    while number == 40 and not pathlib.Path("enough").exists():
        time.sleep(0.05)
    print("line", number)"""
PLOT = """%%zbrain --name plot --job plot
import matplotlib.pyplot as plt

print("before")
plt.plot([1, 3, 2])
plt.show()
print("after")
{"answer": 42}"""


@pytest.fixture(scope="module", params=["lab", "notebook"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("a person")
    with Lab(folder / "notebooks", folder / "data", app=request.param) as lab:
        yield lab


def head(view: Locator) -> Locator:
    return view.locator(".zb-head .zb-word")


def line(view: Locator, text: str) -> Locator:
    return view.locator(".zb-lines").get_by_text(text, exact=True)


def test_first_line_comes_at_once_and_cancel_works_while_the_kernel_is_busy(lab: Lab, page: Page) -> None:
    lab.write_notebook("cancel.ipynb", LOAD, COUNT.format(count=300), "time.sleep(30)")
    notebook = lab.open(page, "cancel.ipynb")
    notebook.run_to_end(0)
    pressed = notebook.run(1)
    view = notebook.view(1)
    line(view, "line 1").wait_for(timeout=20_000)
    first_line_secs = time.monotonic() - pressed
    expect(head(view)).to_have_text("Running")
    notebook.run(2)
    expect(notebook.prompt(2)).to_have_text(re.compile(r"\[\*\]"))
    clicked = time.monotonic()
    view.get_by_role("button", name="Cancel").click()
    expect(head(view)).to_have_text("Canceled", timeout=10_000)
    cancel_secs = time.monotonic() - clicked
    expect(notebook.prompt(2)).to_have_text(re.compile(r"\[\*\]"))  # still busy
    print(f"{lab.app}: first line after {first_line_secs:.2f} s, canceled after {cancel_secs:.2f} s")


def test_view_survives_reload_and_kernel_restart_while_the_job_runs(lab: Lab, page: Page) -> None:
    lab.write_notebook("survive.ipynb", LOAD, COUNT_TILL_TOLD)
    notebook = lab.open(page, "survive.ipynb")
    notebook.run_to_end(0)
    notebook.run(1)
    line(notebook.view(1), "line 39").wait_for(timeout=20_000)
    notebook.save()
    notebook = lab.open(page, "survive.ipynb")
    view = notebook.view(1)
    expect(head(view)).to_have_text("Running", timeout=20_000)
    line(view, "line 39").wait_for()
    notebook.restart_kernel()
    expect(head(view)).to_have_text("Running")
    (lab.folder / "enough").touch()
    expect(head(view)).to_have_text("Succeeded", timeout=30_000)
    expect(view.locator(".zb-logbar")).to_contain_text("40 lines")
    # No kernel knows of it any more: the page itself puts the end into the notebook.
    notebook.save_when(lambda saved: saved["state"] == "succeeded", lab, "survive.ipynb")
    shown = exported(lab.folder / "survive.ipynb")
    assert '<b style="color:#2e7d32">Succeeded</b> <b>count</b>' in shown
    assert "line 1\n" in shown
    assert "line 40" in shown


def test_figure_and_value_are_seen_and_come_back_when_the_kernel_is_gone(lab: Lab, page: Page) -> None:
    lab.write_notebook("plot.ipynb", LOAD, PLOT)
    notebook = lab.open(page, "plot.ipynb")
    notebook.run_to_end(0)
    notebook.run(1)
    expect(head(notebook.view(1))).to_have_text("Succeeded", timeout=30_000)
    assert_whole(notebook.view(1))
    notebook.save_when(lambda saved: saved["state"] == "succeeded" and "after" in str(saved["log"]), lab, "plot.ipynb")
    notebook.shut_down_kernel()
    page.goto("about:blank")
    notebook = lab.open(page, "plot.ipynb", kernel=False)
    view = notebook.view(1)
    expect(head(view)).to_have_text("Succeeded", timeout=30_000)
    assert_whole(view)
    expect(page.get_by_text("model not found")).to_have_count(0)


def exported(path: Path) -> str:
    """Return a saved notebook as a reader of its HTML export sees it."""
    html, _ = HTMLExporter().from_notebook_node(nbformat.read(path, as_version=4))
    return str(html)


@pytest.mark.slow
def test_saved_notebook_is_whole_where_nobody_knows_the_job(lab: Lab, page: Page, tmp_path: Path) -> None:
    lab.write_notebook("plot.ipynb", LOAD, PLOT)
    notebook = lab.open(page, "plot.ipynb")
    notebook.run_to_end(0)
    notebook.run(1)
    expect(head(notebook.view(1))).to_have_text("Succeeded", timeout=30_000)
    notebook.save_when(lambda saved: saved["state"] == "succeeded" and "after" in str(saved["log"]), lab, "plot.ipynb")
    page.goto("about:blank")
    elsewhere = Lab(tmp_path / "notebooks", tmp_path / "data", app=lab.app)
    shutil.copy(lab.folder / "plot.ipynb", elsewhere.folder)
    with elsewhere:
        view = elsewhere.open(page, "plot.ipynb", kernel=False).view(1)
        expect(view.get_by_role("note")).to_contain_text("The server does not know this job.", timeout=20_000)
        expect(head(view)).to_have_text("Succeeded")
        assert_whole(view)
        assert "image/png;base64" in exported(elsewhere.folder / "plot.ipynb")


def assert_whole(view: Locator) -> None:
    """The figure, the value and the log are there."""
    image = view.locator(".zb-out img").first
    image.wait_for()
    assert image.evaluate("image => image.naturalWidth") > 100
    expect(view).to_contain_text("{'answer': 42}")
    line(view, "before").wait_for()
    line(view, "after").wait_for()


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%%zbrain --frobnicate\nprint(1)", "UsageError: %%zbrain does not know '--frobnicate'."),
        ("%%zbrain\nfile.read()", "NotPicklable: "),
        ("%%zbrain --in nothing\nprint(1)", "nothing"),
        ("%%zbrain\nfor", "SyntaxError: invalid syntax"),
        ("%%zbrain --timeout -5\nprint(1)", "InvalidSpec: timeout_secs must lie between"),
    ],
)
def test_bad_input_is_one_sentence_without_our_frames(lab: Lab, page: Page, cell: str, says: str) -> None:
    lab.write_notebook("bad.ipynb", f"{LOAD}\nimport os\nfile = open(os.devnull)", cell)
    notebook = lab.open(page, "bad.ipynb")
    notebook.run_to_end(0)
    notebook.run(1)
    output = notebook.cell(1).locator(".jp-OutputArea-output")
    expect(output).to_contain_text(says, timeout=20_000)
    text = output.inner_text()
    assert "Traceback" not in text
    assert "site-packages" not in text
    assert "zbrain_nb/" not in text


def test_dashboard_is_live_in_the_notebook_and_leads_to_the_console(lab: Lab, page: Page) -> None:
    lab.write_notebook("dashboard.ipynb", LOAD, "%zbrain", "%%zbrain --name for-the-table\nprint(1)")
    notebook = lab.open(page, "dashboard.ipynb")
    notebook.run_to_end(0)
    notebook.run(1)
    table = notebook.view(1)
    expect(table.locator(".zb-jobs th").first).to_be_visible(timeout=20_000)
    notebook.run(2)
    link = table.locator(".zb-jobs").get_by_role("link", name="for-the-table")
    named = page.get_by_role("link", name="for-the-table")
    expect(table.locator("tr", has=named).locator(".zb-word")).to_have_text("Succeeded", timeout=30_000)
    with page.context.expect_page() as opened:
        link.click()
    expect(opened.value.locator(".zb-jobhead h1")).to_contain_text("for-the-table")
    assert "/base/zbrain/jobs/" in opened.value.url
    with page.context.expect_page() as console:
        table.get_by_role("link", name="Open the console").click()
    expect(console.value.locator(".zb-live")).to_have_text("Live", timeout=20_000)
    view = notebook.view(2)
    view.get_by_role("button", name="More for for-the-table").click()
    expect(view.get_by_role("link", name="Open its own page")).to_have_attribute("href", opened.value.url)


def test_tile_opens_the_console_in_lab_and_follows_its_theme(lab: Lab, page: Page) -> None:
    if lab.app != "lab":
        return  # Notebook 7 has no launcher
    lab.write_notebook("tile.ipynb", LOAD)
    notebook = lab.open(page, "tile.ipynb", kernel=False)
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget")
    notebook.command("launcher:create")
    page.locator(".jp-LauncherCard", has_text="zbrain jobs").click()
    console = page.frame_locator(".zb-console iframe")
    expect(console.locator(".zb-live")).to_have_text("Live", timeout=20_000)
    expect(console.locator("html")).to_have_attribute("data-theme", "light")
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    expect(console.locator("html")).to_have_attribute("data-theme", "dark", timeout=20_000)
