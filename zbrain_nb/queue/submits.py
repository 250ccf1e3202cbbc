"""Submits: what a caller sends becomes a job of the queue's own, once for each idempotency key."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import msgspec

from zbrain_nb.model.access import Party
from zbrain_nb.model.checks import check_org_id, check_text
from zbrain_nb.model.errors import Conflict, InvalidSpec, KeyConflict, ZBrainError
from zbrain_nb.model.job import MAX_NAME, Job, JobSpec, JobState, submitted_with
from zbrain_nb.queue.clock import as_datetime
from zbrain_nb.queue.index import Index
from zbrain_nb.queue.keys import FirstOf, KeyOf
from zbrain_nb.queue.turn import LookAgain, Turn
from zbrain_nb.store.rows import encode
from zbrain_nb.store.storage import is_id

#: Of all tags of a job, as JSON: they are kept beside the spec too. It holds for new jobs; old ones may have more.
MAX_TAGS_BYTES = 8 * 1024
_sorted = msgspec.json.Encoder(order="sorted", enc_hook=str)


NO_BLOCKERS: frozenset[str] = frozenset()
#: So many jobs of a circle are named in words.
MAX_NAMED = 8


class Accepted(NamedTuple):
    """A submitted job, and whether it had been submitted before under the same idempotency key."""

    job: Job
    deduplicated: bool


def as_job(given: Job | JobSpec, owner: str | None, default_owner: str, default_org: str) -> Job:
    """Return the queue's own copy of what was submitted.

    Raises
    ------
    InvalidSpec
        If it is neither a new `Job` nor a `JobSpec`, or its tags are too long.
    """
    if owner is not None and owner != default_owner:
        check_text("owner", owner, MAX_NAME)
    if type(given) is JobSpec:
        _check_tags(given)
        return Job(given, owner=owner or default_owner, org_id=given.org_id or default_org)
    if not isinstance(given, Job):
        raise InvalidSpec(f"A Job or a JobSpec can be submitted, not {type(given).__name__}.")
    if given.state is not JobState.PENDING or given.attempt:
        raise InvalidSpec("Only a new job can be submitted.", "Use retry_job to run one again.", field="state")
    if given.org_id:
        check_org_id("org_id", given.org_id)
    if not is_id(given.id):
        raise InvalidSpec(f"{str(given.id)[:80]!r} is no job id.", field="id")
    _check_tags(given.spec)
    return Job(
        given.spec,
        id=given.id,
        owner=owner or given.owner or default_owner,
        org_id=given.org_id or given.spec.org_id or default_org,
        created_at=given.created_at,
        retry_of=given.retry_of,
    )


def _check_tags(spec: JobSpec) -> None:
    if spec.tags and len(encode(spec.tags)) > MAX_TAGS_BYTES:
        raise InvalidSpec(
            f"tags are over {MAX_TAGS_BYTES >> 10} KiB as JSON.", "Put what is long into input.", field="tags"
        )


def needs_checks(spec: JobSpec) -> bool:
    """Whether a submit has to look at more than itself: keys, parents, blobs."""
    return bool(spec.idempotency_key is not None or spec.after or spec.inputs or spec.function is not None)


def payload_hash(job: Job) -> str | None:
    """Return a hash of all that the caller asked for, if there is an idempotency key to guard."""
    if job.spec.idempotency_key is None:
        return None
    digest = hashlib.sha256(_sorted.encode(submitted_with(job.spec, "")))  # a key outlives a token's replacement
    digest.update(f"\0{job.org_id}\0{job.retry_of or ''}".encode())
    return digest.hexdigest()


def blobs_of(jobs: Sequence[Job]) -> dict[str, set[Party]]:
    """Return the blobs that the jobs read, in order, and as whom."""
    used: dict[str, set[Party]] = {}
    for job in jobs:
        for sha256 in job.spec.blobs:
            used.setdefault(sha256, set()).add((job.org_id, job.owner))
    return used


def decide_plain(turn: Turn) -> None:
    """Accept one job, the turn's subject, that needs no checks."""
    job: Job = turn.subject
    if turn.entry(job.id) is not None:
        raise _taken(job)
    spec = encode(job.spec)
    turn.check_room((job,), (spec,))
    turn.create(job, NO_BLOCKERS, spec=spec)


def decide_many_plain(turn: Turn, jobs: Sequence[Job], first_hash: str | None = None) -> None:
    """Accept jobs, all or none, that need no checks and whose ids were made for them.

    `first_hash` is kept with the first, if that bears an idempotency key.
    """
    specs = []
    for position, job in enumerate(jobs):
        try:
            specs.append(encode(job.spec))
        except InvalidSpec as error:
            if len(jobs) > 1:
                error.details.setdefault("index", position)
            raise
    turn.check_room(jobs, specs)
    for job, spec in zip(jobs, specs, strict=True):
        turn.create(job, NO_BLOCKERS, first_hash, spec)
        first_hash = None


def decide_batch(turn: Turn, index: Index, jobs: Sequence[Job], stored_keys: Mapping[KeyOf, FirstOf]) -> list[Accepted]:
    """Accept jobs, all or none.

    Parameters
    ----------
    stored_keys : dict
        Idempotency keys found in the store, which the index may not know.

    Raises
    ------
    InvalidSpec, KeyConflict, Conflict
        If one does not hold; ``details["index"]`` says which.
    """
    new = {job.id: job for job in jobs}
    firsts: list[Job | None] = []
    seen: dict[KeyOf, FirstOf] = {}
    hashes: list[str | None] = []
    specs: list[bytes] = []
    for position, job in enumerate(jobs):
        try:
            specs.append(encode(job.spec))
            digest = payload_hash(job)
            first = _first_of_key(turn, job, digest, (seen, stored_keys), new)
            if first is None:
                if turn.entry(job.id) is not None or new[job.id] is not job:
                    raise _taken(job)
                _check_parents(turn, job, new)
                if digest is not None:
                    seen[job.owner, job.spec.idempotency_key or ""] = job.id, digest
        except ZBrainError as error:
            if len(jobs) > 1:
                error.details.setdefault("index", position)
            raise
        firsts.append(first)
        hashes.append(digest)
    created = [job for job, first in zip(jobs, firsts, strict=True) if first is None]
    extras = {job.id: (digest, spec) for job, digest, spec in zip(jobs, hashes, specs, strict=True)}
    firsts_of = {job.id: first.id for job, first in zip(jobs, firsts, strict=True) if first is not None}
    for job in created:
        if not firsts_of.keys().isdisjoint(job.spec.after):  # it waits for what was submitted before under its key
            after = [firsts_of.get(parent_id, parent_id) for parent_id in job.spec.after]
            job.spec = msgspec.structs.replace(job.spec, after=after)
            extras[job.id] = extras[job.id][0], encode(job.spec)
    positions = {job.id: position for position, job in enumerate(jobs)} if len(jobs) > 1 else {}
    created = _parents_first(created, positions)
    turn.check_room(created, [extras[job.id][1] for job in created])
    for job in created:
        _create(turn, index, job, *extras[job.id])
    answers = []
    for job, first in zip(jobs, firsts, strict=True):
        chosen = first or job
        if first is not None:
            turn.touch(first.id)
        entry = turn.entry(chosen.id)
        answers.append(Accepted(entry.job if entry else chosen, first is not None))
    return answers


def _first_of_key(
    turn: Turn,
    job: Job,
    digest: str | None,
    known_keys: tuple[Mapping[KeyOf, FirstOf], ...],
    new: dict[str, Job],
) -> Job | None:
    if digest is None:
        return None
    key = job.owner, job.spec.idempotency_key or ""
    known = turn.first_of(key) or next((found for keys in known_keys if (found := keys.get(key))), None)
    if known is None:
        return None
    job_id, payload = known
    if payload != digest:
        raise KeyConflict(
            f"The idempotency key {key[1]!r} was used before, with another payload (job {job_id}).",
            "Use another key.",
            job_id=job_id,
        )
    entry = turn.entry(job_id)
    first = entry.job if entry is not None else new.get(job_id)
    if first is None and turn.is_absent(job_id):  # it outlived its life time: the key is free again
        return None
    if first is None:  # it came, and left the memory, between this submit's look-ups and its turn
        raise LookAgain(f"The first job of the key {key[1]!r} has to be looked up again.", "Try again.", ids=[job_id])
    return first


def _check_parents(turn: Turn, job: Job, new: dict[str, Job]) -> None:
    for parent_id in job.spec.after:
        entry = turn.entry(parent_id)
        parent = entry.job if entry is not None else new.get(parent_id)
        if parent is None or parent.org_id != job.org_id:
            raise InvalidSpec(f"after names the job {parent_id}, which does not exist.", field="after")


def _parents_first(jobs: list[Job], positions: Mapping[str, int]) -> list[Job]:
    """Return the jobs so that none stands before its parents, and otherwise as they came."""
    if not any(job.spec.after for job in jobs):
        return jobs
    places = {job.id: place for place, job in enumerate(jobs)}
    order = TopologicalSorter({job.id: [parent for parent in job.spec.after if parent in places] for job in jobs})
    try:
        order.prepare()
    except CycleError as error:
        raise _circle([jobs[places[job_id]] for job_id in reversed(error.args[1])], positions) from error
    ready: list[int] = []
    found = []
    while order.is_active():
        for job_id in order.get_ready():
            heapq.heappush(ready, places[job_id])
        job = jobs[heapq.heappop(ready)]
        found.append(job)
        order.done(job.id)
    return found


def _circle(path: list[Job], positions: Mapping[str, int]) -> InvalidSpec:
    """Return the refusal of jobs each of which waits for the next, the last being the first."""
    if len(path) == 2:
        message = f"The job {path[0].name!r} waits for itself."
    else:
        named = [f"{job.name!r} ({positions.get(job.id, job.id)})" for job in path]
        if len(named) > MAX_NAMED:
            named[MAX_NAMED // 2 : -MAX_NAMED // 2] = [f"… {len(named) - MAX_NAMED} more …"]
        message = f"The jobs wait for each other in a circle: {' -> '.join(named)}."
    details: dict[str, Any] = {"index": min(positions[job.id] for job in path)} if positions else {}
    return InvalidSpec(message, ids=[job.id for job in path], field="after", **details)


def _create(turn: Turn, index: Index, job: Job, digest: str | None, encoded: bytes) -> None:
    spec = job.spec
    blockers: set[str] = set()
    broken: Job | None = None
    for parent_id in spec.after:
        entry = turn.entry(parent_id)
        assert entry is not None, "checked before anything was created"
        turn.touch(parent_id)
        parent = entry.job
        if not parent.state.ended:
            blockers.add(parent_id)
        elif parent.state is not JobState.SUCCEEDED and not spec.after_any:
            broken = broken or parent
    if digest is not None:
        turn.claim((job.owner, spec.idempotency_key or ""), (job.id, digest))
    entry = turn.create(job, NO_BLOCKERS if broken or not blockers else blockers, digest, encoded)
    if broken is not None:
        turn.move(entry, "job_failed", parent_failed(broken, turn.now))
        return
    for parent_id in blockers:
        index.add_child(parent_id, job.id)


def parent_failed(parent: Job, now: float) -> dict[str, Any]:
    """Return the patch of a job whose parent did not succeed."""
    return {
        "state": JobState.FAILED,
        "finished_at": as_datetime(now),
        "reason": f"The job {parent.name!r} ({parent.id}), which this one waited for, is {parent.state}.",
    }


def _taken(job: Job) -> Conflict:
    return Conflict(f"A job {job.id} was submitted before.", "Make a new Job, or use retry_job.", job_id=job.id)
