"""What a saved notebook holds of a job, for readers without the live view."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter

from zbrain_nb import Job, JobSpec, JobState, LogEntry
from zbrain_nb.model.events import LogStream
from zbrain_nb.notebook.bundle import MAX_OUTPUTS_BYTES, MIME_TYPE, PLAIN, mime_bundle, snapshot

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
    assert "ran 0:01:05 &middot; peak memory 5.3 GiB &middot; CPU time 0:14:18" in html
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
