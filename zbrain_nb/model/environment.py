"""Which environment variables travel: to the job from the notebook, the command line and the worker alike."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# What belongs to Jupyter, the Hub, this queue or a cloud account is not the job's.
_WITHHELD = re.compile(r"JPY_|JUPYTERHUB_|ZBRAIN_|ZDB_|ZWORKER_|ZDEFAULT_|.*(TOKEN|SECRET|PASSWORD|KEY)", re.IGNORECASE)


def travelling_environ(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what of an environment a job may see: no token, no secret, nothing of Jupyter or the Hub."""
    return {name: value for name, value in environ.items() if not _WITHHELD.match(name) and _is_text(name + value)}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
