"""Outputs, names and logs that mean harm: on the page they are text, in the sandbox they are caged."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stub import StubServer, utc

pytestmark = pytest.mark.browser

RUN = "try { top.pwned = 1 } catch { }"
SCRIPTS = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror='{RUN}'>",
    f"<svg onload='{RUN}'><script>{RUN}</script></svg>",
    f"<a href='javascript:{RUN}'>click here</a>",
    f"<iframe srcdoc='<script>{RUN}</script>'></iframe>",
    f"'\"><script>{RUN}</script>",
]
ESCAPES = (
    "\x1b]0;title\x07\x1b[2J\x1b]8;;javascript:top.pwned=1\x1b\\link\x1b]8;;\x1b\\\x1b[31mred\x1b[0m\x9b2J\x08\x08"
)
TURNED = "invoice\u202efdp.exe\u2066\u200f"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" onload="top.pwned=1" width="9"><script>top.pwned=1</script></svg>'
HUGE = 10_000_000  # characters


def output(**data: Any) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {kind.replace("_", "/"): of for kind, of in data.items()}}


def evil(text: str) -> dict[str, Any]:
    """Return a job's fields, each of which a job or its owner chooses, with `text` in them."""
    return {
        "spec": {"name": text, "worker": text, "code": text, "cwd": text, "input": {text: text}, "tags": {text: text}},
        "error": {"ename": text, "evalue": text, "traceback": [f"Cell In[1], line 1\n----> 1 {text}", text]},
        "reason": text,
        "worker_id": text,
        "canceled_by": text,
        "owner": text,
        "output": text,
        "progress": {"fraction": 0.5, "note": text},
        "variables": [{"name": text, "type": text, "summary": text, "sha256": "0" * 64, "size": 1}],
        "artifacts": [{"name": f"{text}{end}", "sha256": "0" * 64, "size": 9} for end in (".png", ".csv", ".txt", "")],
    }


@pytest.mark.parametrize("text", [*SCRIPTS, ESCAPES, TURNED])
def test_hostile_words_are_words_in_every_state(page: Page, stub: StubServer, text: str) -> None:
    for state in ("pending", "running", "retrying", "succeeded", "failed", "canceled"):
        job = stub.add(state, **evil(text), not_before=utc(90), attempt=1)
        for stream in ("stdout", "stderr", "system"):
            stub.stored(job, text, stream=stream)
        stub.outputs[job].append({"output_type": "stream", "name": "stdout", "text": text})
        stub.outputs[job].append(output(text_plain=text))
        stub.outputs[job].append({"output_type": "error", "ename": text, "evalue": text, "traceback": [text]})
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.goto(stub.url())
    page.wait_for_function("window.views?.length === 6 && views.every(({ feed }) => feed.connection === 'live')")
    expect(page.get_by_role("button", name="Log", exact=True)).to_have_count(6)
    closed = ".zb-twist[aria-expanded=false], .zb details:not([open]) > summary"
    page.locator(closed).evaluate_all("each => each.forEach(one => one.click())")
    expect(page.locator(".zb-ln")).to_have_count(18)
    inside = "script, iframe, object, embed, [onerror], [onload], a[href^='javascript']"
    assert page.locator(".zb").locator(inside).count() == 0
    assert page.locator(".zb img").count() == page.locator(".zb-prev img").count()
    saved = page.evaluate("import('/view/index.js').then(({ bundleOf }) => bundleOf(views[4].feed)['text/html'])")
    count = "([html, inside]) => new DOMParser().parseFromString(html, 'text/html').querySelectorAll(inside).length"
    assert page.evaluate(count, [saved, inside]) == 0
    words = page.locator("main").inner_text() + saved
    assert not set(words) & {"\x1b", "\x07", "\x08", "\x9b"}
    names = page.locator(".zb-name").all_inner_texts() + page.locator(".zb-arts b").all_inner_texts()
    assert not any(set(name) & set("\u202e\u2066\u200f") for name in names)
    assert page.title() == "views"
    assert dialogs == []
    assert page.evaluate("window.pwned") is None


def test_hostile_pictures_and_pages_are_caged(page: Page, stub: StubServer) -> None:
    job = stub.add("running")
    stub.outputs[job] += [output(text_html=each) for each in SCRIPTS]
    stub.outputs[job] += [
        {"output_type": "display_data", "data": {"image/svg+xml": SVG}, "metadata": {}},
        {"output_type": "display_data", "data": {"image/png": "\" onerror='top.pwned=1' x=\""}, "metadata": {}},
        {"output_type": "display_data", "data": {"application/javascript": "top.pwned = 1"}, "metadata": {}},
        {"output_type": "display_data", "data": {"text/markdown": SCRIPTS[0]}, "metadata": {}},
    ]
    stub.add("succeeded", artifacts=[{"name": "a.png", "sha256": "0" * 64, "size": len(SVG)}])
    stub.files["a.png"] = SVG.encode()
    page.goto(stub.url())
    page.wait_for_function("window.views?.every(({ feed }) => feed.connection === 'live')")
    cages = page.locator(".zb iframe")
    expect(cages).to_have_count(len(SCRIPTS))
    assert {cage.get_attribute("sandbox") for cage in cages.all()} == {"allow-scripts"}
    link = page.frame_locator(".zb iframe >> nth=3").get_by_text("click here")
    link.click()
    expect(page.locator(".zb-prev").get_by_text("no preview")).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert len(page.context.pages) == 1


def test_line_of_ten_megabytes_costs_a_row(page: Page, stub: StubServer) -> None:
    job = stub.add("running")
    page.goto(stub.url())
    page.wait_for_function("window.views?.[0].feed.connection === 'live'")
    stub.log(job, "before", "y" * HUGE, "after")
    expect(page.locator(".zb-ln").last).to_have_text("after")
    row = page.locator(".zb-ln").nth(1)
    expect(row).to_contain_text(f"{HUGE - 4000:,} more characters")
    assert len(row.inner_text()) < 4100
    page.get_by_role("searchbox").fill("yy")
    expect(page.locator("[data-hit]")).to_have_count(1)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Canceling…")).to_be_visible()


def test_pixel_is_a_picture(page: Page, stub: StubServer) -> None:
    """What is harmless is shown: the tests above would pass where nothing is."""
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    stub.add("succeeded", artifacts=[{"name": "a.png", "sha256": "0" * 64, "size": len(pixel)}])
    stub.files["a.png"] = pixel
    page.goto(stub.url())
    page.wait_for_function("document.querySelector('.zb-prev img')?.naturalWidth === 1")
