"""Whose results are loaded: loading a pickle runs whatever its maker put in.

One's own jobs are trusted that were sent to no pool: their code is one's own, and the queue leases them to nobody but
one's own workers and those to whom the holder of the data directory gave a token. A pool is run by whomever an admin of
the org chose, and what it says that a job gave is trusted if one has named it (``ZBRAIN_TRUST_POOLS``), or holds the
data directory, and so has a say in who is an admin. Who one is, the server says; all else is loaded by who asks for it
in so many words. (An executor loads only what it has submitted, and submits to no pool that is not trusted.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zbrain_nb.model.errors import UntrustedResult
from zbrain_nb.model.job import OWN_KIND, Job
from zbrain_nb.model.protocol import Identified


def check_trusted(jobs: Iterable[Job], me: Identified, pools: Collection[str], what: str, how: str) -> None:
    """Refuse to load what jobs of others have left.

    Parameters
    ----------
    jobs : iterable of Job
        Whose values are about to be loaded.
    me : Identified
        As whom the server sees the caller.
    pools : collection of str
        Which are trusted.
    what : str
        What would be loaded, to go before "of the job".
    how : str
        How to load it nevertheless.

    Raises
    ------
    UntrustedResult
        Naming the first job that is another's, its owner, and the worker that ran it; or the pool of one's own.
    """
    for job in jobs:
        if job.owner != me.owner:
            ran = f", run by the worker {job.worker_id}" if job.worker_id else ""
            raise UntrustedResult(
                f"{what} of the job {job.name!r} ({job.id}) is a pickle of {job.owner!r}{ran}: loading it runs "
                f"whatever is in it, as you ({me.owner!r}).",
                how,
                job_id=job.id,
            )
        check_pool(job.spec.kind, me, pools, f"{what} of the job {job.name!r} ({job.id})", f"{how} Or")


def check_pool(kind: str, me: Identified, pools: Collection[str], what: str, how: str = "") -> None:
    """Refuse to load what a pool gives that is not trusted; parameters are those of `check_trusted`.

    Raises
    ------
    UntrustedResult
        Naming the pool.
    """
    if kind == OWN_KIND or kind in pools or me.roles is None:
        return
    raise UntrustedResult(
        f"{what} is a pickle that the pool {kind!r} made: loading it runs whatever who operates that put in, as you "
        f"({me.owner!r}).",
        f"{how} set ZBRAIN_TRUST_POOLS={kind} if you trust them.".strip(),
    )
