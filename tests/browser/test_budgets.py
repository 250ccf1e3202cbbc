"""Texts of jobs that are too much for a page: so much is shown that it stays quick, the rest when asked for."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stub import StubServer, utc

pytestmark = pytest.mark.browser

ENOUGH = 15_000  # elements of a page
LITERAL = f"data = [{', '.join(map(str, range(100_000)))}]"  # as a cell may hold it, in one line


def error(*traceback: str, evalue: str = "no") -> dict[str, Any]:
    return {"ename": "ValueError", "evalue": evalue, "traceback": [*traceback, f"ValueError: {evalue}"]}


def frames(count: int) -> str:
    return "".join(f"Cell In [3], line {n}, in f\n----> {n} f(x)\n" for n in range(count))


def open_views(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    page.wait_for_function("window.views?.every(({ feed }) => feed.loaded)")


def elements(page: Page) -> int:
    return int(page.evaluate("document.querySelectorAll('*').length"))


def test_traceback_with_a_long_line_costs_no_part_of_the_view(page: Page, stub: StubServer) -> None:
    job = stub.add("running")
    stub.stored(job, "a line of its log")
    open_views(page, stub)
    trace = f"Cell In [3], line 2\n      1 {LITERAL}\n----> 2 raise ValueError('no')\n"
    stub.emit("job_failed", job, {"state": "failed", "finished_at": utc(), "error": error(trace)})
    for reload in (False, True):
        if reload:
            open_views(page, stub)
        frame = page.get_by_role("group", name="This cell, line 2")
        expect(frame.locator("[aria-current]")).to_contain_text("raise ValueError('no')")
        expect(frame).to_contain_text(f"{len(LITERAL) - 4000:,} more characters")
        expect(page.locator(".zb-exc")).to_have_text("ValueError: no")
        expect(page.locator(".zb-ln")).to_have_text("a line of its log")
        expect(page.locator(".zb-foot")).to_contain_text("Ran")


def test_tracebacks_of_many_frames_are_text_behind_the_first(page: Page, stub: StubServer) -> None:
    stub.add("failed", error=error(frames(9_000)))
    stub.outputs[stub.add("succeeded")] = [{"output_type": "error", **error(frames(2_000))} for _ in range(10)]
    stub.add("failed", error=error("Cell In [3], line 1\n", *["    f(x)"] * 20_000))
    stub.add("failed", error=error("Cell In [3], line 1\n----> 1 f(x)\n", "x\n" * 50_000, "File a.py:2\n"))
    open_views(page, stub)
    first = page.locator(".zb").first
    expect(first.get_by_role("group", name="This cell, line 999, in f")).to_contain_text("f(x)")
    expect(first.locator(".zb-trace > :last-child")).to_contain_text("Cell In [3], line 1000, in f")
    expect(first.get_by_role("button", name="Show all")).to_have_count(1)
    expect(page.locator(".zb-output")).to_have_count(10)
    expect(page.locator(".zb-output").last).to_contain_text("Cell In [3], line 0, in f")
    assert elements(page) < 3 * ENOUGH
    assert page.evaluate("document.body.innerText.length") < 1_500_000


def test_long_message_cuts_no_line_that_failed(page: Page, stub: StubServer) -> None:
    line = f"x = compute({', '.join(map(str, range(200)))})  # it failed here"
    message = "q " * 130_000
    first = "Cell In [3], line 2\n      1 a = 1\n----> 2 f(a)\n"
    last = f"Cell In [3], line 4\n      3 a = 1\n----> 4 {line}\n"
    chained = error(first, f"ValueError: {message}", "During handling of it:", last, evalue=message)
    stub.add("failed", error=chained)
    stub.outputs[stub.add("succeeded")] = [{"output_type": "error", **chained}] * 2
    open_views(page, stub)
    expect(page.locator(".zb-frame [aria-current]", has_text="compute").locator("code")).to_have_text(
        [f"{line} (the line that failed)"] * 3
    )


def test_source_of_many_words_is_coloured_as_far_as_is_quick(page: Page, stub: StubServer) -> None:
    stub.add("succeeded", spec={"code": LITERAL})
    open_views(page, stub)
    page.get_by_text("Parameters and environment").click()
    code = page.locator(".zb-params pre").first
    expect(code).to_contain_text("data = [0, 1, 2")
    assert elements(page) < ENOUGH
    code.get_by_role("button", name="Show all").click()
    expect(code).to_have_text(LITERAL)
    assert elements(page) < ENOUGH


def test_code_on_the_console_comes_by_lines(page: Page, stub: StubServer) -> None:
    stub.add("succeeded")
    open_views(page, stub)
    code = "\n".join([LITERAL, *["x = 1  # one"] * 2_500])
    page.evaluate(
        "async (code) => { const { codeSection } = await import('/view/console/code.js');"
        " document.querySelector('.zb').replaceChildren(codeSection({ code })); }",
        code,
    )
    lines = page.locator(".zb-src > div")
    expect(lines).to_have_count(1_000)
    expect(lines.first).to_contain_text("more characters")
    expect(lines.last).to_have_text("1000x = 1  # one")
    assert elements(page) < ENOUGH
    more = page.get_by_role("button", name="Show")
    expect(more).to_have_text("Show 1,000 of 1,501 more")
    more.press("Enter")
    more.press("Enter")
    expect(lines).to_have_count(2_501)
    expect(lines.last).to_have_text("2501x = 1  # one")
    expect(more).to_be_hidden()
    expect(page.get_by_role("group", name="The cell")).to_be_focused()


SOURCES = [
    ('"' + '\\"' * 2_000, ['"' + '\\"' * 2_000]),  # its end was looked for anew from each quote
    ("it's\nit's", ["'s", "'s"]),
    ('a = """one\n"two" \'\n""" + "b\\"c" + \'\'', ['"""one\n"two" \'\n"""', '"b\\"c"', "''"]),
    ("'''no end\n\\", ["'''no end\n\\"]),
    ("'a\\\nb'", ["'a", "'"]),
]


def test_strings_of_a_source_end_with_their_line(page: Page, stub: StubServer) -> None:
    page.goto(stub.url())
    found = page.evaluate(
        "async (sources) => { const { python } = await import('/view/text.js');"
        " const seen = sources.map(([source]) => python(source, Infinity, Infinity));"
        " return seen.map((nodes) => [nodes.map((node) => node.textContent ?? node).join(''),"
        " nodes.filter((node) => node.className === 'zb-str').map((node) => node.textContent)]); }",
        SOURCES,
    )
    assert found == [list(each) for each in SOURCES]


def names(count: int, end: str = "") -> list[dict[str, Any]]:
    return [
        {"name": f"v{n}{end}", "type": "int", "summary": "s" * 9_000, "sha256": "0" * 64, "size": 1}
        for n in range(count)
    ]


def test_value_is_json_as_far_as_is_quick(page: Page, stub: StubServer) -> None:
    value = list(range(50_000))
    stub.add("succeeded", output=value)
    open_views(page, stub)
    shown = page.get_by_role("group", name="Value")
    assert len(shown.text_content() or "") < 210_000
    shown.get_by_role("button", name="Show all").click()
    assert json.loads(shown.text_content() or "") == value
    expect(shown).to_be_focused()
    expect(shown).to_have_attribute("tabindex", "0")  # it scrolls


def test_page_of_a_job_reads_what_is_large_once(page: Page, stub: StubServer) -> None:
    open_job_page(page, stub, stub.add("succeeded", output=list(range(50_000))))
    page.get_by_role("tab", name="Outputs").click()
    expect(page.get_by_role("group", name="Value")).to_contain_text("Show all")
    read = page.evaluate(
        "() => new Promise((done) => { let read = 0; const { stringify } = JSON;"
        " JSON.stringify = (value) => { const text = stringify(value); read += text?.length ?? 0; return text; };"
        " feed.tell(); requestAnimationFrame(() => requestAnimationFrame(() => done(read))); })"
    )
    assert 0 < read < 1_000


def open_job_page(page: Page, stub: StubServer, job: str) -> None:
    page.goto(stub.url())
    page.evaluate(
        "async (id) => { const { jobPage } = await import('/view/console/jobpage.js');"
        " views.forEach(({ dispose }) => dispose());"
        " const main = document.querySelector('main'); main.replaceChildren();"
        " window.feed = jobPage(main, { api: `${location.origin}/zbrain/api/`, id, jobUrl: () => '/', home: '/' }); }",
        job,
    )


def test_what_was_opened_on_the_page_of_a_job_stays_open(page: Page, stub: StubServer) -> None:
    code = "\n".join(f"x = {n}" for n in range(2_500))
    params = {f"p{n}": "write a poem " * 200 for n in range(9)}
    job = stub.add("running", spec={"code": code, "input": params})
    open_job_page(page, stub, job)
    page.get_by_role("tab", name="Code").click()
    lines = page.locator(".zb-src > div")
    more = page.locator(".zb-panel").get_by_role("button", name="Show")
    more.press("Enter")
    more.press("Enter")
    expect(lines).to_have_count(2_500)
    page.get_by_text("9 names").click()
    value = page.locator("aside dt", has_text="p8").locator("+ dd")
    value.get_by_role("button", name="Show all").click()
    whole = page.locator("aside dd", has_text=params["p8"].strip())
    expect(whole).to_have_count(1)
    stub.cut()
    expect(page.locator(".zb-notice")).to_contain_text("No connection")
    expect(lines).to_have_count(2_500)
    stub.down = False
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(page.locator(".zb-notice")).to_be_empty()
    stub.emit("job_completed", job, {"state": "succeeded", "finished_at": utc(), "output": 3})
    expect(page.locator("aside dt", has_text="Ended")).to_have_count(1)
    expect(lines).to_have_count(2_500)
    expect(whole).to_be_visible()


def test_words_of_a_job_are_shown_as_far_as_is_quick(page: Page, stub: StubServer) -> None:
    stub.add("canceled", reason="why " * 100_000)
    stub.add("failed", reason="why " * 100_000, error=error(evalue="line\n" * 100_000))
    stub.add("retrying", reason="why " * 100_000, not_before=utc(90))
    open_views(page, stub)
    expect(page.locator(".zb-exc")).to_contain_text("ValueError: line")
    assert page.evaluate("document.body.textContent.length") < 250_000


def test_long_reasons_are_said_once_and_whole_when_asked_for(page: Page, stub: StubServer) -> None:
    why = f"it wrote: {'some words ' * 300}THE CAUSE"
    stub.add("failed", reason=why)
    stub.add("failed", reason=f"ValueError: no {why}", error=error(evalue=f"no {why}"))
    stub.add("failed", reason=why, error=error())
    retrying = stub.add("retrying", reason=f"{why}. The next attempt starts in 90.0 s.", not_before=utc(90))
    open_views(page, stub)
    for text in (why, f"ValueError: no {why}", "ValueError: no"):
        expect(page.locator(".zb-exc").get_by_text(text, exact=True)).to_have_count(1)
    expect(page.locator(".zb-why")).to_have_text(why)
    last = page.locator(".zb-tries li").first
    last.get_by_role("button", name="Show all").click()
    expect(last).to_have_text(f"Attempt 1{why}.")
    page.evaluate("views.at(-1).feed.job.not_before = new Date(Date.now() + 3.6e6).toISOString()")
    expect(page.locator(".zb-tries .zb-next")).to_contain_text("Starts in 59:")  # it counts down
    expect(last).to_have_text(f"Attempt 1{why}.")
    stub.cut()
    expect(page.locator(".zb-notice").last).to_contain_text("No connection")
    expect(last).to_have_text(f"Attempt 1{why}.")
    stub.down = False
    stub.attempts = [{"attempt": 1, "state": "failed", "reason": why, "started_at": utc(), "finished_at": utc()}]
    open_job_page(page, stub, retrying)
    page.get_by_role("tab", name="Attempts").click()
    row = page.locator(".zb-plain tbody tr").last
    row.get_by_role("button", name="Show all").click()
    expect(row).to_contain_text("THE CAUSE")


def test_things_kept_come_a_hundred_at_a_time(page: Page, stub: StubServer) -> None:
    stub.add("succeeded", variables=names(130), artifacts=names(130, ".csv"))
    open_views(page, stub)
    variables = page.locator(".zb-vars tr")
    expect(variables).to_have_count(100)
    assert page.locator(".zb-vars").evaluate("each => each.textContent.length") < 150_000
    files = page.locator(".zb-arts li")
    expect(files).to_have_count(100)
    expect(files.get_by_text("no preview")).to_have_count(100)
    assert len([each for each in stub.gets if "artifacts/" in each]) == 100
    page.get_by_role("button", name="Show 30 more").first.click()
    expect(variables).to_have_count(130)
    expect(variables.last).to_contain_text("v129")
    expect(files).to_have_count(100)


def test_tables_on_the_page_of_a_job_are_bounded(page: Page, stub: StubServer) -> None:
    stub.attempts = [
        {"attempt": n, "state": "failed", "reason": "why " * 1_000, "started_at": utc(), "finished_at": utc()}
        for n in range(1, 301)
    ]
    spec = {"cmd": ["a"], "input": {f"p{n}": n for n in range(9_000)}, "env": {f"E{n}": "***" for n in range(9_000)}}
    open_job_page(page, stub, stub.add("succeeded", spec=spec))
    page.get_by_role("tab", name="Attempts").click()
    expect(page.locator(".zb-plain tbody tr")).to_have_count(100)
    expect(page.locator("aside dt").filter(has_text="p99")).to_have_count(1)
    assert page.locator("aside dt").count() < 300
    assert page.locator(".zb-plain").evaluate("each => each.textContent.length") < 150_000


def test_facts_of_a_job_are_whole_when_asked_for(page: Page, stub: StubServer) -> None:
    prompt = f"{'write a poem ' * 200}THE END"
    spec = {"cmd": ["a"], "input": {"prompt": prompt}, "tags": {"prompt": prompt}, "artifacts": [prompt]}
    open_job_page(page, stub, stub.add("succeeded", spec=spec))
    for name, text in (("Tags", f"prompt={prompt}"), ("Keeps files", prompt), ("prompt", prompt)):
        value = page.locator("aside dt", has_text=re.compile(f"^{name}$")).locator("+ dd")
        expect(value).to_contain_text("write a poem")
        assert len(value.text_content() or "") < 1_100
        value.get_by_role("button", name="Show all").click()
        expect(value).to_have_text(text)


def test_runs_of_a_group_and_tags_are_bounded(page: Page, stub: StubServer) -> None:
    stub.add_group(["failed"] * 20, error=error(evalue="why " * 20_000))
    page.goto(stub.url())
    expect(page.locator(".zb-why-list .zb-cut")).to_contain_text("ValueError: why")
    assert page.evaluate("document.body.innerHTML.length") < 200_000
    found = page.evaluate(
        "async (tags) => (await import('/view/dashboard/rows.js')).groupings([{ spec: { tags } }]).length",
        {f"tag {n}": "x" for n in range(9_000)},
    )
    assert found == 103


def test_drawings_that_take_long_are_drawn_when_asked_for(page: Page, stub: StubServer) -> None:
    drawing = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><!--{}--></svg>"
    stub.outputs[stub.add()] = [
        {"output_type": "display_data", "data": {"image/svg+xml": drawing.format("x" * 600_000)}, "metadata": {}}
        for _ in range(3)
    ]
    open_views(page, stub)
    drawings = page.locator(".zb-output img")
    expect(drawings).to_have_count(1)
    page.get_by_role("button", name="Show a drawing of 600 KB").first.click()
    expect(drawings).to_have_count(2)
