"""A person's desk: one notebook of many cells, open in a real front end, with all that its jobs need.

`test_buttons.py` drives it. Server, kernel and page are started once for each front end; every test has cells of its
own in the notebook, and gates, by which it tells when a job goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.jupyter import Lab, Notebook

SLOTS = 3
NOTEBOOK = "desk.ipynb"
WINDOWING = '{"windowingMode": "none"}'  # else cells out of sight are not in the page, and cannot be counted
PICTURES = "TEST_PICTURES"  # a folder: each state is drawn there, in both themes and two widths
WIDE, NARROW, TALL = 1300, 760, 2400  # of the widths Lab's sidebar takes 300

FIRST = """%load_ext zbrain_nb
import pathlib, sys, time, traceback
import zbrain_nb

gates = pathlib.Path({gates!r})

def until(name):
    while not (gates / name).exists():
        time.sleep(0.02)"""

CELLS = {
    "train": """%%zbrain --name train --timeout 3600
began = time.monotonic()
zbrain_nb.progress(1, 10, note="epoch 1 of 10")
for step in range(120):
    print(f"epoch 1 step {step:3} \\x1b[36mloss\\x1b[0m {2 / (step + 1):.4f}")
    if step == 100:
        print("the learning rate is high", file=sys.stderr)
until("train")
time.sleep(max(0, 3.1 - (time.monotonic() - began)))  # an estimate takes three seconds
zbrain_nb.progress(5, 10, note="epoch 5 of 10")
print("epoch 5")
until("never")""",
    "sweep": """%%zbrain --name sweep --grid lr=0.1,0.2,0.3 --job sweep
zbrain_nb.progress(1, 2, note="half of it")
until("sweep")
if lr > 0.1 and not (gates / "mended").exists():
    raise ValueError("lr is too high" if lr > 0.2 else "lr is too odd")
lr""",
    "seed": "seed = globals().get('seed', 0) + 1",
    "again": "%%zbrain --name again\nprint(seed)\nuntil('never')",
    "queued": "%%zbrain --name queued --job queued\nprint('it ran')",
    "evaluate": "%%zbrain --name evaluate --after queued\nprint('evaluated')",
    "all": "%%zbrain --name all --grid lr=1,2\nuntil('never')",
    "flaky": """%%zbrain --name flaky --retries 12
print("to be tried again", file=sys.stderr)
raise ConnectionError("the bucket does not answer")""",
    "broken": """%%zbrain --name broken
batch = [1, 2, 3]
try:
    batch["labels"]
except TypeError:
    traceback.print_exc()
for number in range(90):
    print("step", number)
if not (gates / "repaired").exists():
    raise KeyError("labels")
for number in range(30):
    print("more", number)
'repaired'""",
    "keep": """%%zbrain --name keep --out model,rows
import matplotlib.pyplot as plt

model = {"layers": 3, "width": 64}
rows = list(range(1000))
plt.plot([3, 2, 1.5, 1.2, 1.1])
plt.savefig("loss.png")
plt.show()
zbrain_nb.save_artifact("loss.png", "loss.png")
zbrain_nb.save_artifact("epoch,loss\\n1,2.214\\n2,1.907\\n", "metrics.csv")
zbrain_nb.save_artifact("some notes\\n", "notes.txt")
zbrain_nb.save_artifact(model, "model.pkl")
for number in range(40):
    print("line", number)
{"accuracy": 0.914}""",
    "tokens": "%%zbrain --name tokens --cache\nprint('counted')\nsum(range(1000))",
    "waits": "%%zbrain --name waits --job waits\nuntil('never')",
    "blocked": """try:
    waits.wait()
except zbrain_nb.Detached:
    print("detached")
until("free")""",
    "herd": "%%zbrain --name herd --grid lr=1,2 --job herd\nuntil('never')",
    "held": """try:
    herd.wait()
except zbrain_nb.Detached:
    print("detached")""",
    "hold": """from zbrain_nb.notebook import presenting

say, held = presenting.publish_display_data, []

def hold(*args, update=False, **more):
    held.append((args, more)) if update else say(*args, **more)

presenting.publish_display_data = hold""",
    "stopped": "%%zbrain --name stopped\nuntil('never')",
    "say": """while not held:
    time.sleep(0.02)
for args, more in held:
    say(*args, update=True, **more)
presenting.publish_display_data = say""",
    "tell": "%%zbrain --name tell --notify-after 0\nuntil('tell')\nraise ValueError('told')",
    "table": "%zbrain",
    "survivor": """%%zbrain --name survivor
zbrain_nb.progress(3, 4, note="nearly there")
print("before")
until("survivor")
print("after")""",
}


class Desk:
    """A notebook in a front end, its cells by name.

    Parameters
    ----------
    lab : Lab
        The server, started.
    page : Page
        Where the notebook is to be opened.
    """

    def __init__(self, lab: Lab, page: Page) -> None:
        self.lab = lab
        self.page = page
        self.gates = lab.folder / "gates"
        self.gates.mkdir()
        self._index = {name: index for index, name in enumerate(CELLS, 1)}
        lab.write_notebook(NOTEBOOK, FIRST.format(gates=str(self.gates)), *CELLS.values())
        self.notebook: Notebook = lab.open(page, NOTEBOOK)
        self.notebook.run_to_end(0)

    def run(self, name: str) -> Locator:
        """Run a cell; return its view."""
        self.notebook.run(self._index[name])
        return self.view(name)

    def run_to_end(self, name: str) -> None:
        """Run a cell in the kernel, and wait until it has ended."""
        self.notebook.run_to_end(self._index[name])

    def view(self, name: str) -> Locator:
        """Return the view under a cell."""
        return self.notebook.view(self._index[name])

    def prompt(self, name: str) -> Locator:
        """Return what stands before a cell."""
        return self.notebook.prompt(self._index[name])

    def open_gate(self, name: str) -> None:
        """Let go on what waits for it."""
        (self.gates / name).touch()

    def cell(self, name: str) -> Locator:
        """Return a cell."""
        return self.notebook.cell(self._index[name])

    def saved_ids(self, name: str) -> list[str]:
        """Return the ids of the jobs that the notebook holds in the outputs of a cell."""
        cell = "jupyterapp.shell.currentWidget.content.widgets[index]"
        outputs = self.page.evaluate(f"index => JSON.stringify({cell}.model.outputs.toJSON())", self._index[name])
        return re.findall(r'"id":"([^"]+)"', outputs)

    def draw(self, state: str, view: Locator, *, themes: Sequence[str] = ("Light", "Dark")) -> None:
        """Draw a view as it is now, in both themes (or as it is) and two widths, if a folder is given for it."""
        if not (folder := os.environ.get(PICTURES)):
            return
        for theme in themes or [""]:
            if theme:
                change = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
                self.page.evaluate(change, f"JupyterLab {theme}")
                light = str(theme == "Light").lower()
                expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", light)
            for width in (WIDE, NARROW):
                self.page.set_viewport_size({"width": width, "height": TALL})  # the whole of a long card
                path = Path(folder) / f"{self.lab.app}-{state}-{theme.lower()}-{width}.png"
                view.screenshot(path=path, animations="disabled")
        self.page.set_viewport_size({"width": WIDE, "height": 900})


def draw_console(name: str, page: Page) -> None:
    """Draw a page of the console as `Desk.draw` draws a view."""
    if not (folder := os.environ.get(PICTURES)):
        return
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (WIDE, NARROW):
            page.set_viewport_size({"width": width, "height": 900})
            path = Path(folder) / f"console-{name}-{scheme}-{width}.png"
            page.screenshot(path=path, animations="disabled")
    page.set_viewport_size({"width": WIDE, "height": 900})


def prepare(lab: Lab) -> None:
    """Have the front end keep all cells in the page."""
    settings = lab.folder / ".settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(WINDOWING)


def word(view: Locator) -> Locator:
    """Return the word for the state, in the head of a view."""
    return view.locator(".zb-head .zb-word").first


def press(view: Locator, name: str | re.Pattern[str]) -> None:
    """Press the button of a view that has this name, as a whole."""
    view.get_by_role("button", name=name, exact=True).first.click()


def line(view: Locator, text: str) -> Locator:
    """Return the line of a log that reads so."""
    return view.locator(".zb-lines .zb-ln").get_by_text(text, exact=True)
