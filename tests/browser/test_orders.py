"""Closing the browser, restarting the kernel and restarting Jupyter, in every order, while a job runs.

All orders share one restart of Jupyter: what an order has before it is done before, the rest after. So every order
is a real one, at the price of one.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

import zbrain_nb
from tests.browser.bare import open_view
from tests.jupyter import Lab
from tests.remote_kernel import RemoteKernel
from zbrain_nb import Client, JobHandle, JobState

pytestmark = pytest.mark.browser

BROWSER, KERNEL, JUPYTER = "browser", "kernel", "jupyter"
SELECTIONS = [order for size in (1, 2, 3) for order in itertools.permutations((BROWSER, KERNEL, JUPYTER), size)]
FULL = [order for order in SELECTIONS if len(order) == 3]
STEP = 10  # lines between one disturbance and the next, at least

LOAD = "%load_ext zbrain_nb"
# It goes on until it is told that everything has been done to it: no machine is so slow that it ends before.
CELL = """%%zbrain --name {name} --no-wait
import os, sys, time
from tqdm.auto import tqdm
import zbrain_nb

shown = display("none yet", display_id=True)
bar = tqdm(total=10_000)
n = 0
while n < {least} or not os.path.exists({enough!r}):
    print(f"\\r{{n}} of many\\rline {{n}}")
    print("note", n, file=sys.stderr)
    n += 1
    bar.update(1)
    shown.update(f"{{n}} lines")
    time.sleep(0.05)
bar.close()
zbrain_nb.save_artifact(str(n), "count.txt")
n"""


class Person(ABC):
    """Somebody with a job: a notebook's kernel, and a browser in which the job's view is open."""

    def __init__(self, browser: Browser, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.kernel = RemoteKernel(lab, f"{name}.ipynb")
        self.job_id = ""
        self._browser = browser
        self._context: BrowserContext | None = None

    @abstractmethod
    def run(self, cell: str) -> None:
        """Run the cell that starts the job."""

    @abstractmethod
    def open(self, page: Page) -> Locator:
        """Open the job's view in a fresh browser."""

    @property
    def browses(self) -> bool:
        """Whether a browser is open."""
        return self._context is not None

    def view(self) -> Locator:
        """Return the view that is open; after the browser was closed, one in a new browser."""
        if not self.browses:
            self._view = self.open(self.new_page())
        return self._view

    def new_page(self) -> Page:
        """Start a browser that remembers nothing."""
        self._context = self._browser.new_context(viewport={"width": 1180, "height": 900})
        self._context.set_default_timeout(60_000)
        return self._context.new_page()

    def close_browser(self) -> None:
        """Close the browser, which asks nobody."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def restart_kernel(self) -> None:
        """Restart the kernel, or if it went with Jupyter, the one that stands in its place."""
        self.kernel.restart()


class Bare(Person):
    """The view stands on a page that holds nothing else, and the kernel is driven from outside."""

    def run(self, cell: str) -> None:
        self.kernel.run(LOAD)
        self.kernel.run(cell)

    def open(self, page: Page) -> Locator:
        return open_view(page, self.lab, self.job_id)


class InJupyterLab(Person):
    """The view stands under its cell in JupyterLab; while that is open, the kernel is restarted by its command."""

    def new_page(self) -> Page:
        page = super().new_page()
        lost = page.get_by_role("dialog", name="Server Connection Error")  # JupyterLab's own, over everything
        page.add_locator_handler(lost, lambda dialog: dialog.locator(".jp-Dialog-footer button").last.click())
        return page

    def run(self, cell: str) -> None:
        self.lab.write_notebook(f"{self.name}.ipynb", LOAD, cell)
        self.notebook = self.lab.open(self.new_page(), f"{self.name}.ipynb")
        self.notebook.run_to_end(0)
        self.notebook.run_to_end(1)
        self._view = self.notebook.view(1)
        self._view.wait_for()
        self.notebook.save()

    def open(self, page: Page) -> Locator:
        self.notebook = self.lab.open(page, f"{self.name}.ipynb")
        return self.notebook.view(1)

    def restart_kernel(self) -> None:
        if self.browses:
            self.notebook.restart_kernel()
        else:
            super().restart_kernel()


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    with Lab(
        tmp_path / "notebooks", tmp_path / "data", app=request.param, ZWORKER_CONCURRENCY=str(len(SELECTIONS))
    ) as lab:
        yield lab


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lab", ["server"], indirect=True)
def test_no_order_of_all_three_shows_in_log_or_outcome(browser: Browser, lab: Lab, tmp_path: Path) -> None:
    go_through(FULL, Bare, browser, lab, tmp_path / "enough")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("lab", ["lab"], indirect=True)
@pytest.mark.parametrize(
    "orders",
    [
        [order for order in SELECTIONS if JUPYTER not in order],
        [order for order in SELECTIONS if JUPYTER in order and order not in FULL],
        FULL,
    ],
    ids=["without Jupyter", "with Jupyter", "all three"],
)
def test_no_order_shows_in_jupyterlab(
    browser: Browser, lab: Lab, tmp_path: Path, orders: list[tuple[str, ...]]
) -> None:
    go_through(orders, InJupyterLab, browser, lab, tmp_path / "enough")


def go_through(orders: Sequence[tuple[str, ...]], kind: type[Person], browser: Browser, lab: Lab, gate: Path) -> None:
    """Do to a job of its own what each order says, and assert that no job and no view shows it."""
    people = {order: kind(browser, lab, "-".join(order)) for order in orders}
    try:
        with zbrain_nb.connect(lab.url, lab.token) as client:
            for each in people.values():
                each.kernel.start()  # all at once
            jobs = {order: start(client, each, gate) for order, each in people.items()}
            for order, each in people.items():
                disturb(each, jobs[order], itertools.takewhile(lambda step: step != JUPYTER, order))
            if any(JUPYTER in order for order in orders):
                lab.stop()
                lab.start()
            for order, each in people.items():
                disturb(each, jobs[order], [*itertools.dropwhile(lambda step: step != JUPYTER, order)][1:])
            gate.touch()
            for order, each in people.items():
                jobs[order].wait(60)
                assert_undisturbed(jobs[order])
                if each.browses:
                    assert_shown_whole(each.view(), jobs[order])
                    each.close_browser()
                assert_shown_whole(each.view(), jobs[order])
                each.close_browser()
    finally:
        gate.touch()  # else what a failed test leaves would run on: nothing less ends a job


def start(client: Client, person: Person, gate: Path) -> JobHandle:
    """Start a person's job, and return when the person sees it run."""
    person.run(CELL.format(name=person.name, least=STEP, enough=str(gate)))
    (job,) = client.jobs(name=person.name)
    person.job_id = job.id
    wait_for_lines(job, STEP)
    view = person.view()
    expect(view.locator(".zb-ln").first).to_be_visible(timeout=30_000)
    expect(view).to_have_attribute("data-face", "running")
    return job


def disturb(person: Person, job: JobHandle, steps: Iterable[str]) -> None:
    """Do what the steps say, with lines of the job between each and the next."""
    for step in steps:
        if step == BROWSER:
            person.close_browser()
        else:
            person.restart_kernel()
        wait_for_lines(job, STEP)


def wait_for_lines(job: JobHandle, more: int) -> None:
    """Return when the log has grown by so many lines."""
    lines = job.logs(follow=True, from_seq=job.client.call(job.client.asynchronous.count_log_lines, job.id))
    assert len(list(itertools.islice(lines, more))) == more, "the job has ended too early"


def assert_undisturbed(job: JobHandle) -> None:
    """Assert that all is as a run that was left alone leaves it."""
    ended = job.refresh().job
    assert ended.state == JobState.SUCCEEDED, ended.reason
    assert (ended.attempt, ended.failures, ended.losses) == (1, 0, 0)
    count = job.result()
    assert isinstance(count, int)
    entries = list(job.logs())
    assert [entry.seq for entry in entries] == list(range(2 * count))
    assert {entry.attempt for entry in entries} == {1}
    assert [entry.line for entry in entries if entry.stream == "stdout"] == [f"line {i}" for i in range(count)]
    assert [entry.line for entry in entries if entry.stream == "stderr"] == [f"note {i}" for i in range(count)]
    shown = [output["data"]["text/plain"] for output in job.outputs]
    assert shown == [f"'{count} lines'", str(count)]
    assert {name: artifact.read() for name, artifact in job.artifacts.items()} == {"count.txt": str(count).encode()}
    assert ended.progress is not None
    assert ended.progress["fraction"] == count / 10_000


def assert_shown_whole(view: Locator, job: JobHandle) -> None:
    """Assert that a view shows the end, the last state of every output, and the log from the first line on."""
    lines = [entry.line for entry in job.logs()]
    expect(view.locator(".zb-word").first).to_have_text("Succeeded", timeout=60_000)
    expect(view.locator(".zb-output")).to_have_text([f"'{len(lines) // 2} lines'", str(len(lines) // 2)])
    fold = view.get_by_role("button", name="Log", exact=True)
    if fold.get_attribute("aria-expanded") == "false":
        fold.click()
    expect(view.locator(".zb-logbar")).to_contain_text(f"{len(lines):,} lines")
    view.get_by_role("log").press("Home")
    for place, line in enumerate(lines[:10]):
        expect(view.locator(".zb-ln").nth(place)).to_have_text(line)
    with view.page.expect_download() as download:
        view.get_by_role("button", name="Download the whole log").click()
    assert download.value.path().read_text().splitlines() == lines
