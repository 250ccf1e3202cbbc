"""``--kernel``: another kernel of this machine, and how its Python differs from the notebook's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from zbrain_nb.model import kernels
from zbrain_nb.model.errors import UsageError
from zbrain_nb.model.kernels import Kernel, UnusableKernel
from zbrain_nb.notebook.arguments import CellOptions

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


def find_kernel(name: str, environ: Mapping[str, str] = os.environ) -> Kernel:
    """Return what a kernel's name or path means, for the line of a cell.

    Parameters
    ----------
    name : str
        Name of a kernelspec, or an absolute path (see `model.kernels.find_kernel`).
    environ : mapping of str to str
        The environment of the job.

    Raises
    ------
    UsageError
        If there is none, with those that exist; or if what it starts is missing.
    """
    try:
        kernel = kernels.find_kernel(name, environ)
    except UnusableKernel as error:
        raise UsageError(f"%%zbrain: {error.message}", error.hint) from error
    if kernel.python == name and not os.access(name, os.X_OK):
        raise UsageError(f"%%zbrain: there is no interpreter {name}.", "Give a kernel's name, or another path.")
    return kernel


def refuse_variables(kernel: Kernel, options: CellOptions) -> None:
    """Refuse flags that mean variables of Python.

    Raises
    ------
    UsageError
        If the line names variables to take along, to bring back, or to set.
    """
    flags = {"--in": options.ship not in ("auto", "none"), "--out": isinstance(options.keep, list)}
    flags["--grid"] = bool(options.grid)
    for flag in (flag for flag, is_given in flags.items() if is_given):
        raise UsageError(
            f"%%zbrain: {flag} names variables of Python, and the kernel {kernel.name!r} runs {kernel.language}.",
            f"Drop {flag}: let the cells exchange files, or pass texts with --env.",
        )


def refuse_cache(kernel: Kernel, options: CellOptions) -> None:
    """Refuse ``--cache`` where the packages that the job gets are not those that can be looked at here.

    Raises
    ------
    UsageError
        If the kernel is another one than the notebook's.
    """
    if options.cache and kernel.python != sys.executable:
        raise UsageError(
            f"%%zbrain: --cache knows the packages of this notebook's Python, not those of the kernel {kernel.name!r}.",
            "Drop --cache, or --kernel.",
        )


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
