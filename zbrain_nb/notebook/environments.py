"""``--kernel``: another interpreter of this machine, and how it differs from the notebook's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager

from zbrain_nb.model.errors import UsageError

_PROBE_SECS = 30
_PROBE = """
import json, sys
from importlib import metadata, util
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "python": ".".join(map(str, sys.version_info[:3])),
    "zbrain": util.find_spec("zbrain_nb") is not None and util.find_spec("IPython") is not None,
    "versions": {name: version(name) for name in sys.argv[1:]},
}))
"""


def find_interpreter(kernel: str) -> str:
    """Return the Python of a kernelspec, or of a path.

    Raises
    ------
    UsageError
        If there is none, with those that exist; or if it is no kernel of Python.
    """
    if os.path.isabs(kernel):
        if not os.access(kernel, os.X_OK):
            raise UsageError(f"%%zbrain: there is no interpreter {kernel}.", "Give a kernel's name, or another path.")
        return kernel
    specs = KernelSpecManager().get_all_specs()
    if kernel not in specs:
        known = ", ".join(sorted(specs)) or "none"
        raise UsageError(f"%%zbrain: there is no kernel {kernel!r}.", f"Those that exist: {known}.")
    spec: dict[str, Any] = specs[kernel]["spec"]
    if spec.get("language", "").lower() != "python":
        raise UsageError(
            f"%%zbrain: the kernel {kernel!r} runs {spec.get('language') or 'something else'}; cells run Python.",
            "Run it by `--shell`, or in a notebook of its own.",
        )
    program: str | None = shutil.which((spec.get("argv") or [""])[0])
    if program is None:
        raise UsageError(f"%%zbrain: the Python of the kernel {kernel!r} is not there any more.", "Install it again.")
    return program


def differences(python: str, modules: Iterable[str]) -> str:
    """Compare an interpreter with this one, as far as a cell needs it.

    Parameters
    ----------
    python : str
        Its path.
    modules : iterable of str
        The modules that the cell, or what it takes along, needs.

    Returns
    -------
    str
        What differs, in one line; empty if nothing does.

    Raises
    ------
    UsageError
        If it does not run, or cells certainly cannot run there.
    """
    named = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    packages = metadata.packages_distributions()
    wanted = sorted({packages[name][0] for name in named if packages.get(name)})
    there = _probe(python, wanted)
    here = ".".join(map(str, sys.version_info[:3]))
    if not there["zbrain"]:
        raise UsageError(f"%%zbrain: {python} has no zbrain_nb.", f"{python} -m pip install zbrain_nb")
    found = []
    if there["python"] != here:
        found.append(f"Python {there['python']} (here {here})")
    for name in wanted:
        version, own = there["versions"][name], metadata.version(name)
        if version != own:
            found.append(f"{name} {version} (here {own})" if version else f"no {name} (here {own})")
    return ", ".join(found)


def _probe(python: str, packages: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [python, "-P", "-c", _PROBE, *packages], capture_output=True, text=True, timeout=_PROBE_SECS, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise UsageError(
            f"%%zbrain: {python} does not run: {said[-1] if said else 'it said nothing'}.", "Take another kernel."
        ) from error
    return found
