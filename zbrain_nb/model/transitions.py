"""The state machine: which state may follow which, and the one function that changes a state.

::

                 lease                 complete
    (submit) ──► pending ────────► running ────────► succeeded
                  │ ▲  cancel         │ │  fail, poison
                  │ └──────────┐      │ └──────────► failed
                  │            │      │ cancel
                  │            │      ├────────────► canceled
                  │            │      │ fail with retries left, lost
                  │          lease    ▼
                  │         ┌───── retrying ───────► canceled, failed
                  ▼         ▼
              canceled   running

``retrying`` means automatic back-off only. Terminal states absorb. `pending` becomes `failed` when a parent
did not succeed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zbrain_nb.model.errors import WrongState
from zbrain_nb.model.job import Job, JobState

ALLOWED: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.CANCELED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.RETRYING, JobState.CANCELED}),
    JobState.RETRYING: frozenset({JobState.RUNNING, JobState.CANCELED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELED: frozenset(),
}


def advance(job: Job, patch: dict[str, Any]) -> Job:
    """Return `job` with the fields of `patch` replaced; the only place where a job changes.

    Parameters
    ----------
    job : Job
        Not changed.
    patch : dict
        New values by field name, as Python values. The same dict, as JSON, is what the store appends and what
        events carry in ``data``, so a job can be rebuilt by applying its patches in order.

    Raises
    ------
    WrongState
        If the patch moves to a state that may not follow the present one.
    """
    target = patch.get("state")
    if target is not None and target != job.state and target not in ALLOWED[job.state]:
        raise WrongState(f"Job {job.id} is {job.state}; it cannot become {target}.", state=str(job.state))
    return msgspec.structs.replace(job, **patch)


_PATCH_TYPES: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Job)}


def read_patch(data: dict[str, Any]) -> dict[str, Any]:
    """Turn a patch that came from JSON back into Python values (times, states, artifacts)."""
    return {name: msgspec.convert(value, _PATCH_TYPES[name]) for name, value in data.items()}
