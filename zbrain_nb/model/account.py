"""The account that this process runs in. It says who somebody is on this machine, never what they may do."""

from __future__ import annotations

import os
import pwd


def account_name() -> str:
    """Return the name of this process's account, or its number if it has none.

    By its uid: LOGNAME and USER hold what sudo, cron or a container's start script left there, and are others the next
    time.
    """
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container that is given any uid
        return str(uid)
