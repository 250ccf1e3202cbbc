"""What the name of a kernel means on this machine: an interpreter of Python, or a kernel that runs cells itself.

Called by the magic before it sends a cell, and by the worker before it runs one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from zbrain_nb.model.errors import ZBrainError


class UnusableKernel(ZBrainError):
    """There is no kernel of that name here, or it cannot run the job."""

    code = "unusable_kernel"
    status = 422


class Kernel(msgspec.Struct, frozen=True):
    """A kernel of this machine.

    Attributes
    ----------
    name : str
        What it was asked for by.
    language : str
        As its kernelspec calls it.
    python : str or None
        Interpreter that cells run in as in this package's own; None of a kernel that is reached by messages only.
    folder : str
        Folder of its kernelspec; empty for an interpreter given by its path.
    """

    name: str
    language: str = "python"
    python: str | None = None
    folder: str = ""


def find_kernel(name: str, environ: Mapping[str, str] = os.environ) -> Kernel:
    """Find a kernel.

    Parameters
    ----------
    name : str
        Name of a kernelspec, or absolute path of a Python or of a kernelspec's folder. Whether a Python is there
        is seen when it starts.
    environ : mapping of str to str
        Its ``PATH`` is where a kernelspec's program is looked for.

    Raises
    ------
    UnusableKernel
        If there is none, with those that exist; or if its program is missing.
    """
    if os.path.isabs(name) and not os.path.isdir(name):
        return Kernel(name, python=name)
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel  # 40 ms that few need

    manager = KernelSpecManager()
    try:
        spec = KernelSpec.from_resource_dir(name) if os.path.isabs(name) else manager.get_kernel_spec(name)
    except NoSuchKernel:
        known = ", ".join(sorted(manager.find_kernel_specs())) or "none"
        raise UnusableKernel(f"There is no kernel {name!r}.", f"Those that exist: {known}.") from None
    except (OSError, ValueError) as error:
        raise UnusableKernel(f"The kernelspec of {name!r} cannot be read: {error}.", "Install it again.") from error
    argv, language = list(spec.argv), str(spec.language)
    name = Path(spec.resource_dir).name if os.path.isabs(name) else name
    program = argv[0] if argv else ""
    found = find_program(program, environ)
    if found is None:
        what = "Python" if language.lower() == "python" else "program"
        raise UnusableKernel(
            f"The {what} of the kernel {name!r} is not there: {program or 'its kernelspec names none'}.",
            "Install it again.",
        )
    is_plain = language.lower() == "python" and _is_interpreter(argv)
    return Kernel(name, language or "an unknown language", found if is_plain else None, spec.resource_dir)


def find_program(program: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of a kernelspec's program as Jupyter finds it, or None: ``python`` is the one that runs here."""
    return sys.executable if _is_own(program) else shutil.which(program, path=environ.get("PATH"))


def _is_own(program: str) -> bool:
    """Whether Jupyter reads this as the Python that it runs in itself."""
    return program in ("python", f"python{sys.version_info[0]}", f"python{sys.version_info[0]}.{sys.version_info[1]}")


def _is_interpreter(argv: list[str]) -> bool:
    """Whether a kernelspec's program is a Python in which ipykernel runs: not xeus, no launcher of environments."""
    if not Path(argv[0]).name.startswith("python"):
        return False
    return "-m" not in argv or argv[argv.index("-m") + 1].startswith("ipykernel")
