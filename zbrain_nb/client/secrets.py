"""The values of secrets on their way to the host: found where somebody submits, sealed for the host."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.job import JobSpec
from zbrain_nb.model.protocol import SECRETS_HEADER
from zbrain_nb.model.sealing import seal


class _Health(msgspec.Struct):
    secrets_key: str = ""


class SecretValues:
    """Values by name: those that were given or typed in this process, else those of environment variables."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def give(self, values: Mapping[str, str]) -> None:
        """Remember values, for later submits that only name them too."""
        self._given.update(values)

    def ask(self, names: Iterable[str]) -> None:
        """Ask the person at the terminal or in the notebook for what is neither given nor in the environment."""
        for name in dict.fromkeys(names):
            if name not in self._given and name not in os.environ and _has_person():
                self._given[name] = getpass.getpass(f"{name}: ")

    async def headers(self, transport: Transport, specs: Sequence[JobSpec]) -> dict[str, str]:
        """Return the header that carries the values that specs name; none if they name none.

        Raises
        ------
        InvalidSpec
            If a value is missing, or the host keeps no secrets.
        """
        names = dict.fromkeys(name for spec in specs for name in spec.secrets)
        if not names:
            return {}
        values = {name: value for name in names if (value := self._given.get(name, os.environ.get(name))) is not None}
        if missing := next((name for name in names if name not in values), None):
            raise InvalidSpec(
                f"The secret {missing} has no value here.",
                f"Set the environment variable {missing}, or give secrets={{{missing!r}: ...}}.",
                field="secrets",
            )
        key = (await transport.get("health", _Health)).secrets_key
        if not key:
            raise InvalidSpec("This host is too old to take secrets.", "Update it.", field="secrets")
        return {SECRETS_HEADER: seal(key, values)}


def _has_person() -> bool:
    """Whether somebody can be asked: at a terminal, or through a kernel's front end."""
    shell = sys.modules.get("IPython")
    kernel = getattr(shell.get_ipython(), "kernel", None) if shell is not None else None
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stdin is not None and sys.stdin.isatty()
