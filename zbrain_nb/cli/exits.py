"""With which code ``zbrain`` ends."""

from __future__ import annotations

from zbrain_nb.model.errors import NotFound, ServerUnreachable, Unauthorized, UsageError, ZBrainError
from zbrain_nb.model.job import Job, JobState

FAILED = 1
USAGE = 2
NOT_FOUND = 3
NO_SERVER = 4
TIMED_OUT = 124
INTERRUPTED = 130
EXIT_CODES = (
    f"0 done; {FAILED} an error; {USAGE} wrong usage; {NOT_FOUND} no such job or file; {NO_SERVER} no server answers, "
    f"or it refuses the token; {INTERRUPTED} interrupted. `run`, `logs -f` and `result` end with the job's own code: "
    f"that of its command, 128 and the signal that killed it, {TIMED_OUT} over its time, {INTERRUPTED} canceled, else "
    f"{FAILED}"
)


def exit_code_of(error: ZBrainError) -> int:
    """Return the code that stands for an error."""
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, (ServerUnreachable, Unauthorized)):
        return NO_SERVER
    return USAGE if isinstance(error, UsageError) else FAILED


def exit_code_of_job(job: Job) -> int:
    """Return the code that stands for how a job ended, as a shell would give it for its command."""
    if job.state is JobState.SUCCEEDED:
        return 0
    if job.state is JobState.CANCELED:
        return INTERRUPTED
    error = job.error or {}
    # one that the code itself raised has its name in the reason
    if error.get("ename") == "TimeoutError" and error.get("evalue") == job.reason:
        return TIMED_OUT
    code = job.exit_code or 0
    return code if code > 0 else 128 - code if code < 0 else FAILED
