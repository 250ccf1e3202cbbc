"""What a saved notebook holds of a job, for readers without the live view."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Page

from tests.browser.stub import StubServer, utc
from zbrain_nb import Job, JobSpec, JobState, LogEntry
from zbrain_nb.model.events import LogStream
from zbrain_nb.notebook.bundle import MAX_OUTPUTS_BYTES, MIME_TYPE, PLAIN, mime_bundle, snapshot
from zbrain_nb.notebook.markup import text_of_html

HOSTILE = "<script>alert(1)</script>\x1b[31m&\x1b[0m"


def line(text: str, seq: int = 0) -> LogEntry:
    return LogEntry(seq=seq, attempt=1, stream=LogStream.STDOUT, ts=0.0, line=text)


@pytest.fixture
def job() -> Job:
    now = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    spec = JobSpec(code="secret_code = 1", name=HOSTILE.replace("\x1b", ""), env={"KEY": "hush"})
    return Job(
        spec,
        state=JobState.FAILED,
        started_at=now,
        finished_at=now + dt.timedelta(seconds=65),
        reason=HOSTILE,
        error={"ename": HOSTILE, "evalue": "", "traceback": [HOSTILE]},
        output=HOSTILE,
        exit_code=1,
        peak_memory_mb=5427.2,
        cpu_secs=858.2,
    )


def test_html_escapes_everything_and_drops_escape_sequences(job: Job) -> None:
    output = {"output_type": "display_data", "data": {"text/html": HOSTILE, "text/plain": HOSTILE}, "metadata": {}}
    image = {"output_type": "display_data", "data": {"image/png": '"><script>'}, "metadata": {}}
    html = mime_bundle(job, log_tail=[line(HOSTILE)], outputs=[output, image])["text/html"]
    assert "<script" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in html
    assert "ran 1:05 &middot; peak memory 5.3 GiB &middot; CPU time 14:18" in html
    assert "ended 2026-03-01 12:01 UTC" in html


def test_plain_text_is_the_same_for_every_job(job: Job) -> None:
    assert mime_bundle(job)["text/plain"] == mime_bundle(Job(JobSpec(cmd=["true"])))["text/plain"] == PLAIN


def test_snapshot_leaves_out_code_and_environment_and_is_json(job: Job) -> None:
    saved = snapshot(job, log_tail=[line("x" * 10_000)] * 500)
    text = json.dumps(saved)
    assert "secret_code" not in text
    assert "hush" not in text
    assert len(text) < 1_000_000
    assert saved["state"] == "failed"
    assert saved["id"] == job.id


def test_snapshot_keeps_the_newest_outputs_within_a_limit(job: Job) -> None:
    outputs: list[dict[str, Any]] = [
        {"output_type": "display_data", "data": {"text/plain": f"{n}" * 1_500_000}, "metadata": {}} for n in range(5)
    ]
    saved = snapshot(job, outputs=outputs)
    assert saved["outputs"] == outputs[-2:]
    assert saved["outputs_left_out"] == 3
    assert sum(len(json.dumps(each)) for each in saved["outputs"]) <= MAX_OUTPUTS_BYTES
    said = "The first 3 outputs were too large for the notebook, and are kept with the job: open it in zbrain."
    assert said in mime_bundle(job, outputs=outputs)["text/html"]
    assert "too large" not in mime_bundle(job, outputs=outputs[:1])["text/html"]


def test_nbconvert_exports_the_summary(job: Job) -> None:
    output = nbformat.v4.new_output("display_data", data=mime_bundle(job, log_tail=[line("the last line")]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%%zbrain\nx", outputs=[output])])
    nbformat.validate(notebook)
    assert MIME_TYPE in notebook.cells[0].outputs[0].data
    html, _ = HTMLExporter().from_notebook_node(notebook)
    assert "the last line" in html


PAGE = """<style>p {color: red}</style><script>alert("no")</script><!-- unseen -->
<div>A <b>bold</b> word &amp; an&nbsp;&eacute;<p>a &lt;tag&gt;<br/>a line</div>
<table><tr><th></th><th>lr</th></tr> <tr><td>0</td> <td>0.1</td></tr></table><script>// unclosed"""
PAGE_TEXT = "A bold word & an\N{NO-BREAK SPACE}é\na <tag>\na line\n\tlr\n0\t0.1"


def test_text_of_html_is_its_words_a_line_for_each_block_and_row() -> None:
    assert text_of_html(PAGE) == PAGE_TEXT
    assert text_of_html("1 < 2 <") == "1 < 2 <"
    assert text_of_html("<" * 1_000_000) == "<" * 1_000_000  # at once


def test_page_and_kernel_export_the_same(page: Page, stub: StubServer) -> None:
    objects = [
        {"text/html": PAGE, "text/plain": "<IPython.core.display.HTML object>"},
        {"text/markdown": "# A *title*", "text/plain": "<IPython.core.display.Markdown object>"},
        {"text/latex": "$x^2$", "text/plain": "<IPython.core.display.Math object>"},
        {"text/html": "<table><tr><td>0.1</td></tr></table>", "text/plain": "    lr\n0  0.1"},
        {"image/svg+xml": "<svg/>", "text/plain": "<IPython.core.display.SVG object>"},
    ]
    said = "NotPicklable: model cannot be kept."
    error = {"ename": "NotPicklable", "evalue": "model cannot be kept.", "traceback": ["Traceback", said]}
    times = {"started_at": utc(-60), "finished_at": utc(-59.8), "spec": {"code": "1"}}
    shown = stub.add("succeeded", **times, cpu_secs=0.21)
    stub.outputs[shown] = [{"output_type": "display_data", "data": data, "metadata": {}} for data in objects]
    stub.stored(shown, *[f"line {n}" for n in range(21)])
    failed = stub.add("failed", **times, error=error, reason="model cannot be kept.", cpu_secs=0.01)
    stub.stored(failed, "a line")
    alone = stub.add("succeeded", **times)
    stub.stored(alone, *[f"line {n}" for n in range(1234)])
    page.goto(stub.url())
    page.wait_for_function("window.views?.length === 3 && views.every(({ feed }) => feed.loaded)")
    of_page = page.evaluate("import('/view/index.js').then(({ bundleOf }) => views.map(({ feed }) => bundleOf(feed)))")
    of_kernel = [
        mime_bundle(
            msgspec.convert(stub.jobs[job_id], Job),
            log_tail=[msgspec.convert(each, LogEntry) for each in stub.logs[job_id]],
            outputs=stub.outputs[job_id],
        )
        for job_id in (shown, failed, alone)
    ]
    for place, bundles in enumerate(zip(of_page, of_kernel, strict=True)):
        texts = []
        for bundle in bundles:
            page.set_content(bundle["text/html"])
            texts.append(page.locator("body").evaluate("body => body.textContent"))
            is_open = page.locator("details").get_attribute("open") is not None
            assert is_open is [False, True, True][place]
        assert texts[0] == texts[1]
        assert "Succeeded train-resnet · ran 0.2 s · " in texts[0] or place == 1
        if place == 0:
            assert "CPU time 0.2 s · ended" in texts[0]
            assert (
                f"{PAGE_TEXT}# A *title*$x^2$    lr\n0  0.1<IPython.core.display.SVG object>Log, 21 lines" in texts[0]
            )
        elif place == 1:
            assert texts[0].count("model cannot be kept.") == 1
            assert "CPU" not in texts[0]
            assert "Log, 1 linea line" in texts[0]
        else:
            assert "Log, last 200 of 1,234 linesline 1034" in texts[0]
