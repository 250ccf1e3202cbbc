"""The view before a flood and before a log of a million lines: frames, clicks, memory of the tab.

``python -m tests.benchmarks.bench_view [--mb N] [--lines N] [--only flood,long]``. A real server, its relay and a real
Chromium; "idle" is the same page with a job that writes nothing, which is what the machine gives.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Locator, Page, expect, sync_playwright

import zbrain_nb
from tests.benchmarks.table import print_table
from tests.browser.bare import open_view
from tests.browser.conftest import ARGS, chromium_path
from tests.jupyter import Lab
from zbrain_nb import Client, JobHandle

Row = tuple[str, ...]
FRAMES = """(millis) => new Promise((resolve) => {
  const frames = [];
  let last = performance.now();
  const end = last + millis;
  const step = (now) => {
    frames.push(now - last);
    last = now;
    if (now < end) requestAnimationFrame(step); else resolve(frames);
  };
  requestAnimationFrame(step);
})"""
RECORD = """
window.frames_ = [];
(function step(last) {
  requestAnimationFrame((now) => { frames_?.push(now - last); if (frames_) step(now); });
})(performance.now());
"""
STEP_SECS = 0.016
THUMB = 20  # px from the ends of a scroll bar, behind its arrows
# From the pointer's press to the frame that shows its answer, by the page's own clock.
CLICK = """([name, holds]) => new Promise((resolve) => {
  const button = [...document.querySelectorAll('.zb button')].find((each) => each.textContent === name);
  const begin = performance.now();
  const look = () => {
    if (Function(`return ${holds}`)()) requestAnimationFrame(() => resolve(performance.now() - begin));
    else requestAnimationFrame(look);
  };
  button.click();
  look();
})"""


@contextmanager
def a_view() -> Iterator[tuple[Client, Callable[[JobHandle], tuple[Page, Locator, CDPSession]]]]:
    with tempfile.TemporaryDirectory(prefix="zbrain-bench-") as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder) / "notebooks", Path(folder) / "data", app="server")
        bars = ["--hide-scrollbars"]  # a person has them
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=ARGS, ignore_default_args=bars)

        def look_at(job: JobHandle) -> tuple[Page, Locator, CDPSession]:
            page = chromium.new_context(viewport={"width": 1180, "height": 900}).new_page()
            view = open_view(page, lab, job.id)
            page.wait_for_function("window.feed?.connection === 'live'", timeout=60_000)
            return page, view, page.context.new_cdp_session(page)

        try:
            with lab, zbrain_nb.connect(lab.url, lab.token) as client:
                yield client, look_at
        finally:
            chromium.close()


def heap_mb(tab: CDPSession) -> float:
    """Return what the tab's script holds after a full collection, in MB."""
    tab.send("HeapProfiler.enable")
    tab.send("HeapProfiler.collectGarbage")
    return float(tab.send("Runtime.getHeapUsage")["usedSize"]) / 1e6


def told(frames: list[float]) -> Row:
    """Median, 99th percentile and longest of frame times."""
    return tuple(
        f"{each:.0f}" for each in (statistics.median(frames), statistics.quantiles(frames, n=100)[98], max(frames))
    )


def flood(client: Client, look_at: Any, megabytes: int) -> None:
    """Print what a page feels of a job that writes at full speed."""
    quiet = client.submit(["sleep", "600"])
    page, _, tab = look_at(quiet)
    rows: list[Row] = [("idle", *told(page.evaluate(FRAMES, 3000)), f"{heap_mb(tab):.1f}", "")]
    quiet.cancel()
    page.context.close()
    line = "a line of about a hundred characters, as programs write them while they work, and as it comes: end"
    job = client.submit(["sh", "-c", f"yes '{line}' | head -c {megabytes}000000; sleep 600"])
    next(iter(job.logs(follow=True)))
    page, view, tab = look_at(job)
    for second in range(3, 13, 3):
        frames = page.evaluate(FRAMES, 3000)
        lines = page.evaluate("feed.log.end")
        rows.append((f"flood, {second} s", *told(frames), f"{heap_mb(tab):.1f}", f"{lines:,}"))
    clicks = []
    for pressed in [False, True] * 5:
        holds = (
            f"document.querySelector('[title=\"Stay at the newest line\"]').ariaPressed === '{str(pressed).lower()}'"
        )
        clicks.append(page.evaluate(CLICK, ["Follow", holds]))
    canceling = page.evaluate(
        CLICK, ["Cancel", "/Cancel(ing|ed)/.test(document.querySelector('.zb-head').textContent)"]
    )
    begin = time.monotonic()
    expect(view.locator(".zb-word")).to_have_text("Canceled", timeout=60_000)
    view.page.context.close()
    print_table(
        f"A job that writes {megabytes} MB at full speed",
        ["page", "frame p50 ms", "p99", "longest", "heap MB", "lines"],
        rows,
    )
    print(f"Follow answers a click in {statistics.median(clicks):.0f} ms (longest {max(clicks):.0f}), ", end="")
    print(f"Cancel in {canceling:.0f} ms; the job was canceled {time.monotonic() - begin:.2f} s later.")


def scrolled(page: Page, step: Callable[[float], None]) -> Row:
    """Return what frames took while a hand moved for three seconds; `step` is told how far it is, from 0 to 1."""
    before = page.evaluate("document.querySelector('.zb-lines').scrollTop")
    page.evaluate(RECORD)
    begun = time.monotonic()
    while (part := (time.monotonic() - begun) / 3) < 1:
        step(part)
        time.sleep(STEP_SECS)
    frames = page.evaluate("frames_.splice(0)")
    page.evaluate("() => { frames_ = null; }")
    assert page.evaluate("document.querySelector('.zb-lines').scrollTop") != before
    return told(frames)


def dragged(page: Page) -> Row:
    """Drag the thumb of the log's scroll bar from its end to its beginning."""
    page.evaluate("document.querySelector('.zb-lines').scrollTop = 1e9")
    page.wait_for_timeout(300)
    box = page.locator(".zb-lines").bounding_box()
    assert box is not None
    bar, top, bottom = box["x"] + box["width"] - 6, box["y"] + THUMB, box["y"] + box["height"] - THUMB
    page.mouse.move(bar, bottom)
    page.mouse.down()
    try:
        return scrolled(page, lambda part: page.mouse.move(bar, bottom + (top - bottom) * part))
    finally:
        page.mouse.up()


def long(client: Client, look_at: Any, lines: int) -> None:
    """Print how a page reads a long log of a job that has failed."""
    error = "echo 'Traceback (most recent call last):' >&2"
    pad = "f=$(printf 'step %s of the training with its loss' '%.0f');"
    job = client.submit(
        ["sh", "-c", f'{pad} seq -f "$f" 5000; sleep 1; {error}; sleep 1; seq -f "$f" 5001 {lines}; exit 3']
    )
    job.wait()
    page, view, tab = look_at(job)
    expect(view.locator(".zb-logbar")).to_contain_text("lines", timeout=60_000)
    rows: list[Row] = [("still", *told(page.evaluate(FRAMES, 2000)))]
    view.locator(".zb-lines").hover()
    rows.append(("wheel, 60 px a step", *scrolled(page, lambda _: page.mouse.wheel(0, -60))))
    rows.append(("wheel, 600 px a step", *scrolled(page, lambda _: page.mouse.wheel(0, -600))))
    rows.append(("scroll bar dragged from end to end", *dragged(page)))
    print_table(f"A log of {lines:,} lines", ["page", "frame p50 ms", "p99", "longest"], rows)

    def timed(act: Callable[[], object]) -> float:
        begin = time.monotonic()
        act()
        return time.monotonic() - begin

    def first_error() -> None:
        view.get_by_role("button", name="First error").click()
        expect(view.locator("[data-mark]")).to_be_in_viewport()

    def search() -> None:
        view.get_by_role("searchbox").fill(f"step {lines - 10} of")
        expect(view.locator("[data-hit]")).to_be_in_viewport(timeout=120_000)

    def download() -> None:
        with page.expect_download(timeout=120_000) as got:
            view.get_by_role("button", name="Download the whole log").click()
        assert len(got.value.path().read_text().splitlines()) == lines + 1

    def middle() -> None:
        page.evaluate("document.querySelector('.zb-lines').scrollTop = 18 * 400_000")
        expect(view.locator(".zb-ln").nth(20)).to_be_visible()

    rows = [
        (name, f"{timed(act):.2f}")
        for name, act in [
            ("jump into the middle", middle),
            ("first error, at line 5,001", first_error),
            ("search that ends near the last line", search),
            ("download of the whole", download),
        ]
    ]
    print_table("until it is seen", ["what", "s"], rows)
    print(f"Heap of the tab afterwards: {heap_mb(tab):.1f} MB.")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--only", default="flood,long")
    args = parser.parse_args()
    with a_view() as (client, look_at):
        if "flood" in args.only:
            flood(client, look_at, args.mb)
        if "long" in args.only:
            long(client, look_at, args.lines)


if __name__ == "__main__":
    main()
