"""Under which name the jobs of who holds the data directory are kept.

The host asks once when it starts. The name stays with the directory, also when it is restored elsewhere or served from
another account: a host that took another one for itself would find its own jobs to be somebody else's.
"""

from __future__ import annotations

import logging

from zbrain_nb.model.account import account_name
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import TOKEN_TAG
from zbrain_nb.store import queries, waiting
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)

_KEY = "holder"


async def holder_name(storage: Storage, *, has_logins: bool) -> str:
    """Return the name, and keep it when it is asked for first.

    A directory of before names were kept goes on with that of its last job: what was submitted with no other token was
    with the directory's own.

    Parameters
    ----------
    storage : Storage
        Of the directory.
    has_logins : bool
        Whether people log in by another system: their jobs come with no token either.
    """
    kept = await storage.read(waiting.meta, _KEY)
    if kept is not None:
        return kept
    names = [] if has_logins else await storage.read(queries.owners_without_token, TOKEN_TAG)
    name = names[0] if names else account_name()
    if len(names) > 1:
        log.warning(
            "The data directory's own jobs have several names; its worker goes on with those of the last one. Jobs of "
            "the others that wait run if the host is started once with ZWORKER_RUNS_OTHERS=1.",
            extra={"holder": name, "others": names[1:]},
        )
    try:
        await storage.write(lambda database: database.save_meta(_KEY, name))
    except ZBrainError as error:  # a full disk is no reason not to start
        log.warning("The holder's name could not be kept.", extra={"holder": name, "why": error.message})
    return name
