"""What a worker may have of the queue's jobs, by the principal who speaks for it and by whether it keeps people apart.

A worker runs jobs in one account unless its token says that it isolates them. In one account everybody's jobs could
read and change each other, so such a worker has jobs of one person alone: of whom its token names, else of its token's
owner. That holds for the host's own worker too: in the account of who holds the data directory lies the token that
opens all of it. Only they may say that it runs the jobs of others nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from zbrain_nb.model.access import EVERY_JOB, Principal, WorkerBinding
from zbrain_nb.model.errors import Forbidden
from zbrain_nb.model.job import Job, Resources
from zbrain_nb.model.protocol import WorkerInfo
from zbrain_nb.queue.branches import Want


def want_of(kinds: Iterable[str], org_id: str | None, binding: WorkerBinding, free: Resources | None) -> Want:
    """Return what a worker takes that names an org, or none, within what it may have."""
    orgs = binding.orgs
    if org_id is not None:
        orgs = frozenset((org_id,)) if orgs is None or org_id in orgs else frozenset()
    return Want.of(kinds, orgs, binding.owner, free)


def right_of(scope: Principal | None) -> WorkerBinding:
    """Return which jobs the workers of who asks may have at all: what they hold beyond that is taken from them."""
    return EVERY_JOB if scope is None else scope.binding


def binding_of(scope: Principal | None, info: WorkerInfo) -> WorkerBinding:
    """Return what this worker of who asks is leased from now on: its right, narrowed for one account.

    What it holds by then it goes on with. That runs in its account anyway: to end it would protect nobody.
    """
    if scope is None:
        return EVERY_JOB
    binding = scope.binding
    if binding.isolates or binding.owner is not None or (scope.is_holder and (info.isolates or info.runs_others)):
        return binding
    return msgspec.structs.replace(binding, owner=scope.owner)


def notice_of(info: WorkerInfo) -> str | None:
    """Return what to tell who started a worker that gets less than its token is for; None if there is nothing."""
    if not info.is_shared or info.owner is None or not info.holder:  # who holds all has seldom jobs of others
        return None
    return (
        f"Its token is for jobs of several people, but it runs all in one account: it gets those of {info.owner} alone."
        f" For others start workers with tokens of their own: `{_token_command(info.kind)} --jobs-of NAME`."
    )


def refusal(kind: str, owner: str) -> str:
    """Return why the jobs of somebody wait at workers that would run them in the account of somebody else."""
    return (
        f"Waiting for a worker of kind {kind} for jobs of {owner}: those that are here run all jobs in one account and"
        f" refuse the jobs of other people. Start one with a token of `{_token_command(kind)} --jobs-of {owner}`."
    )


def _token_command(kind: str) -> str:
    return f"zbrain token create --kind worker --pool {kind}"


def is_of(holder: str | None, owner: str) -> bool:
    """Whether a worker is a person's own, or of who holds the data directory, by who registered it."""
    if not holder:
        return holder is not None
    return bool(msgspec.json.decode(holder)[1] == owner)  # as `Principal.holder` writes it


def admits(binding: WorkerBinding, job: Job) -> bool:
    """Whether a worker may have the job."""
    return binding is EVERY_JOB or binding.admits(job.org_id, job.owner, job.spec.kind)


def check_pool(binding: WorkerBinding, kinds: Iterable[str]) -> None:
    """Refuse kinds of jobs that are not the pool's.

    Raises
    ------
    Forbidden
        Naming the first.
    """
    for kind in kinds:
        if binding.pool not in (None, kind):
            raise Forbidden(
                f"This worker's token is for the pool {binding.pool}, not for {kind}.",
                f"Start it with `--pool {binding.pool}`.",
            )
