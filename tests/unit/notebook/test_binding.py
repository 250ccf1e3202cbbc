"""`--out`: the latest job of a name binds it, and a user's own assignment wins."""

from __future__ import annotations

import gc
import hashlib
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from zbrain_nb.model.errors import BlobMismatch, UntrustedResult, ZBrainError
from zbrain_nb.model.job import Job, JobSpec, JobState, Variable
from zbrain_nb.model.payload import dump_value
from zbrain_nb.notebook.binding import OutBindings

OWN = object()


class FakeHandle:
    """A handle whose job ends when it is told to."""

    def __init__(self, code: str = "1") -> None:
        self.job = Job(JobSpec(code=code), state=JobState.RUNNING)
        self.id, self.name = self.job.id, "cell"
        self.before_return: list[Any] = []
        self.after_retry: list[Any] = []
        self.repeats: dict[str, FakeHandle] = {}
        self.blobs: dict[str, bytes] = {}

    def refresh(self) -> FakeHandle:
        return self

    def add_done_callback(self, call: Any) -> Any:
        return SimpleNamespace(add_done_callback=lambda report: None)

    def retried(self, again: FakeHandle) -> None:
        self.repeats[again.id] = again
        for call in self.after_retry:
            call(again)

    def end(self, state: JobState = JobState.SUCCEEDED, **values: Any) -> None:
        self.job.state = state
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(self.job.spec.code or "", space)  # what the job would have left
        for name, value in values.items():
            data = dump_value(space[name] if value is OWN else value, space)
            self.blobs[name] = data
            self.job.variables = [
                *self.job.variables,
                Variable(name, "", "", hashlib.sha256(data).hexdigest(), len(data)),
            ]
        for call in self.before_return:
            call()


class FakeClient:
    def __init__(self, *handles: FakeHandle) -> None:
        self.handles = {handle.id: handle for handle in handles}
        self.asynchronous = SimpleNamespace(read=None)

    def call(self, _read: Any, path: str) -> bytes:
        _, job_id, _, name = path.split("/")
        return self.handles[job_id].blobs[name]

    def check_trusted(self, jobs: Any, what: str, how: str) -> None:
        if any(job.owner == "somebody else" for job in jobs):
            raise UntrustedResult(what, how)


def bindings(namespace: dict[str, Any], *handles: FakeHandle) -> OutBindings:
    return OutBindings(FakeClient(*handles), namespace, {})  # type: ignore[arg-type]


def test_name_is_unbound_until_the_job_succeeded() -> None:
    namespace: dict[str, Any] = {"model": "old"}
    job = FakeHandle()
    bindings(namespace, job).add(job, ["model"])  # type: ignore[arg-type]
    assert "model" not in namespace
    job.end(model="new")
    assert namespace == {"model": "new"}


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELED])
def test_old_value_returns_when_the_job_did_not_succeed(state: JobState) -> None:
    namespace: dict[str, Any] = {"model": "old"}
    job = FakeHandle()
    bindings(namespace, job).add(job, ["model", "other"])  # type: ignore[arg-type]
    job.end(state)
    assert namespace == {"model": "old"}


@pytest.mark.parametrize("first_ends", [JobState.SUCCEEDED, JobState.FAILED])
def test_latest_of_two_jobs_binds_the_name_whichever_ends_first(first_ends: JobState) -> None:
    for order in ((0, 1), (1, 0)):
        namespace: dict[str, Any] = {"model": "old"}
        jobs = FakeHandle(), FakeHandle()
        out = bindings(namespace, *jobs)
        for job in jobs:
            out.add(job, ["model"])  # type: ignore[arg-type]
        for index in order:
            if index == 0:
                jobs[0].end(first_ends, model="first")
            else:
                jobs[1].end(model="second")
        assert namespace == {"model": "second"}, order


def test_old_value_returns_when_two_jobs_in_a_row_fail() -> None:
    namespace: dict[str, Any] = {"model": "old"}
    jobs = FakeHandle(), FakeHandle()
    out = bindings(namespace, *jobs)
    for job in jobs:
        out.add(job, ["model"])  # type: ignore[arg-type]
    for job in jobs:
        job.end(JobState.FAILED)
    assert namespace == {"model": "old"}


def test_retry_of_a_failed_job_binds_the_name() -> None:
    namespace: dict[str, Any] = {"model": "old"}
    job, again = FakeHandle(), FakeHandle()
    bindings(namespace, job, again).add(job, ["model"])  # type: ignore[arg-type]
    job.end(JobState.FAILED)
    job.retried(again)
    assert "model" not in namespace
    again.end(model="new")
    assert namespace == {"model": "new"}


@pytest.mark.parametrize("before", [{}, {"model": "old"}])
@pytest.mark.parametrize("is_assigned_early", [True, False])
@pytest.mark.parametrize("state", [JobState.FAILED, JobState.SUCCEEDED])
def test_retry_leaves_a_name_that_was_assigned_since(
    state: JobState, is_assigned_early: bool, before: dict[str, Any]
) -> None:
    namespace = dict(before)
    job, again, third = FakeHandle(), FakeHandle(), FakeHandle()
    out = bindings(namespace, job, again, third)
    out.add(job, ["model", "other"])  # type: ignore[arg-type]
    if is_assigned_early:
        namespace["model"] = "mine"
    job.end(state, **({"model": 1, "other": 1} if state is JobState.SUCCEEDED else {}))
    namespace["model"] = "mine"
    job.retried(again)
    assert out.names_of(again) == ["other"]  # type: ignore[arg-type]
    assert namespace == {"model": "mine"}
    again.end(model=2, other=2)
    again.retried(third)
    third.end(model=3, other=3)
    assert namespace == {"model": "mine", "other": 3}


def test_retry_leaves_a_name_that_another_job_bound_or_shall_bind() -> None:
    namespace: dict[str, Any] = {}
    first, newer, newest, again = (FakeHandle() for _ in range(4))
    out = bindings(namespace, first, newer, newest, again)
    for job in (first, newer):
        out.add(job, ["model"])  # type: ignore[arg-type]
        job.end(model=job.id)
    first.retried(again)
    assert namespace == {"model": newer.id}
    out.add(newest, ["model"])  # type: ignore[arg-type]
    newer.retried(again)
    newest.end(model="newest")
    assert namespace == {"model": "newest"}


def test_latest_of_several_retries_of_one_job_binds_the_name() -> None:
    namespace: dict[str, Any] = {}
    first, again, later, last = (FakeHandle() for _ in range(4))
    bindings(namespace, first, again, later, last).add(first, ["model"])  # type: ignore[arg-type]
    first.retried(again)  # before the notebook knows that the first has ended
    first.end(JobState.FAILED)
    first.retried(later)
    later.end(model="later")
    again.end(model="again")
    assert namespace == {"model": "later"}
    first.retried(last)
    last.end(model="last")
    assert namespace == {"model": "last"}


def test_value_is_not_kept_once_its_name_was_assigned_or_deleted() -> None:
    namespace: dict[str, Any] = {}
    job = FakeHandle("class Big: pass\nbig, gone = Big(), Big()")
    out = bindings(namespace, job)
    out.add(job, ["big", "gone"])  # type: ignore[arg-type]
    job.end(big=OWN, gone=OWN)
    held = weakref.ref(namespace["big"]), weakref.ref(namespace["gone"])
    namespace["big"] = None
    del namespace["gone"]
    out.forget_reassigned()
    gc.collect()
    assert [one() for one in held] == [None, None]


def test_users_own_assignment_meanwhile_is_kept() -> None:
    namespace: dict[str, Any] = {}
    job = FakeHandle()
    bindings(namespace, job).add(job, ["model"])  # type: ignore[arg-type]
    namespace["model"] = "mine"
    job.end(model="new")
    assert namespace == {"model": "mine"}


def test_bytes_that_are_not_those_kept_are_refused_and_a_name_not_kept_is_said() -> None:
    job = FakeHandle()
    bindings({}, job).add(job, ["model"])  # type: ignore[arg-type]
    job.job.state = JobState.SUCCEEDED
    with pytest.raises(ZBrainError, match="did not keep 'model'"):
        job.before_return[0]()
    job.job.variables = [Variable("model", "", "", "0" * 64, 1)]
    job.blobs["model"] = dump_value(1)
    with pytest.raises(BlobMismatch):
        job.before_return[0]()


FUNCTIONS = (
    "def helper():\n    return 'new'\ndef call():\n    return helper()\ndef set_it():\n    global kept\n    kept = 1"
)


@pytest.mark.parametrize(
    ("names", "before", "said"),
    [
        (["call"], {}, "mine"),  # what it reads comes along, and is the notebook's to redefine
        (["call", "helper"], {"helper": lambda: "old"}, "mine"),
        (["call"], {"helper": lambda: "old"}, "new"),  # the notebook has another helper, and keeps it
    ],
)
def test_bound_function_reads_the_notebook_where_that_changes_nothing(names: Any, before: Any, said: str) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", **before}
    job = FakeHandle(FUNCTIONS)
    bindings(namespace, job).add(job, names)  # type: ignore[arg-type]
    job.end(**dict.fromkeys(names, OWN))
    assert namespace["call"]() == "new"
    namespace["helper"] = lambda: "mine"
    assert namespace["call"]() == said


def test_bound_function_assigns_globals_of_the_notebook() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    job = FakeHandle(FUNCTIONS)
    bindings(namespace, job).add(job, ["set_it"])  # type: ignore[arg-type]
    job.end(set_it=OWN)
    namespace["set_it"]()
    assert namespace["kept"] == 1


def test_variables_of_somebody_elses_job_are_not_bound() -> None:
    namespace: dict[str, Any] = {"model": "old"}
    job = FakeHandle()
    job.job.owner = "somebody else"
    bindings(namespace, job).add(job, ["model"])  # type: ignore[arg-type]
    with pytest.raises(UntrustedResult, match="--out"):
        job.end(model="new")
    assert namespace == {}
