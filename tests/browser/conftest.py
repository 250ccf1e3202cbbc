"""Chromium for the tests that look at pages, the stub server of the view's own tests, and a real host."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tests.benchmarks.bench_events import a_host
from tests.browser.stub import StubServer
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=15_000)  # the machine may be busy with other things


def chromium_path() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")  # while it lives, an event loop runs in this thread: other tests need it gone
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        message = "Chromium is missing: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # The reduced motion that pages are told of does not reach the browser's own scrolling. A key or a jump that
        # falls into such an animation, or comes just behind it, is lost or undone, on any page.
        args = [*ARGS, "--disable-smooth-scrolling"]
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=args)
        yield chromium
        chromium.close()


@contextmanager
def fresh_page(browser: Browser) -> Iterator[Page]:
    """Give a page of a browser that remembers nothing; an uncaught error on it that is ours fails the test at its end.

    Those that are JupyterLab's or Notebook's own do not.
    """
    context = browser.new_context(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(10_000)
    tab = context.new_page()
    errors: list[str] = []

    def note(error: Error) -> None:
        stack = error.stack or ""
        # JupyterLab's own, or those of a hostile output in its frame, which could not do what it tried.
        theirs = ("/static/" in stack and "zbrain" not in stack) or "'pwned'" in error.message
        # A kernel restarted while JupyterLab waits for one of its replies: rejected without a stack.
        canceled = not stack and "Canceled future for " in error.message
        if not theirs and not canceled:
            errors.append(f"{error} {stack}")

    tab.on("pageerror", note)
    # Both are shown if the test fails: many tests provoke them.
    tab.on("console", lambda said: print("console:", said.type, said.text))
    tab.on("requestfailed", lambda request: print("request failed:", request.url, request.failure))
    yield tab
    context.close()
    assert errors == []


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of the test's own."""
    with fresh_page(browser) as tab:
        yield tab


@pytest.fixture(scope="module")
def host() -> Iterator[Owner]:
    """A host without Jupyter and without a worker."""
    with a_host() as (owner, _):
        yield owner


@pytest.fixture
def hand(host: Owner, request: pytest.FixtureRequest) -> Iterator[HandWorker]:
    """A worker of the test's own at `host`, moved by hand."""
    worker = HandWorker(host.url, host.token, re.sub(r"\W", "-", request.node.name)[:60])
    yield worker
    worker.close()


def log_in(page: Page, host: Owner) -> None:
    """Open the console as ``zbrain dashboard`` does."""
    headers = {"Authorization": f"token {host.token}"}
    answer = httpx.post(f"{host.url}zbrain/api/sessions", headers=headers, json={}, trust_env=False)
    page.goto(f"{host.url}{answer.json()['login']}")
    page.wait_for_url(f"{host.url}zbrain")
    expect(page.locator(".zb-live")).to_have_text("Live")


def pause(page: Page) -> None:
    """Stop the page's clock; it stands a second from now, which neither ends a press nor a connection."""
    page.clock.pause_at((page.evaluate("Date.now()") + 1000) / 1000)


@pytest.fixture
def stub() -> Iterator[StubServer]:
    server = StubServer()
    yield server
    server.close()
