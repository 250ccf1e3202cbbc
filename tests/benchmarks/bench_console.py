"""How fast the console answers a click, and what its tab takes, while the queue is busy.

``python -m tests.benchmarks.bench_console [--secs N] [--jobs N]``. A host with 10,000 jobs, of which one writes 2,000
lines a second and others come and go; Chromium shows the dashboard, then the page of that job. A click counts from
the moment of the input, by the browser's clock, to the frame behind its handlers.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from tests.benchmarks.bench_events import a_host
from tests.benchmarks.loads import Api, Load, lease_jobs, percentile
from tests.benchmarks.table import print_table
from tests.browser.conftest import ARGS, chromium_path

RATE = 2_000
LIVES = 20
WHOLE = re.compile(r"^(Newest )?[\d,]+ (jobs|of .*older)")
GATHER_SECS = 0.1  # lines are sent together, as a worker does
WATCH = """
window.clicks = [];
addEventListener('click', (event) => requestAnimationFrame(() => {
  const painted = new MessageChannel();
  painted.port1.onmessage = () => clicks.push(performance.now() - event.timeStamp);
  painted.port2.postMessage(0);
}), true);
"""
ON_DASHBOARD = (
    ".zb-seg [data-pick=running]",
    ".zb-seg [data-pick='']",
    ".zb-jobs th[data-c=name] button",
    ".zb-jobs tbody tr:nth-child(5) input",
    ".zb-jobs th[data-c=created] button",
)
ON_JOB = ("[data-tab=code]", "[data-tab=log]", "[data-tab=attempts]", "[data-tab=log]")


def measure(page: Page, places: tuple[str, ...], secs: float) -> dict[str, Any]:
    """Click round and round; return times in milliseconds, and the heap at the start and the end in MB."""
    tab = page.context.new_cdp_session(page)
    tab.send("Performance.enable")

    def heap() -> float:
        tab.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in tab.send("Performance.getMetrics")["metrics"]}
        return float(metrics["JSHeapUsedSize"]) / 1e6

    begun, first, heaps = time.monotonic(), heap(), []
    while time.monotonic() - begun < secs:
        for place in places:
            page.locator(place).first.click()
            page.wait_for_timeout(150)
        heaps.append(heap())
    clicks = page.evaluate("clicks.splice(0)")
    return {"clicks": clicks, "first": first, "last": heaps[-1], "nodes": page.locator("*").count()}


def row(what: str, found: dict[str, Any]) -> tuple[str, ...]:
    clicks = found["clicks"]
    return (
        what,
        str(len(clicks)),
        f"{percentile(clicks, 0.5):.0f}",
        f"{percentile(clicks, 0.99):.0f}",
        f"{max(clicks):.0f}",
        f"{found['first']:.1f}",
        f"{found['last']:.1f}",
        str(found["nodes"]),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--secs", type=float, default=20, help="seconds of clicks on each page")
    parser.add_argument("--jobs", type=int, default=10_000)
    options = parser.parse_args()
    os.environ["ZBRAIN_LEASE_TTL"] = str(4 * options.secs + 300)  # the writer sends no heartbeats
    with a_host() as (owner, _), sync_playwright() as playwright:
        api = Api(owner.url, owner.token)
        for start in range(0, options.jobs, 1000):
            count = min(1000, options.jobs - start)
            api.post("jobs", [{"cmd": ["true"], "name": f"step {start + n}", "worker": "none"} for n in range(count)])
        job = lease_jobs(api, "writer", 1)[0]
        secs = 2 * options.secs + 30
        load = {"url": owner.url, "token": owner.token, "secs": secs}
        loads = [
            Load("drip", worker="writer", job=job, rate=RATE, gather=GATHER_SECS, **load),
            Load("lives", rate=LIVES, **load),
        ]
        chromium = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=ARGS)
        page = chromium.new_page(viewport={"width": 1300, "height": 900})
        page.add_init_script(WATCH)
        begun = time.perf_counter()
        page.goto(f"{owner.url}{api.post('sessions', {})['login']}")
        page.locator(".zb-jobs tbody a").first.wait_for()
        first_rows = time.perf_counter() - begun
        expect(page.locator(".zb-end")).to_contain_text(
            re.compile(r"^(Newest )?[\d,]+ (jobs|of .*older)"), timeout=60_000
        )
        whole = time.perf_counter() - begun
        held = page.locator(".zb-end > span").first.inner_text()
        rows = [row(f"dashboard, {options.jobs:,} jobs", measure(page, ON_DASHBOARD, options.secs))]
        page.goto(f"{owner.url}zbrain/jobs/{job}")
        page.locator(".zb-ln").first.wait_for()
        rows.append(row(f"job at {RATE:,} lines a second", measure(page, ON_JOB, options.secs)))
        chromium.close()
        for one in loads:
            one.process.terminate()
            one.process.wait(10)
    columns = ("page", "clicks", "p50 ms", "p99 ms", "worst ms", "heap MB", "at the end", "nodes")
    print_table("The console under load (aim: a click within 100 ms, a level heap)", columns, rows)
    print(f"first rows after {first_rows:.2f} s, all rows after {whole:.2f} s: {held}")


if __name__ == "__main__":
    main()
