"""What the owner of a job may do in its org by now: a job outlives the login that it was submitted with.

Asked when a job is about to be handed to a worker of somebody else, and whenever the token of an attempt is shown. What
a kept token submitted ends with that token, of which `Tokens` knows; what came by a login ends with the membership, of
which only the login's own system knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.job import Job

#: Returns what a person may do by now, or None if there is nobody of that name.
Person = Callable[[str], Awaitable[Principal | None]]


class Standing:
    """Knows what owners of jobs may do by now.

    Parameters
    ----------
    holder : Principal
        Who holds the data directory.
    person : callable, optional
        Asks the system in which people log in; None if they have tokens of the host alone.
    """

    def __init__(self, holder: Principal, person: Person | None) -> None:
        self._holder = holder
        self._person = person

    async def role_of(self, job: Job) -> Role | None:
        """Return the role that the job's owner has in its org, at most a submitter's; None if they are no member.

        Raises
        ------
        Unavailable
            If that cannot be told now.
        """
        if self._person is None or job.origin:
            return Role.SUBMITTER
        found = await self._person(job.owner)
        if found is None and job.owner == self._holder.owner:
            found = self._holder
        role = None if found is None else found.role_in(job.org_id)
        return role if role is None or Role.SUBMITTER.reaches(role) else Role.SUBMITTER

    async def may_run(self, job: Job) -> bool:
        """Whether its owner may still have the job run; raises as `role_of` does."""
        return await self.role_of(job) is Role.SUBMITTER
