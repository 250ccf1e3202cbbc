"""Whose results are loaded: loading a pickle runs whatever its maker put in.

One's own jobs are trusted: their code is one's own, and the queue leases them to nobody but one's own workers, those
of the host's account and those that an admin of the org has approved with a token. Who one is, the server says; a
job of anybody else is loaded by who asks for it in so many words.
"""

from __future__ import annotations

from collections.abc import Iterable

from zbrain_nb.model.errors import UntrustedResult
from zbrain_nb.model.job import Job


def check_trusted(jobs: Iterable[Job], me: str, what: str, how: str) -> None:
    """Refuse to load what jobs of others have left.

    Parameters
    ----------
    jobs : iterable of Job
        Whose values are about to be loaded.
    me : str
        As whom the server sees the caller.
    what : str
        What would be loaded, to go before "of the job".
    how : str
        How to load it nevertheless.

    Raises
    ------
    UntrustedResult
        Naming the first job that is another's, its owner, and the worker that ran it.
    """
    for job in jobs:
        if job.owner != me:
            ran = f", run by the worker {job.worker_id}" if job.worker_id else ""
            raise UntrustedResult(
                f"{what} of the job {job.name!r} ({job.id}) is a pickle of {job.owner!r}{ran}: loading it runs "
                f"whatever is in it, as you ({me!r}).",
                how,
                job_id=job.id,
            )
