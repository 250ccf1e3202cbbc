"""How fast the console answers a click, and what its tab takes, while the queue is busy.

``python -m tests.benchmarks.bench_console [--secs N] [--jobs N] [--only dashboard,job]``. A host with 10,000 jobs, of
which one writes 2,000 lines a second and others come and go; Chromium shows the dashboard, or the page of that job
from its first line on. A button is pressed for as long as a person presses it, and a click counts from the release,
by the browser's clock, to the frame behind its handlers. Memory is read after full collections, at five moments.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.benchmarks.bench_events import a_host
from tests.benchmarks.loads import Api, Load, lease_jobs, lives, percentile
from tests.benchmarks.table import print_table
from tests.browser.conftest import ARGS, chromium_path, log_in
from zbrain_nb.model.datadir import Owner

RATE = 2_000
LIVES = 20
JOBS = 10_000
PRESS_MS = 80
MOMENTS = 5
WHOLE = re.compile(r"^(Newest )?[\d,]+ (jobs|of .*older)")
GATHER_SECS = 0.1  # lines are sent together, as a worker does
WATCH = """
window.clicks = [];
addEventListener('click', (event) => {
  if (!event.target.closest('button, input')) return;
  requestAnimationFrame(() => {
    const painted = new MessageChannel();
    painted.port1.onmessage = () => clicks.push(performance.now() - event.timeStamp);
    painted.port2.postMessage(0);
  });
}, true);
"""
ON_DASHBOARD = (
    ".zb-seg [data-pick=running]",
    ".zb-seg [data-pick='']",
    ".zb-jobs th[data-c=name] button",
    ".zb-jobs tbody tr:nth-child(5) input",
    ".zb-jobs th[data-c=created] button",
)
ON_JOB = ("[data-tab=code]", "[data-tab=log]", "[data-tab=attempts]", "[data-tab=log]")


class Found(NamedTuple):
    """What was measured on a page.

    Attributes
    ----------
    page : str
        What it shows.
    pressed : int
        How often a button was pressed.
    clicks : list of float
        For each click that a button got, the milliseconds until its frame.
    heaps : list of float
        The script's heap in MB, at five moments from the beginning to the end.
    nodes : list of int
        DOM nodes at these moments, those in no page too.
    """

    page: str
    pressed: int
    clicks: list[float]
    heaps: list[float]
    nodes: list[int]

    def row(self) -> tuple[str, ...]:
        """Return it as a line of the table."""
        return (
            self.page,
            f"{len(self.clicks)} of {self.pressed}",
            f"{percentile(self.clicks, 0.5):.0f}",
            f"{percentile(self.clicks, 0.99):.0f}",
            f"{max(self.clicks):.0f}",
            " ".join(f"{each:.1f}" for each in self.heaps),
            " ".join(map(str, self.nodes)),
        )


def measure(name: str, page: Page, places: tuple[str, ...], secs: float) -> Found:
    """Click round and round."""
    tab = page.context.new_cdp_session(page)
    tab.send("Performance.enable")
    found = Found(name, 0, [], [], [])
    pressed = 0

    def look() -> None:
        for _ in range(2):  # what finalizers let go is collected by the second
            tab.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in tab.send("Performance.getMetrics")["metrics"]}
        found.heaps.append(metrics["JSHeapUsedSize"] / 1e6)
        found.nodes.append(int(metrics["Nodes"]))

    begun = time.monotonic()
    for moment in range(MOMENTS):
        while time.monotonic() - begun < secs * moment / (MOMENTS - 1):
            for place in places:
                page.locator(place).first.click(delay=PRESS_MS)
                pressed += 1
                page.wait_for_timeout(100)
        look()
    found.clicks.extend(page.evaluate("clicks.splice(0)"))
    return found._replace(pressed=pressed)


@contextmanager
def busy_host(secs: float, jobs: int) -> Iterator[tuple[Owner, str]]:
    """A host with many jobs, of which some come and go for `secs`; and one that writes for as long."""
    os.environ["ZBRAIN_LEASE_TTL"] = str(4 * secs + 300)  # the writer sends no heartbeats
    with a_host() as (owner, _):
        api = Api(owner.url, owner.token)
        waiting = jobs // 2  # the others have ended within the hour, so that the lanes of the workers are full too
        for start in range(0, waiting, 1000):
            count = min(1000, waiting - start)
            api.post("jobs", [{"cmd": ["true"], "name": f"step {start + n}", "worker": "none"} for n in range(count)])
        lives(owner.url, owner.token, rate=1e9, secs=60, worker="past", most=jobs - waiting)
        job = lease_jobs(api, "writer", 1)[0]
        about = {"url": owner.url, "token": owner.token, "secs": secs}
        loads = [
            Load("drip", worker="writer", job=job, rate=RATE, gather=GATHER_SECS, **about),
            Load("lives", rate=LIVES, **about),
        ]
        try:
            yield owner, job
        finally:
            for one in loads:
                one.process.terminate()
                one.process.communicate(timeout=10)


def dashboard(page: Page, owner: Owner, secs: float, jobs: int = JOBS) -> Found:
    """Measure the dashboard of a busy host, on a page that is logged in."""
    begun = time.perf_counter()
    page.goto(f"{owner.url}zbrain")
    page.locator(".zb-jobs tbody a").first.wait_for()
    first_rows = time.perf_counter() - begun
    expect(page.locator(".zb-end")).to_contain_text(WHOLE, timeout=60_000)
    held = page.locator(".zb-end > span").first.inner_text()
    print(f"first rows after {first_rows:.2f} s, all rows after {time.perf_counter() - begun:.2f} s: {held}")
    return measure(f"dashboard, {jobs:,} jobs", page, ON_DASHBOARD, secs)


def job_page(page: Page, owner: Owner, job: str, secs: float) -> Found:
    """Measure the page of the job that writes."""
    page.goto(f"{owner.url}zbrain/jobs/{job}")
    page.locator(".zb-ln").first.wait_for()
    found = measure(f"job at {RATE:,} lines a second", page, ON_JOB, secs)
    print(f"the page of the job tells of {page.locator('[data-tab=log] small').inner_text()} lines")
    return found


def run(chromium: Browser, secs: float, jobs: int = JOBS, only: str = "dashboard,job") -> list[Found]:
    """Measure each page on a host of its own."""
    found = []
    for name in only.split(","):
        with busy_host(secs + 60, jobs) as (owner, job):
            page = chromium.new_page(viewport={"width": 1300, "height": 900})
            page.add_init_script(WATCH)
            log_in(page, owner)
            if name == "dashboard":
                found.append(dashboard(page, owner, secs, jobs))
            else:
                found.append(job_page(page, owner, job, secs))
            page.close()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secs", type=float, default=20, help="seconds of clicks on each page")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--only", default="dashboard,job", help="pages, separated by commas")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=ARGS)
        rows = [each.row() for each in run(chromium, options.secs, options.jobs, options.only)]
        chromium.close()
    columns = ("page", "clicks", "p50 ms", "p99", "worst", "heap MB", "nodes")
    print_table("The console under load (aim: a click within 100 ms, a level heap)", columns, rows)


if __name__ == "__main__":
    main()
