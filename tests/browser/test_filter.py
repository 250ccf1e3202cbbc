"""The filter of the dashboard: what it says is what is shown, and what is acted on."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import log_in
from tests.browser.worker import HandWorker
from zbrain_nb.model.datadir import Owner

pytestmark = pytest.mark.browser


def test_page_that_is_come_back_to_shows_the_filter_that_it_was_left_with(
    page: Page, host: Owner, hand: HandWorker
) -> None:
    hand.submit(2, name="kept")
    hand.submit(1, name="passed over")
    log_in(page, host)
    rows = page.locator(".zb-jobs tbody tr:not([aria-hidden])")
    search = page.get_by_label("Filter jobs")
    search.fill("kept")
    page.locator(".zb-seg [data-pick=pending]").click()
    expect(rows).to_have_count(2)
    page.wait_for_url("**/zbrain?state=pending&q=kept")
    rows.first.get_by_role("link").click()
    expect(page.locator(".zb-jobhead h1")).to_contain_text("kept")
    page.go_back()
    expect(rows).to_have_count(2)
    expect(search).to_have_value("kept")
    expect(page.locator(".zb-seg [data-pick=pending]")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Select all shown").check()
    expect(page.get_by_role("region", name="Selected jobs")).to_contain_text("2 selected")
    search.fill("")
    page.locator(".zb-seg [data-pick='']").click()
    page.wait_for_url("**/zbrain")
    expect(rows).to_have_count(3)


def test_filter_takes_a_tag_as_the_command_line_does_and_says_how_many_of_all_fit(
    page: Page, host: Owner, hand: HandWorker
) -> None:
    hand.submit(2, name="slow", tags={"lr": "0.1", "depth": "3"})
    hand.submit(1, name="fast", tags={"lr": "1", "depth": "0.1"})
    log_in(page, host)
    rows = page.locator(".zb-jobs tbody tr:not([aria-hidden])")
    search = page.get_by_label("Filter jobs")
    for text, count in [("lr=0.1", 2), ("lr", 3), ("0.1", 3), ("LR=0", 2)]:
        search.fill(text)
        expect(rows).to_have_count(count)
    expect(page.locator(".zb-end")).to_contain_text(re.compile(r"^2 of \d+ jobs"))
    search.fill("lr=2")
    empty = page.get_by_text("No job fits this filter.")
    expect(empty).to_be_visible()
    expect(page.locator(".zb-end")).to_contain_text(re.compile(r"^0 of \d+ jobs"))
    above, below = (page.locator(where).bounding_box() for where in (".zb-jobs thead", ".zb-empty"))
    assert above and below and below["y"] < above["y"] + above["height"] + 4
    search.fill("")
    expect(page.locator(".zb-end")).to_contain_text(re.compile(r"^\d+ jobs"))
