"""What a worker may have of the queue's jobs, by the principal who speaks for it."""

from __future__ import annotations

from collections.abc import Iterable

from zbrain_nb.model.access import EVERY_JOB, Principal, WorkerBinding
from zbrain_nb.model.errors import Forbidden
from zbrain_nb.model.job import Job, Resources
from zbrain_nb.queue.branches import Want


def want_of(kinds: Iterable[str], org_id: str | None, binding: WorkerBinding, free: Resources | None) -> Want:
    """Return what a worker takes that names an org, or none, within what it may have."""
    orgs = binding.orgs
    if org_id is not None:
        orgs = frozenset((org_id,)) if orgs is None or org_id in orgs else frozenset()
    return Want.of(kinds, orgs, binding.owner, free)


def binding_of(scope: Principal | None) -> WorkerBinding:
    """Return what a worker of who asks may have."""
    return EVERY_JOB if scope is None else scope.binding


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
            raise Forbidden(f"This worker's token is for the pool {binding.pool}, not for {kind}.")
