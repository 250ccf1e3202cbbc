"""Under which name the jobs of who holds the data directory are kept.

The host asks once when it starts. The name stays with the directory, also when it is restored elsewhere or served from
another account: a host that took another one for itself would find its own jobs to be somebody else's.
"""

from __future__ import annotations

import logging
import os

from zbrain_nb.model.account import account_name
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import TOKEN_TAG
from zbrain_nb.store import queries, waiting
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)

_KEY = "holder"
#: What named an account before names were kept, as `getpass.getuser` reads it.
_NAMED_BY = ("LOGNAME", "USER", "LNAME", "USERNAME")


async def holder_name(storage: Storage, *, has_logins: bool) -> str:
    """Return the name, and keep it when it is asked for first.

    A directory of before names were kept goes on with the last one of its jobs that is this account's too, by its uid
    or by LOGNAME and the like, which named it then. The jobs alone name nobody: who logged in by another system could
    have had theirs run in the account of who opens the directory later. Where people log in, or did, no job names
    anybody; that jobs of this account's other names are left is said nevertheless.

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
    names = await storage.read(queries.owners_without_token, TOKEN_TAG)
    ours = {account_name(), *(os.environ.get(variable, "") for variable in _NAMED_BY)}
    may_name = not has_logins and not await storage.read(queries.has_own_orgs)
    name = next((name for name in names if may_name and name in ours), account_name())
    others = [other for other in names if other != name and (other in ours or not has_logins)]
    if others:
        log.warning(
            "The data directory has jobs of other names that came with no token of theirs; its worker goes on with "
            "those of its own account. If you trust the others with all that this may, jobs of theirs that wait run "
            "once the host is started with ZWORKER_RUNS_OTHERS=1.",
            extra={"holder": name, "others": others},
        )
    try:
        await storage.write(lambda database: database.save_meta(_KEY, name))
    except ZBrainError as error:  # a full disk is no reason not to start
        log.warning("The holder's name could not be kept.", extra={"holder": name, "why": error.message})
    return name
