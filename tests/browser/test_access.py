"""The view in every state, both themes and two widths, before axe-core: no serious and no critical fault."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.states import add_every_state
from tests.browser.stub import StubServer

pytestmark = pytest.mark.browser


def faults(page: Page, inside: str) -> list[tuple[str, str, list[Any]]]:
    """Return axe-core's serious and critical findings: rule, help, and the elements that break it."""
    found = Axe().run(page, context=inside, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_any_state(page: Page, stub: StubServer, theme: str) -> None:
    add_every_state(stub)
    page.goto(stub.url(theme=theme))
    page.wait_for_function("window.views?.every(({ feed }) => feed.connection === 'live')")
    closed = ".zb-twist[aria-expanded=false], .zb details:not([open]) > summary"
    page.locator(closed).evaluate_all("each => each.forEach(one => one.click())")
    expect(page.locator(".zb-ln")).not_to_have_count(0)
    assert faults(page, ".zb") == []
    page.set_viewport_size({"width": 420, "height": 900})
    stub.cut()
    expect(page.locator("[data-face=reconnecting]").first).to_be_visible()
    assert faults(page, ".zb") == []


def test_axe_finds_no_serious_fault_in_a_group(page: Page, stub: StubServer) -> None:
    error = {"ename": "ValueError", "evalue": "bad rate", "traceback": []}
    stub.add_group(["pending", "running", "succeeded", "failed", "canceled", "retrying"], error=error)
    for theme in ("light", "dark"):
        page.goto(stub.url(theme=theme))
        expect(page.locator(".zb-sq").first).to_be_visible()
        assert faults(page, ".zb") == []
