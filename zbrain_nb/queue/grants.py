"""Who may name which blob: to know a hash is worth nothing, one has to have sent the bytes, or own what made them.

Asked by the queue before a submit or a worker's event is taken, and by the routes for blobs. A blob without a grant
is answered exactly like one that is not here, before its file is looked at. Sharing on disk stays invisible.

Grants come from uploads, in each org where the sender may submit, and from jobs: what a job has left, its owner may
name in its org. A job that is repeated lends its blobs to who repeats it, who sees it: no grant comes of that. Whoever
holds the data directory could read the files; they need no grants, nor do their jobs leave any.

With them comes what a blob counts for whose limits (`StoredBytes`).

A grant is added when its blob lies in place, and removed when it is gone: at worst an owner may name a little longer
what was theirs to read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping

from zbrain_nb.model.access import Party, Principal
from zbrain_nb.model.job import Job
from zbrain_nb.queue.stored import StoredBytes
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.grants import Grant, granted_blobs, grants_of, stored_grants
from zbrain_nb.store.storage import Storage


class Grants:
    """The grants of one store.

    Parameters
    ----------
    storage, artifacts : Storage, ArtifactStore
        Where they and the blobs are kept.
    account : str
        Who holds the data directory.
    stored : StoredBytes
        Told what comes and goes.
    """

    def __init__(self, storage: Storage, artifacts: ArtifactStore, account: str, stored: StoredBytes) -> None:
        self._storage = storage
        self._artifacts = artifacts
        self._account = account
        self._bytes = stored

    async def has(self, sha256: str, scope: Principal) -> bool:
        """Whether the blob is here and to send it again would give who asks nothing more; if so, it is young now.

        A worker's token is never told so: what a worker sent was of one owner, and the next must not notice.
        """
        if not scope.is_holder:
            self._artifacts.path(sha256)
            wanted = grants_of(scope.parties, [sha256])
            if scope.worker is not None or not wanted or await self._stored(wanted) != wanted:
                return False
        return await asyncio.to_thread(self._artifacts.has, sha256)

    async def add(self, sha256: str, scope: Principal, org_id: str | None = None) -> None:
        """Let who has sent a blob, which is here, name it.

        Parameters
        ----------
        org_id : str, optional
            Where it counts, if that is not the home of who has sent it.
        """
        if scope.is_holder:
            return
        wanted = dict.fromkeys(grants_of(scope.parties, [sha256]), 0)
        if scope.payer is not None:
            home, owner = scope.payer
            paid = (org_id or home, owner, sha256)
            wanted[paid] = await asyncio.to_thread(self._artifacts.size, sha256)
        new = wanted.keys() - await self._stored(set(wanted))
        await self._save({grant: wanted[grant] for grant in new})

    async def missing(self, used: Mapping[str, Collection[Party]], scope: Principal | None) -> list[str]:
        """Return those blobs that are not here, or not granted to all who use them, in order; the others are young now.

        Parameters
        ----------
        used : mapping of str to collection of Party
            Who uses each blob.
        scope : Principal or None
            Who asks.
        """
        names = list(used)
        if scope is not None and not scope.is_holder:
            wanted = {(*party, name) for name, parties in used.items() for party in parties}
            refused = {name for *_, name in wanted - await self._stored(wanted)}
            names = [name for name in names if name not in refused]
        absent = await asyncio.to_thread(self._artifacts.missing, names) if names else []
        here = set(names).difference(absent)
        return [name for name in used if name not in here]

    async def take_left(self, left: Iterable[tuple[Job, str]], scope: Principal | None) -> set[tuple[str, str]]:
        """Let the owners of jobs name the blobs that the jobs have left, as far as who reports them may.

        Parameters
        ----------
        left : iterable of (Job, str)
            Blobs, each with the job.
        scope : Principal or None
            Who reports.

        Returns
        -------
        set of (str, str)
            By job and blob: what is not here, or is not for the reporter to give.
        """
        left = list(left)
        if not left:
            return set()
        theirs = {(job.id, name): (job.org_id, job.owner, name) for job, name in left}
        wanted = {grant for grant in theirs.values() if grant[1] != self._account}
        stored: set[Grant] = set()
        given = set(theirs)
        if scope is not None and not scope.is_holder:
            own = grants_of(scope.parties, [name for _, name in left])
            stored = await self._stored({*theirs.values(), *own})
            sent = {name for *_, name in stored & own}
            given = {one for one, grant in theirs.items() if grant in stored or one[1] in sent}
        elif wanted:
            stored = await self._stored(wanted)
        names = list({name for _, name in given})
        absent = set(await asyncio.to_thread(self._artifacts.missing, names)) if names else set()
        given = {one for one in given if one[1] not in absent}
        new = {theirs[one] for one in given} & wanted - stored
        sizes = await asyncio.to_thread(lambda: {name: self._artifacts.size(name) for _, _, name in new})
        await self._save({grant: sizes[grant[2]] for grant in new})
        return theirs.keys() - given

    async def forget_gone(self) -> None:
        """Remove the grants of blobs that are not here any more.

        What is sent again meanwhile keeps them: the file is looked for once more in the turn of the writer, and an
        upload adds its grant only when the file is there.
        """
        self._bytes.forget_parts()
        artifacts = self._artifacts
        names = await self._storage.read(granted_blobs)
        gone = await asyncio.to_thread(artifacts.gone, names)
        if gone:
            removed = self._bytes.remove
            await self._storage.write(lambda database: removed(database.forget_grants(artifacts.gone(gone))))

    async def _stored(self, wanted: set[Grant]) -> set[Grant]:
        return await self._storage.read(stored_grants, wanted)

    async def _save(self, grants: dict[Grant, int]) -> None:
        if grants:
            added = self._bytes.add
            await self._storage.write(lambda database: added(database.save_grants(grants)))
