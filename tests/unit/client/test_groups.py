"""`JobGroup`, `submit_many` and `map`: many jobs at the price of few requests."""

from __future__ import annotations

import builtins
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.places import CASES, runs_of
from zbrain_nb import Client, JobCanceledError, JobFailedError, JobGroup, JobSpec, JobState, ZBrainError
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.jobs import ask_many
from zbrain_nb.model.errors import InvalidSpec, NotPicklable, TooLarge, UsageError
from zbrain_nb.model.job import Job


def wait_for_file(path: str) -> None:
    import pathlib
    import time

    while not pathlib.Path(path).exists():
        time.sleep(0.02)


def sleepers(gate: Path, count: int, **fields: Any) -> list[JobSpec]:
    script = f"while [ ! -e '{gate}' ]; do sleep 0.05; done"
    return [JobSpec(cmd=["sh", "-c", script], resources={"cpus": 0.01}, **fields) for _ in range(count)]


def until(condition: Any, secs: float = 60) -> None:
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_map_returns_results_in_order_and_ships_the_function_once(client: Client, requests: list[str]) -> None:
    group = client.map(lambda x, y: x * y, range(30), range(100, 200))
    assert requests == [requests[0], requests[1], "POST jobs"]
    assert [word.split("/")[0] for word in requests[:2]] == ["HEAD blobs", "PUT blobs"]
    assert group.results(timeout=60) == [n * (n + 100) for n in range(30)]
    assert len({handle.job.spec.function for handle in group}) == 1


def test_wait_asks_for_no_single_job_however_many_there_are(client: Client, requests: list[str], gate: Path) -> None:
    group = client.submit_many(sleepers(gate, 12))
    requests.clear()
    assert not group.done()
    gate.touch()
    group.wait(60)
    assert group.done()
    assert requests == ["POST jobs/lookup"] * 2


def test_group_is_a_sequence_of_handles(client: Client) -> None:
    specs = [JobSpec(cmd=["true"], name="same") for _ in range(3)]
    group = client.submit_many(specs)
    assert len(group) == 3
    assert [handle.id for handle in group] == group.ids
    assert group[-1].id == group.ids[2]
    assert isinstance(group[1:], JobGroup)
    assert group[1:].ids == group.ids[1:]
    assert (group[:1] + group[2:]).ids == [group.ids[0], group.ids[2]]
    assert repr(group.wait(60)) == "<zbrain group 'same' of 3: 3 succeeded>"
    assert len(client.submit_many([])) == 0


def test_results_raises_the_first_error_or_returns_each_in_its_place(client: Client) -> None:
    group = client.map(lambda n: 1 / n, [1, 0, 4])
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        group.results(timeout=60)
    first, error, last = group.results(errors="return")
    assert (first, last) == (1.0, 0.25)
    assert isinstance(error, JobFailedError)
    assert repr([error]) == "[JobFailedError(\"Job '<lambda>' failed: ZeroDivisionError: division by zero\")]"
    assert "Traceback (most recent call last)" in str(error)
    with pytest.raises(UsageError):
        group.results(errors="ignore")  # type: ignore[arg-type]


def test_wait_past_its_time_says_how_many_are_left_and_cancel_ends_them(
    client: Client, requests: list[str], gate: Path
) -> None:
    group = client.submit_many(sleepers(gate, 6))
    with pytest.raises(TimeoutError, match="6 of 6 jobs"):
        group.wait(0.01)
    requests.clear()
    group.cancel()
    assert requests == ["POST jobs/cancel"]
    group.wait(60)
    assert group.counts() == {"canceled": 6}
    assert all(isinstance(error, JobCanceledError) for error in group.results(errors="return"))


def test_retry_failed_puts_the_new_jobs_in_the_places_of_the_old(client: Client, gate: Path) -> None:
    group = client.submit_many([JobSpec(cmd=["sh", "-c", f"test {n} != 1 -o -e '{gate}'"]) for n in range(3)])
    before = group.wait(60).ids
    gate.touch()
    again = group.retry_failed()
    assert [handle.job.retry_of for handle in again] == [before[1]]
    assert group.ids == [before[0], again[0].id, before[2]]
    assert group.wait(60).counts() == {"succeeded": 3}
    assert len(group.retry_failed()) == 0


def jobs_of(case: str) -> dict[str, Job]:
    """Return the jobs that a case is about, by their names."""
    jobs: dict[str, Job] = {}
    for name, repeats, state in runs_of(case):
        repeated = jobs[repeats].id if repeats else None
        jobs[name] = Job(JobSpec(cmd=["true"], name=name), state=JobState(state), retry_of=repeated)
    return jobs


@pytest.mark.parametrize("is_told_later", [False, True])
def test_repeat_stands_where_the_view_shows_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, is_told_later: bool
) -> None:
    cases = [jobs_of(case) for case in CASES]
    now = {job.id: job for jobs in cases for job in jobs.values()}

    async def lookup(ids: list[str]) -> tuple[list[Job], int]:
        return [now[job_id] for job_id in ids], 0

    monkeypatch.setattr(client.asynchronous, "lookup", lookup)
    at_first = {"state": JobState.PENDING} if is_told_later else {}
    places = [[JobHandle(client, replace(job, **at_first)) for job in jobs.values()] for jobs in cases]
    group = JobGroup(client, [first for first, *_ in places])
    for _, *repeats in places:
        for handle in repeats:
            group.put(handle)
    group.refresh()
    assert {case: handle.name for case, handle in zip(CASES, group, strict=True)} == CASES


def test_repeats_of_one_run_stand_as_they_were_submitted_in_whatever_order_they_are_heard_of(client: Client) -> None:
    jobs = jobs_of("A failed, B of A running, C of A running")
    group = JobGroup(client, [JobHandle(client, jobs["A"])])
    assert group.put(JobHandle(client, jobs["C"]))
    assert group.put(JobHandle(client, jobs["B"]))
    assert not group.put(JobHandle(client, jobs["C"]))
    assert group.name == "B"


def test_wait_is_over_when_what_stands_there_by_then_has_ended(client: Client, gate: Path) -> None:
    ready = f"{gate}-data"
    script = f"test -e '{ready}' || exit 1; while [ ! -e '{gate}' ]; do sleep 0.05; done"
    group = client.submit_many([JobSpec(cmd=["sh", "-c", script], resources={"cpus": 0.01})]).wait(60)
    Path(ready).touch()
    repeats = [client.job(group[0].id).retry() for _ in range(2)]
    assert [group.put(handle) for handle in repeats] == [True, False]
    client.job(repeats[0].id).cancel()  # which wins over what it comes to from now on
    gate.touch()
    assert group.wait(60).last_counts() == {"succeeded": 1}
    assert group.ids == [repeats[1].id]


def test_map_runs_no_more_at_once_than_max_parallel(client: Client, gate: Path) -> None:
    group = client.map(wait_for_file, [str(gate)] * 5, max_parallel=2, resources={"cpus": 0.01})
    until(lambda: group.counts().get("running") == 2)
    assert "2 run at a time" in (group[4].refresh().job.reason or "")
    gate.touch()
    assert group.results(timeout=60) == [None] * 5
    spans = [(h.job.started_at, h.job.finished_at) for h in group]
    assert all(start and end for start, end in spans)
    for moment, _ in spans:
        assert moment is not None
        assert sum(start <= moment < end for start, end in spans if start and end) <= 2


def test_map_of_large_items_ships_each_content_once(client: Client, requests: list[str]) -> None:
    large, other = b"x" * 100_000, b"y" * 100_000
    group = client.map(lambda data: data[:1], [large, other, large])
    assert sum(word.startswith("PUT blobs/") for word in requests) == 3  # the function and two contents
    assert group.results(timeout=60) == [b"x", b"y", b"x"]


def test_map_refuses_before_anything_is_submitted(client: Client, requests: list[str]) -> None:
    for error, call in (
        (TypeError, lambda: client.map(len)),
        (ValueError, lambda: client.map(len, ["a"], max_parallel=0)),
        (InvalidSpec, lambda: client.map(len, ["a"], nonsense=1)),
        (InvalidSpec, lambda: client.map(len, ["a"], code="1")),
        (NotPicklable, lambda: client.map(len, [iter([1]), (n for n in [1])])),
    ):
        with pytest.raises(error):
            call()
    assert "POST jobs" not in requests


def test_map_names_all_items_that_cannot_travel(client: Client) -> None:
    with pytest.raises(NotPicklable) as caught:
        client.map(divmod, [1, (n for n in [1]), 3, 4], [1, 2, 3, threading.local()])
    assert caught.value.details["names"] == ["item 1[0]", "item 3[1]"]


def test_df_has_a_row_for_each_job_with_its_parameters_and_small_result(client: Client) -> None:
    specs = [
        JobSpec(code=f"{lr} * 10", tags={"lr": str(lr), "zbrain.group": "g"}, input={"lr": lr}) for lr in (0.5, 0.25)
    ]
    frame = client.submit_many(specs).wait(60).df()
    assert list(frame["lr"]) == [0.5, 0.25]
    assert list(frame["result"]) == [5.0, 2.5]
    assert list(frame["state"]) == ["succeeded"] * 2
    assert "zbrain.group" not in frame.columns
    assert {"id", "name", "created_at", "started_at", "finished_at", "seconds"} <= set(frame.columns)


def test_df_without_pandas_says_what_is_missing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ZBrainError, match="pip install pandas"):
        client.submit_many([]).df()


def test_group_outside_a_notebook_says_that_views_need_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobGroup, "presenter", None)
    with pytest.raises(ZBrainError, match="notebook"):
        client.submit_many([]).display()


def test_function_error_carries_the_exception_itself(client: Client) -> None:
    group = client.map(lambda n: [][n], [3]).wait(60)
    assert group[0].job.state is JobState.FAILED
    assert (group[0].job.error or {})["pickled"]


def test_jobs_are_listed_past_the_first_page(client: Client, requests: list[str]) -> None:
    tag = {"listed": "past the first page"}
    parent = client.submit(["sleep", "600"])
    group = client.submit_many([JobSpec(cmd=["true"], after=[parent.id], tags=tag) for _ in range(1_100)])
    requests.clear()
    found = client.jobs(limit=1_050, tag=("listed", "past the first page"))
    assert [handle.id for handle in found] == group.ids[:49:-1]
    assert requests == ["GET jobs"] * 2
    with pytest.raises(ZBrainError, match="limit must be"):
        client.jobs(limit=0)
    parent.cancel()


class Narrow:
    """A transport to a server for which three jobs are too large together."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def post(self, path: str, body: dict[str, list[str]], kind: type[Any], **options: Any) -> Any:
        ids = body["ids"]
        self.asked.append(len(ids))
        if len(ids) > 2 or "alone" in ids:
            raise TooLarge("These jobs are too large together.")
        return kind([{"id": job_id, "spec": {"cmd": ["true"]}} for job_id in ids], event_seq=len(self.asked))


@pytest.mark.anyio
async def test_jobs_that_are_too_large_together_are_asked_for_in_parts() -> None:
    narrow = Narrow()
    found, seq = await ask_many(narrow, "lookup", "abcde")
    assert ([job.id for job in found], seq) == (list("abcde"), 2)
    assert narrow.asked == [5, 2, 3, 1, 2]
    with pytest.raises(TooLarge):
        await ask_many(narrow, "lookup", ["alone"])
