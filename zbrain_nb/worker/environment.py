"""The environment that jobs get."""

from __future__ import annotations

import os
from collections.abc import Mapping

from zbrain_nb.model.environment import SECRET_NAMES, travelling_environ
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import Lease
from zbrain_nb.worker.request import RunRequest


def spawner_environment() -> dict[str, str]:
    """Return the environment of spawner and zygotes: what jobs may see, and what zygotes preload."""
    preload = os.environ.get("ZBRAIN_PRELOAD")
    return {**travelling_environ(), **({} if preload is None else {"ZBRAIN_PRELOAD": preload})}


def job_environment(
    job: Job, request: RunRequest, way_back: Mapping[str, str], lease: Lease | None = None
) -> dict[str, str]:
    """Return the complete environment of one attempt.

    Parameters
    ----------
    job : Job
        Whose spec may set variables.
    request : RunRequest
        Its paths.
    way_back : mapping of str to str
        How its code finds the queue (see `Link.way_back`).
    lease : Lease, optional
        Has the attempt's own token, which opens the queue to its code, and the values of its secrets.
    """
    own = {
        "ZBRAIN_JOB_ID": job.id,
        "ZBRAIN_ATTEMPT": str(job.attempt),
        "ZBRAIN_ORG": job.org_id or job.spec.org_id or "",
        "ZBRAIN_INPUT": request.input_path,
        "ZBRAIN_OUTPUT": request.output_path,
        "ZBRAIN_ARTIFACTS": request.artifacts_path,
        "ZBRAIN_CHECKPOINTS": request.checkpoints,
        "ZBRAIN_EVENTS": request.events_path,
    }
    secrets: dict[str, str] = {}
    if lease is not None and lease.token:
        own["ZBRAIN_TOKEN"] = lease.token
    if lease is not None and lease.secrets:
        secrets = lease.secrets
        own[SECRET_NAMES] = " ".join(secrets)
    unbuffered = {"PYTHONUNBUFFERED": "1"} if job.spec.cmd is not None else {}
    return {**travelling_environ(), **unbuffered, **job.spec.env, **secrets, **way_back, **own}
