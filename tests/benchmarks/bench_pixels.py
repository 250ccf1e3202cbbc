"""From a line in a job's process to its pixels in Chromium, at 100 and at 2,000 lines a second.

``python -m tests.benchmarks.bench_pixels [--secs N] [--rates 100,2000] [--only raw,console,relay,lab]``. Each line
holds its number and the moment it was written. A real host and worker, and real pages: the console straight from the
host, the console through Jupyter's relay, the view under a cell of JupyterLab. "Raw" is a bare server that sends such
lines over a bare WebSocket to a page that only appends them, in the same browser.

Three moments are taken in the page: when a line's frame is there, when the main thread is done with the frame of the
screen that shows it (a task posted behind the callbacks of that frame runs after its layout and paint), and when the
compositor says it was on the screen (Element Timing; the browser rounds it to 4 ms). A line that a later one has
scrolled off before any frame counts as shown with that later one.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

import zbrain_nb
from tests.benchmarks.loads import Load, percentile
from tests.benchmarks.table import print_table
from tests.browser.conftest import ARGS, chromium_path, log_in
from tests.jupyter import Lab
from zbrain_nb import Client
from zbrain_nb.model.datadir import DataDir

WARM_SECS = 1.0  # what comes earlier is not counted
# Writes line by line, as a program does that is not told otherwise; begins when it is told to.
WRITER = """
import os, sys, time
rate, secs, go = float({rate}), float({secs}), {go!r}
print("0 0 ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.02)
begun, count = time.time(), 0
while count < rate * secs:
    due = int((time.time() - begun) * rate)
    while count < due:
        count += 1
        print(f"{{count}} {{time.time_ns()}} epoch 3 loss=0.12345 accuracy=0.9876", flush=True)
    time.sleep(max(0.0, begun + (count + 1) / rate - time.time()))
"""
WATCH = """
window.came = [];
window.painted = [];
window.presented = [];
const clock = () => performance.timeOrigin + performance.now();
const number = (text) => parseInt(text, 10);
window.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    if (!/events|lines/.test(this.url)) return;
    this.addEventListener('message', ({ data }) => {
      const at = data.lastIndexOf(' epoch 3 loss');
      const line = at < 0 ? null : /(\\d+) \\d+$/.exec(data.slice(Math.max(0, at - 60), at));
      if (line) came.push([number(line[1]), clock()]);
    });
  }
};
const task = new MessageChannel();
let newest = 0;
let marks = null;
task.port1.onmessage = () => painted.push([newest, clock()]);
// Lines may be gone before the compositor tells of them: a mark comes with each change and stays until it is told of.
function mark() {
  marks ??= document.body.appendChild(document.createElement('div'));
  marks.style = 'position: fixed; left: 0; bottom: 0; width: 9px; height: 9px; contain: strict; font: 8px/8px serif';
  const one = document.createElement('p');
  one.textContent = '+';
  one.setAttribute('elementtiming', newest);
  one.style = 'position: absolute; left: 0; top: 0; margin: 0';
  marks.append(one);
}
addEventListener('DOMContentLoaded', () => new MutationObserver((changes) => {
  let found = 0;
  for (const node of changes.flatMap(({ addedNodes }) => [...addedNodes])) {
    if (node.nodeType !== 1) continue;
    const text = node.matches('.raw') ? node : node.matches('.zb-row') && node.querySelector('.zb-ln');
    if (text) found = Math.max(found, number(text.textContent));
  }
  if (found <= newest) return;
  newest = found;
  mark();
  task.port2.postMessage(0);
}).observe(document, { childList: true, subtree: true }));
new PerformanceObserver((list) => {
  for (const { identifier, renderTime, element } of list.getEntries()) {
    presented.push([number(identifier), performance.timeOrigin + renderTime]);
    element?.remove();
  }
}).observe({ type: 'element' });
"""


def delays(stamps: list[float], seen: list[list[float]]) -> list[float]:
    """Return, in milliseconds, how long after its stamp each line (from 1 on) was seen, or a later one was.

    Parameters
    ----------
    stamps : list of float
        When the lines were written, in seconds since the epoch.
    seen : list of [number, milliseconds since the epoch]
        What was seen when.
    """
    seen = sorted(seen, key=lambda each: each[1])
    numbers = list(itertools.accumulate((each[0] for each in seen), max))
    begin = stamps[0] + WARM_SECS
    found = []
    for number, stamp in enumerate(stamps, 1):
        if stamp < begin:
            continue
        place = bisect_left(numbers, number)
        assert place < len(seen), f"line {number} was never seen"
        found.append(seen[place][1] - stamp * 1e3)
    return found


class Bench:
    """Jupyter with its host and worker, and a browser; each method shows lines on a page and returns their stamps."""

    def __init__(self, folder: Path, chromium: Browser, lab: Lab, client: Client) -> None:
        self.folder = folder
        self.chromium = chromium
        self.lab = lab
        self.client = client
        self._count = itertools.count()

    def new_page(self) -> Page:
        page = self.chromium.new_context(viewport={"width": 1180, "height": 900}).new_page()
        page.context.grant_permissions(["local-network-access"])
        page.add_init_script(WATCH)
        return page

    def raw(self, page: Page, rate: int, secs: float) -> list[float]:
        server = Load("raw_page", rate=rate, secs=secs)
        assert server.process.stdout is not None
        page.goto(f"http://127.0.0.1:{int(server.process.stdout.readline())}/")
        return list(server.result(secs + 60)["stamps"])

    def console(self, page: Page, rate: int, secs: float) -> list[float]:
        owner = DataDir(self.lab.data).read_owner()
        assert owner is not None
        log_in(page, owner)
        return self._job_page(page, f"{owner.url}zbrain/jobs/{{}}", rate, secs)

    def relay(self, page: Page, rate: int, secs: float) -> list[float]:
        return self._job_page(page, f"{self.lab.url}zbrain/jobs/{{}}?token={self.lab.token}", rate, secs)

    def _job_page(self, page: Page, address: str, rate: int, secs: float) -> list[float]:
        go, writer = self._writer(rate, secs)
        job = self.client.submit([sys.executable, "-c", writer])
        page.goto(address.format(job.id))
        return self._follow(page, job.id, go)

    def notebook(self, page: Page, rate: int, secs: float) -> list[float]:
        go, writer = self._writer(rate, secs)
        name = f"{go.name}.ipynb"
        self.lab.write_notebook(name, "%load_ext zbrain_nb", f"%%zbrain --name {go.name}{writer}")
        notebook = self.lab.open(page, name)
        notebook.run_to_end(0)
        notebook.run(1)
        notebook.view(1).locator(".zb-ln").first.wait_for(timeout=30_000)
        (job,) = self.client.jobs(name=go.name)
        return self._follow(page, job.id, go)

    def _writer(self, rate: int, secs: float) -> tuple[Path, str]:
        go = self.folder / f"go-{next(self._count)}"
        return go, WRITER.format(rate=rate, secs=secs, go=str(go))

    def _follow(self, page: Page, job_id: str, go: Path) -> list[float]:
        """Let the job begin when the page follows it, and wait for its end."""
        page.locator(".zb-ln").first.wait_for(timeout=30_000)
        go.touch()
        job = self.client.job(job_id)
        job.wait()
        entries = (entry.line.split() for entry in job.logs())
        return [int(stamp) / 1e9 for number, stamp, *_ in entries if number != "0"]


PLACES: dict[str, tuple[str, Callable[[Bench, Page, int, float], list[float]]]] = {
    "raw": ("bare WebSocket and page", Bench.raw),
    "console": ("console, from the host", Bench.console),
    "relay": ("console, through Jupyter", Bench.relay),
    "lab": ("view under a cell of JupyterLab", Bench.notebook),
}


def rows(bench: Bench, rate: int, secs: float, places: list[str]) -> list[tuple[str, ...]]:
    """Show lines in each place, and tell the times beside those of the first."""
    told, least = [], None
    for place in places:
        page = bench.new_page()
        name, show = PLACES[place]
        stamps = show(bench, page, rate, secs)
        page.wait_for_function("(last) => painted.at(-1)?.[0] >= last", arg=len(stamps), timeout=30_000)
        page.wait_for_timeout(500)  # the compositor tells later
        found = [delays(stamps, page.evaluate(what)) for what in ("came", "painted", "presented")]
        page.context.close()
        figures = [(percentile(each, 0.5), percentile(each, 0.99)) for each in found]
        least = least or figures[1]
        lines = (len(stamps) - 1) / (stamps[-1] - stamps[0])
        ratio = " / ".join(f"{mine / raw:.1f}x" for mine, raw in zip(figures[1], least, strict=True))
        told.append((name, f"{lines:,.0f}", *(f"{p50:.1f} / {p99:.1f}" for p50, p99 in figures), ratio))
    return told


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secs", type=float, default=8.0, help="how long each page is measured")
    parser.add_argument("--rates", default="100,2000")
    parser.add_argument("--only", default=",".join(PLACES), help="places, separated by commas")
    args = parser.parse_args()
    columns = ("page: p50 / p99 in ms", "lines/s", "in the page", "frame done", "on screen", "frame done, to the first")
    with tempfile.TemporaryDirectory(prefix="zbrain-bench-") as name, sync_playwright() as playwright:
        folder = Path(name)
        chromium = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=ARGS)
        try:
            with (
                Lab(folder / "notebooks", folder / "data", ZWORKER_MODE="local") as lab,
                zbrain_nb.connect(lab.url, lab.token) as client,
            ):
                client.submit(["true"]).wait()  # host and worker are there
                bench = Bench(folder, chromium, lab, client)
                for rate in map(int, args.rates.split(",")):
                    found = rows(bench, rate, args.secs + WARM_SECS, args.only.split(","))
                    print_table(f"From a line's writing to its pixels, {rate:,} lines/s asked for", columns, found)
        finally:
            chromium.close()


if __name__ == "__main__":
    main()
