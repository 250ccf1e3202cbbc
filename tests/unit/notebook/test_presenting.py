"""What stands for the views where there are none: words in a terminal, a widget beside the view, static HTML."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from zbrain_nb import Job, JobHandle, JobSpec, JobState
from zbrain_nb.client.group import JobGroup
from zbrain_nb.model.errors import ServerUnreachable
from zbrain_nb.notebook import groups, presenting
from zbrain_nb.notebook.bundle import mime_bundle
from zbrain_nb.notebook.groups import GroupView
from zbrain_nb.notebook.presenting import NotebookPresenter, needs_widget


@pytest.fixture
def client() -> Any:
    """A client that knows of no job more than its handle does."""
    looked_up: Any = SimpleNamespace(call=lambda function, *args: ([], 0), asynchronous=SimpleNamespace(lookup=None))
    return looked_up


def handle_of(client: Any, state: JobState, reason: str | None = None) -> JobHandle:
    return JobHandle(client, Job(JobSpec(cmd=["true"], name="train"), state=state, reason=reason))


def test_terminal_is_told_how_an_ended_job_stands(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    handle = handle_of(client, JobState.FAILED, "Exit code 3.\x1b[2J")
    handle.refresh = lambda: handle  # type: ignore[method-assign]
    said = f"{handle!r}: failed. Exit code 3. (.logs() shows its log, .result() its value.)"
    assert NotebookPresenter().bundle(handle) == {"text/plain": said}
    NotebookPresenter().display(handle)
    assert capsys.readouterr().out == f"{said}\n"


def test_terminal_is_told_why_runs_of_a_group_failed(client: Any) -> None:
    states = [(JobState.SUCCEEDED, None), (JobState.FAILED, "Bad rate."), (JobState.FAILED, "Bad rate.")]
    group = JobGroup(client, [handle_of(client, *each) for each in states])
    (text,) = GroupView().bundle(group).values()
    assert text.splitlines() == ["<zbrain group 'train' of 3: 1 succeeded, 2 failed>", "  2 failed: Bad rate."]


@pytest.mark.parametrize(
    ("environ", "cell", "watched", "needs"),
    [
        ({"ZBRAIN_URL": "http://127.0.0.1:8888/"}, "", True, False),
        ({"ZBRAIN_URL": "http://127.0.0.1:8888/", "VSCODE_PID": "1"}, "", True, True),
        ({"ZBRAIN_URL": "http://127.0.0.1:8888/"}, "vscode-notebook-cell:1", True, True),
        ({"ZBRAIN_URL": "http://127.0.0.1:8888/", "COLAB_RELEASE_TAG": "1"}, "", True, True),
        ({}, "", True, True),
        ({"VSCODE_PID": "1"}, "", False, False),
    ],
    ids=["jupyter", "vscode", "vscode-cell", "colab", "foreign-jupyter", "nobody"],
)
def test_widget_goes_along_only_where_the_extension_cannot_be(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], cell: str, watched: bool, needs: bool
) -> None:
    kernel = SimpleNamespace(_allow_stdin=watched, get_parent=lambda _: {"metadata": {"cellId": cell}})
    monkeypatch.setattr(presenting, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setattr(presenting.os, "environ", environ)
    assert needs_widget() is needs


def test_group_bundle_carries_the_widget_where_it_is_needed(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    group = JobGroup(client, [handle_of(client, JobState.SUCCEEDED)])
    monkeypatch.setattr(groups, "is_kernel", lambda: True)
    assert set(GroupView().bundle(group)) == {groups.MIME_TYPE, "text/html", "text/plain"}
    monkeypatch.setattr(presenting, "needs_widget", lambda: True)
    bundle = GroupView().bundle(group)
    assert bundle["text/plain"] == groups.PLAIN
    assert presenting.WIDGET_TYPE in bundle


def test_that_the_end_was_not_saved_is_said(
    client: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = handle_of(client, JobState.RUNNING)
    group = JobGroup(client, [handle])
    handle.refresh = lambda: handle  # type: ignore[method-assign]
    saving: Future[None] = Future()
    for shown in (handle, group):
        monkeypatch.setattr(shown, "add_done_callback", lambda save: saving)
    for room in (presenting, groups):
        monkeypatch.setattr(room, "is_kernel", lambda: True)
        monkeypatch.setattr(room, "publish_display_data", lambda *_, **__: None)
    NotebookPresenter().display(handle)
    GroupView().display(group)
    assert capsys.readouterr().err == ""
    saving.set_exception(ServerUnreachable("Nobody answers."))
    assert capsys.readouterr().err.splitlines() == [
        "zbrain: how 'train' ended is not saved in the notebook: Nobody answers.",
        "zbrain: how the runs of 'train' ended is not saved in the notebook: Nobody answers.",
    ]


def test_static_html_of_what_goes_on_says_when_that_was() -> None:
    job = Job(JobSpec(code="42"), state=JobState.RUNNING)
    assert "<b>42</b> &middot; when this was written, 20" in mime_bundle(job)["text/html"]
    assert "written" not in mime_bundle(msgspec.structs.replace(job, state=JobState.SUCCEEDED))["text/html"]


def test_value_stands_once_in_static_html() -> None:
    job = Job(JobSpec(code="42"), state=JobState.SUCCEEDED, output="the value")
    assert mime_bundle(job)["text/html"].count("the value") == 1
    shown = [{"output_type": "execute_result", "data": {"text/plain": "the value"}, "metadata": {}}]
    assert mime_bundle(job, outputs=shown)["text/html"].count("the value") == 1
