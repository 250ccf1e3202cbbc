"""Keeping the files of ended attempts: uploaded to the queue."""

from __future__ import annotations

import asyncio
import logging

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import JobArtifact
from zbrain_nb.worker.collect import Found, hash_file, open_beneath
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.patience import Patience, is_passing

log = logging.getLogger(__name__)


class UploadKeeper:
    """A `finishing.Keeper` that uploads; while the queue is away it waits.

    Parameters
    ----------
    link : Link
        To the queue.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def keep(self, found: Found) -> JobArtifact:
        """See `finishing.Keeper`."""
        file = await asyncio.to_thread(open_beneath, found.root, found.path)
        with file:
            sha256, size = await asyncio.to_thread(hash_file, file)
            patience = Patience()
            while True:
                try:
                    if not await self._link.has_blob(sha256):
                        await self._link.put_blob(sha256, file)
                    return JobArtifact(name=found.name, sha256=sha256, size=size)
                except ZBrainError as error:
                    if not is_passing(error):
                        raise
                    log.warning("upload waits for the queue", extra={"file": found.name, "why": str(error)})
                await patience.wait()
