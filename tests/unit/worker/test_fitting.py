"""No valid end of an attempt is too much for the queue: what is, is left out, and the log says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.worker.conftest import Station
from zbrain_nb.model import leavings
from zbrain_nb.model.amounts import MAX_VALUES, count_values
from zbrain_nb.model.events import (
    AnyWorkerEvent,
    JobCanceled,
    JobCompleted,
    JobDisplayed,
    JobFailed,
    JobLogged,
    LogStream,
)
from zbrain_nb.model.job import JobArtifact, Variable
from zbrain_nb.model.leavings import ListRoom
from zbrain_nb.model.protocol import EventBatch
from zbrain_nb.server.handlers.base import MAX_BODY_BYTES
from zbrain_nb.worker.collect import Found
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.finishing import finish
from zbrain_nb.worker.fitting import MAX_OUTPUT_BYTES, MAX_OUTPUT_VALUES, fitted
from zbrain_nb.worker.masking import Mask
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.runner import RawOutput
from zbrain_nb.worker.spool import End, Frame, Kind

SHA = "0" * 64


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("[0] * 700_000", "it holds more than 700,000 values"),
        ("eval('[' * 101 + ']' * 101)", "it is nested deeper than 100 levels"),
        ("'x' * (8 << 20)", "it is over 8 MiB"),
    ],
)
async def test_command_succeeds_however_much_it_leaves(station: Station, output: str, why: str) -> None:
    script = f"import json, os; json.dump({output}, open(os.environ['ZBRAIN_OUTPUT'], 'w'))"
    job = await station.run(sys.executable, "-c", script)
    assert isinstance(job.ending, JobCompleted), job.ending
    assert job.ending.output is None
    assert job.lines(LogStream.SYSTEM) == [f"The output was not taken: {why}; save it as an artifact."]


@pytest.mark.anyio
async def test_artifacts_that_no_list_takes_are_left_out(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leavings, "MAX_ARTIFACTS", 3)
    deep = "/".join(["d" * 250] * 4)
    script = f'touch a.txt b.txt c.txt; cd "$ZBRAIN_ARTIFACTS"; mkdir -p {deep}; touch first {deep}/f'
    job = await station.run("sh", "-c", script, artifacts=["*.txt"])
    assert isinstance(job.ending, JobCompleted)
    assert [one["name"] for one in job.ending.artifacts] == ["first", "a.txt", "b.txt"]
    (said,) = job.lines(LogStream.SYSTEM)
    assert said.startswith("2 artifacts were not kept: a job keeps ")


class AnyFile:
    """A keeper that keeps whatever it is given."""

    async def keep(self, found: Found) -> JobArtifact:
        return JobArtifact(found.name, SHA, 1)


@pytest.mark.anyio
async def test_variables_that_no_list_takes_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leavings, "MAX_VARIABLES", 2)
    box = str(tmp_path)
    finished = {"exit_code": 0, "variables": [{"name": name, "path": f"{box}/{name}"} for name in "abcd"]}
    request = RunRequest(job_id="j", attempt=1, code="", cwd=box, outbox=box)
    event, sentences = await finish(request, End(reason="exited", exit_code=0), finished, AnyFile())
    assert isinstance(event, JobCompleted)
    assert [one.name for one in event.variables] == ["a", "b"]
    assert sentences == ["2 variables were not kept: a job keeps 10,000 at most."]


def test_no_event_of_a_log_holds_more_lines_than_a_request_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a frame says travels in one event; a call's output past Python may come a megabyte at a time."""
    reads = iter([b"\n" * (1 << 17)] * 2)
    monkeypatch.setattr(os, "read", lambda descriptor, size: next(reads))
    raw = RawOutput(0, Kind.STDOUT, b"\0marker")
    raw.read(1 << 18)
    delivery = Delivery("j", 1, "w")
    for piece in raw.take():
        delivery.feed(Frame(Kind.STDOUT, 1.0, piece))
    lines = 0
    while delivery.waiting:
        (event,) = delivery.take(1)[0]
        assert isinstance(event, JobLogged)
        assert count_values(msgspec.json.encode(event), 10**9) < MAX_VALUES / 3
        lines += len(event.lines)
        delivery.acknowledge(event.seq or 0)
    assert lines == 1 << 18


def largest(kind: type[AnyWorkerEvent]) -> AnyWorkerEvent:
    """Return an ending as large as a worker lets it become."""
    artifacts, variables = list[JobArtifact](), list[Variable]()
    room = ListRoom.of_artifacts()
    while room.takes(name := f"{len(artifacts)}" + "é" * 8):
        artifacts.append(JobArtifact(name, SHA, 2**62))
    room = ListRoom.of_variables()
    while room.takes(name := f"v{len(variables)}", "type", "s" * 60):
        variables.append(Variable(name, "type", "s" * 60, SHA, 2**62))
    more: dict[str, Any] = {"reason": "r" * 1_000_000}
    if kind is JobCompleted:
        texts = ["x" * (MAX_OUTPUT_BYTES // MAX_OUTPUT_VALUES - 3)] * (MAX_OUTPUT_VALUES - 2)
        more |= {"output": texts, "result": JobArtifact("result", SHA, 4096, b"x" * 4096)}
    elif kind is JobFailed:
        lines = ["\x00" * 50] * 10_000
        more["error"] = {"ename": "E" * 2000, "evalue": "\x00" * 10**6, "traceback": lines, "pickled": "p"}
    return kind(job_id="j", attempt=2**62, after=0, seq=1, artifacts=artifacts, variables=variables, **more)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [JobCompleted, JobFailed, JobCanceled])
def test_largest_ending_fits_into_a_request(kind: Any) -> None:
    ending, size, sentences = fitted(largest(kind))
    body = msgspec.json.encode(EventBatch([ending]))
    assert 8_000_000 < size < len(body) < MAX_BODY_BYTES
    assert count_values(body, 10**9) < MAX_VALUES
    assert isinstance(ending, kind)
    if isinstance(ending, JobFailed):
        assert sentences == ["The error was shortened: it is over 2 MiB."]
        assert len(ending.error["traceback"]) == 1000
    else:
        assert sentences == []


def test_what_hiding_makes_too_long_is_left_out() -> None:
    delivery = Delivery("j", 1, "w", mask=Mask(["~"]))
    delivery.feed(Frame(Kind.END, 1.0, b'{"reason":"exited","exit_code":0}'))
    delivery.close(JobCompleted("j", output="~" * (MAX_OUTPUT_BYTES // 2)), ["It ended."])
    (said, ending), size = delivery.take(10**6)
    assert isinstance(said, JobLogged)
    assert [line for _, _, line in said.lines] == [
        "It ended.",
        "The output was not taken: it is over 8 MiB; save it as an artifact.",
    ]
    assert isinstance(ending, JobCompleted)
    assert (ending.output, size < 1000) == (None, True)


@pytest.mark.parametrize(
    ("data", "why"),
    [("[" * 400 + "]" * 400, "deeper than 100 levels"), (f"[{'0,' * 990_000}0]", "more than 990,000 values")],
)
def test_display_that_is_too_much_leaves_a_sentence(data: str, why: str) -> None:
    delivery = Delivery("j", 1, "w", mask=Mask(["secret"]))
    outputs = f'[{{"output_type":"display_data","data":{{"application/json":{data}}}}}]'
    delivery.feed(Frame(Kind.EVENT, 1.0, f'{{"kind":"displayed","outputs":{outputs}}}'.encode()))
    delivery.feed(Frame(Kind.EVENT, 1.0, b'{"kind":"displayed","outputs":[{"output_type":"display_data"}]}'))
    told, shown = delivery.take(10**6)[0]
    assert isinstance(told, JobLogged)
    assert why in told.lines[0][2]
    assert isinstance(shown, JobDisplayed)


def test_output_that_is_refused_all_the_same_does_not_make_a_success_a_failure() -> None:
    delivery = Delivery("j", 1, "w")
    delivery.close(JobCompleted("j", output=[1], exit_code=0))
    assert delivery.substitute("Too much.")
    (ending,) = delivery.take(10**6)[0]
    assert isinstance(ending, JobCompleted)
    assert (ending.output, ending.reason) == (None, "The output was not taken: Too much.")
    assert delivery.substitute("Its blob is not here.")
    assert isinstance(delivery.take(10**6)[0][0], JobFailed)


def test_error_that_is_refused_costs_no_retries() -> None:
    delivery = Delivery("j", 1, "w")
    delivery.close(JobFailed("j", error={"ename": "E"}, exit_code=3, reason="E: it failed"))
    assert delivery.substitute("Too much.")
    (ending,) = delivery.take(10**6)[0]
    assert isinstance(ending, JobFailed)
    assert (ending.error, ending.exit_code, ending.reason, ending.final) == (None, 3, "E: it failed", False)
    assert not delivery.substitute("Still.")
