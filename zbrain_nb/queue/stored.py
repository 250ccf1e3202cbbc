"""How many bytes each org and owner stores: blobs with their grants, uploads on their way, and the rows of their jobs.

Looked at before an upload's body is read and before a job is taken; told by `Grants` what was added and removed. A
blob counts once for each owner, in one org: the home of who sent it, or the org of the job that left it. An upload
counts with all that its sender has announced, from the beginning on, so that many at once do not pass a limit; one that
broke off with what lies here of it, until that is gone on with or removed.

What a running job leaves may take its owner over the limit, up to `OVERDRAFT` times it, and what they send next is
refused: any worker of a person may say that it sends for a job. What the holder of the data directory sends, or
leaves, has no grants and counts for nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from zbrain_nb.model.access import Party
from zbrain_nb.model.job import Job
from zbrain_nb.queue.quotas import QuotaBook, over_stored, too_much_left
from zbrain_nb.queue.rowbytes import RowBytes
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.grants import Charge, stored_sizes
from zbrain_nb.store.storage import Storage
from zbrain_nb.store.uploads import Upload, accounts_of, short_name, size_of

_QUOTA = "stored_bytes"
#: How many times the limit may be stored with what running jobs leave.
OVERDRAFT = 2


class Hold:
    """What one upload, or what lies here of it, counts."""

    __slots__ = ("is_open", "names", "path", "size")

    def __init__(self, path: Path, names: Party, *, is_open: bool) -> None:
        self.path = path
        #: Of org and owner, as `short_name` makes them.
        self.names = names
        self.size = 0
        self.is_open = is_open


class StoredBytes:
    """What all orgs and owners store.

    Parameters
    ----------
    quotas : QuotaBook
        How much they may.
    artifacts : ArtifactStore
        Where uploads lie.
    account : str
        Who holds the data directory.

    Attributes
    ----------
    rows : RowBytes
        Told what commits write.
    """

    def __init__(self, quotas: QuotaBook, artifacts: ArtifactStore, account: str) -> None:
        self._quotas = quotas
        self._artifacts = artifacts
        self._account = account
        self.rows = RowBytes(account)
        #: By ``org`` or ``owner`` and name. Changed only in the writer's thread, when the grants are.
        self._charged: Counter[tuple[str, str]] = Counter()
        self._held: Counter[tuple[str, str]] = Counter()
        self._holds: dict[Path, Hold] = {}

    async def load(self, storage: Storage) -> None:
        """Begin with what the store and the folder of uploads hold."""
        self._charged, self._held, self._holds = Counter(), Counter(), {}
        self.add(await storage.read(stored_sizes))
        for path in await asyncio.to_thread(self._artifacts.parts):
            if names := accounts_of(path):
                self._enter(Hold(path, names, is_open=False), size_of(path))
        self.rows = RowBytes(self._account)
        await self.count_rows(storage)

    async def count_rows(self, storage: Storage) -> None:
        """Count anew what rows take, if anybody has a limit: when one is set, and when old rows are gone."""
        if self._quotas.limits(_QUOTA):
            await self.rows.count(storage)

    def used(self, of: str, name: str) -> int:
        """Return how many bytes the ``org`` or ``owner`` of that name stores."""
        return self.files(of, name) + self.rows.used(of, name)

    def files(self, of: str, name: str) -> int:
        """Return how many bytes of that are files."""
        return self._charged[of, name] + self._held[of, short_name(name)]

    def add(self, charges: Iterable[Charge]) -> None:
        """Count what was granted."""
        for org_id, owner, size in charges:
            self._charged["org", org_id] += size
            self._charged["owner", owner] += size

    def remove(self, charges: Iterable[Charge]) -> None:
        """Give back what is granted no longer."""
        self.add((org_id, owner, -size) for org_id, owner, size in charges)

    def check_jobs(self, jobs: Sequence[Job], specs: Sequence[bytes], coming: Counter[tuple[str, str]]) -> None:
        """Refuse new jobs for whose specs there is no room.

        Parameters
        ----------
        coming : Counter
            How much the commit under way adds besides; what these jobs add is added to it.

        Raises
        ------
        OverQuota
            Naming the limit and how much of it is used.
        """
        if not self._quotas.limits(_QUOTA):
            return
        more: Counter[tuple[str, str]] = Counter()
        for job, spec in zip(jobs, specs, strict=True):
            if job.owner != self._account:
                more["org", job.org_id] += len(spec)
                more["owner", job.owner] += len(spec)
        for (of, name), size in more.items():
            limit, used = self._quotas.of(of, name).stored_bytes, self.used(of, name) + coming[of, name]
            if limit is not None and used + size > limit:
                raise over_stored(of, name, limit, used, 0 if used > limit else size)
        coming.update(more)

    def check(self, payer: Party | None, more: int, *, leaves: bool = False) -> None:
        """Refuse bytes for which there is no room; None has no limits.

        Parameters
        ----------
        leaves : bool
            Whether a running job leaves them.

        Raises
        ------
        OverQuota
            Naming the limit and how much of it is used.
        TooLarge
            The same of what a job leaves: it does not wait for room, for its end waits for it.
        """
        if payer is not None and self._quotas.limits(_QUOTA):
            self._check(payer, more, leaves=leaves)

    def _check(self, payer: Party, more: int, *, leaves: bool = False) -> None:
        for of, name in zip(("org", "owner"), payer, strict=True):
            limit, used = self._quotas.of(of, name).stored_bytes, self.used(of, name)
            if limit is None:
                continue
            if leaves and used + more > limit * OVERDRAFT:
                raise too_much_left(of, name, limit, used, more)
            if not leaves and used + more > limit:
                raise over_stored(of, name, limit, used, more)

    # Uploads

    def begin(self, payer: Party, upload: Upload) -> Hold:
        """Count an upload that has begun or is gone on with, as yet with what lies here of it (see `reserve`)."""
        hold = Hold(upload.path, (short_name(payer[0]), short_name(payer[1])), is_open=True)
        former = self._holds.pop(upload.path, None)
        if former is not None:  # what lay here, or a connection that this one displaces
            self._count(former, 0)
        self._enter(hold, upload.size_bytes)
        return hold

    def reserve(self, hold: Hold, size: int, payer: Party | None, *, leaves: bool = False) -> None:
        """Let an upload count `size` bytes, if it does not yet.

        Parameters
        ----------
        payer : Party or None
            Whose limits hold; None if nobody's do.
        leaves : bool
            See `check`.

        Raises
        ------
        OverQuota
            If there is no room for them.
        """
        if size > hold.size and self._holds.get(hold.path) is hold:
            self.check(payer, size - hold.size, leaves=leaves)
            self._count(hold, size)

    def end(self, hold: Hold) -> None:
        """Count of an upload that is over only what lies here of it, if anything does."""
        hold.is_open = False
        if self._holds.get(hold.path) is hold:
            self._count(hold, size_of(hold.path))
            if not hold.size:
                del self._holds[hold.path]

    def forget_parts(self) -> None:
        """Give back what of broken uploads was removed."""
        for hold in [hold for hold in self._holds.values() if not hold.is_open]:
            self.end(hold)

    def _enter(self, hold: Hold, size: int) -> None:
        self._holds[hold.path] = hold
        self._count(hold, size)

    def _count(self, hold: Hold, size: int) -> None:
        for account in zip(("org", "owner"), hold.names, strict=True):
            self._held[account] += size - hold.size
        hold.size = size
