"""The dashboard as a notebook keeps it, and the one module that widgets are made of."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from zbrain_nb import Job, JobSpec, JobState
from zbrain_nb.client.client import Client
from zbrain_nb.client.locating import locator
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.notebook import dashboards, presenting
from zbrain_nb.notebook.dashboards import MIME_TYPE, PLAIN, Dashboard
from zbrain_nb.notebook.joining import VIEW, join_modules
from zbrain_nb.notebook.presenting import WIDGET_TYPE

HOSTILE = "<script>alert(1)</script>"


def dashboard(*jobs: Job) -> Dashboard:
    client: Any = SimpleNamespace(jobs=lambda limit: [SimpleNamespace(job=job) for job in jobs[:limit]])
    return Dashboard(client)


def test_bundle_has_live_table_static_table_and_constant_text(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(
        JobSpec(code="secret_code", name=HOSTILE, env={"KEY": "hush"}, tags={"lr": "1"}),
        state=JobState.FAILED,
        reason=HOSTILE,
        error={"ename": "E", "evalue": "x" * 10_000, "traceback": [HOSTILE]},
    )
    monkeypatch.setattr(dashboards, "is_kernel", lambda: True)
    bundle = dashboard(job)._repr_mimebundle_()
    assert bundle["text/plain"] == PLAIN
    assert "<script" not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]
    (row,) = bundle[MIME_TYPE]["rows"]
    assert (row["id"], row["name"], row["state"], row["spec"]["tags"]) == (job.id, HOSTILE, "failed", {"lr": "1"})
    saved = json.dumps(bundle[MIME_TYPE])
    assert "hush" not in saved
    assert "secret_code" not in saved
    assert len(saved) < 3_000
    assert WIDGET_TYPE not in bundle
    monkeypatch.setattr(presenting, "needs_widget", lambda: True)
    assert WIDGET_TYPE in dashboard(job)._repr_mimebundle_()


def test_terminal_gets_the_table_as_text() -> None:
    job = Job(JobSpec(cmd=["true"], name="a[red]b"), state=JobState.FAILED, reason="No\x1b[2J room.")
    (mime, text), *others = dashboard(job)._repr_mimebundle_().items()
    assert (mime, others) == ("text/plain", [])
    assert re.split(r" {2,}", text.splitlines()[1].strip())[1:] == ["failed", "a[red]b", "0 s", "No room."]


def test_refresh_reads_the_newest_jobs_again() -> None:
    jobs = [Job(JobSpec(cmd=["true"]))]
    client: Any = SimpleNamespace(jobs=lambda limit: [SimpleNamespace(job=job) for job in jobs])
    shown = Dashboard(client)
    jobs.append(Job(JobSpec(cmd=["true"])))
    shown.refresh()
    assert [row["id"] for row in shown.saved["rows"]] == [job.id for job in jobs]


def test_dashboard_needs_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "present", None)
    client = Client(locator(start=False))
    with pytest.raises(ZBrainError, match="needs a notebook"):
        client.dashboard()
    client.close()


@pytest.mark.parametrize("entry", ["widget.js"])
def test_joined_module_imports_nothing_and_exports_its_default_alone(entry: str) -> None:
    source = join_modules(entry)
    assert re.findall(r"^import ", source, re.MULTILINE) == []
    assert re.findall(r"^export \w+", source, re.MULTILINE) == ["export default"]
    named = re.findall(r"modules\['([^']+)'\] = ", source)
    assert len(named) == len(set(named))
    assert all((VIEW / name).is_file() for name in named)
    for used in re.finditer(r"= modules\['([^']+)'\];", source):
        assert source.index(f"modules['{used[1]}'] = ") < used.start()
