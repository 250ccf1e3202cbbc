"""Callbacks outlive a server that is away, and share one socket; who waits gets no logs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from zbrain_nb import Client, JobGroup, JobHandle, JobState
from zbrain_nb.client import watching
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import JobNotFound, OverQuota, ServerUnreachable, Unavailable, ZBrainError

AWAY = (ServerUnreachable("Nobody answers."), OverQuota("Too many sockets."), Unavailable("Not now."))


@pytest.fixture
def asked(client: Client, gate: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The topics of each socket that is opened; for the first three the server is away, then the gate opens."""
    monkeypatch.setattr(watching, "RETURN_SECS", 0.0)
    topics: list[list[str]] = []
    events = Transport.events

    def note(self: Transport, wanted: list[str], *args: Any, **options: Any) -> Any:
        topics.append(wanted)
        if len(topics) <= len(AWAY):
            raise AWAY[len(topics) - 1]
        gate.touch()
        return events(self, wanted, *args, **options)

    monkeypatch.setattr(Transport, "events", note)
    return topics


def test_callbacks_of_a_handle_outlive_an_absence_and_share_one_socket_without_logs(
    client: Client, gate: Path, asked: list[list[str]]
) -> None:
    job = client.submit(["sh", "-c", f"until [ -e {gate} ]; do echo waiting; sleep 0.02; done"])
    ended: list[JobState] = []
    calls = [job.add_done_callback(lambda handle: ended.append(handle.job.state)) for _ in range(3)]
    for call in calls:
        call.result(60)
    assert ended == [JobState.SUCCEEDED] * 3
    assert asked == [[f"states/{job.id}"]] * (len(AWAY) + 1)


def test_callback_of_a_group_outlives_an_absence(client: Client, gate: Path, asked: list[list[str]]) -> None:
    wait = ["sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done"]
    group = JobGroup(client, [client.submit(wait), client.submit(wait)])
    ended: list[dict[str, int]] = []
    call = group.add_done_callback(lambda group: ended.append(group.last_counts()))
    call.result(60)
    assert ended == [{"succeeded": 2}]
    assert len(asked) == len(AWAY) + 1


def test_who_is_held_up_is_told_of_the_absence(client: Client, gate: Path, asked: list[list[str]]) -> None:
    job = client.submit(["sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done"])
    with pytest.raises(ServerUnreachable):
        job.wait(60)
    gate.touch()


def test_job_that_is_not_known_any_more_ends_a_watch_and_the_next_callback_looks_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: JobHandle = client.submit(["true"])
    wait = client.asynchronous.wait
    answers: list[Callable[[str], Awaitable[Any]]] = [_unknown, wait]

    async def answer(job_id: str) -> Any:
        return await answers.pop(0)(job_id)

    monkeypatch.setattr(client.asynchronous, "wait", answer)
    seen: list[JobHandle] = []
    assert isinstance(job.add_done_callback(seen.append).exception(60), JobNotFound)
    job.add_done_callback(seen.append).result(60)
    assert seen == [job]


async def _unknown(_: str) -> ZBrainError:
    raise JobNotFound("There is no such job.")
