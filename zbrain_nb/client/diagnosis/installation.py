"""Checks of what is installed: this Python, Jupyter's side of zbrain_nb, and the kernels that may use it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import jupyter_config_path, jupyter_path

import zbrain_nb
from zbrain_nb.client.diagnosis.findings import Diagnosis, fine, warning
from zbrain_nb.model.kernels import find_program

_PROBE_SECS = 10.0
_PROBE = "from importlib import metadata as m; print(m.version('zbrain_nb'))"


def check_python() -> Iterator[Diagnosis]:
    """Say which Python this is, and whether the platform is one where everything holds."""
    yield fine("python", f"{platform.python_version()} with zbrain_nb {zbrain_nb.__version__}: {sys.executable}")
    if sys.platform != "linux":
        yield warning(
            "platform",
            f"On {sys.platform} a job's processes are not all ended for certain.",
            "Run the server on Linux, and point ZBRAIN_URL at it.",
        )


def check_extension() -> Iterator[Diagnosis]:
    """See whether Jupyter, started from this environment, would load the server extension and draw the view."""
    if _is_enabled():
        yield fine("server extension", "enabled; a Jupyter server started before it was installed needs a restart")
    else:
        yield warning(
            "server extension",
            f"Jupyter of {sys.prefix} does not load zbrain_nb.",
            "Run `jupyter server extension enable zbrain_nb`, and restart Jupyter.",
        )
    if not any((Path(folder) / "labextensions/zbrain_nb/package.json").exists() for folder in jupyter_path()):
        yield warning(
            "lab extension", f"JupyterLab of {sys.prefix} cannot draw the live view.", "Install zbrain_nb again."
        )
    elif _is_switched_off():
        yield warning(
            "lab extension",
            "The live view is switched off in JupyterLab.",
            "Run `jupyter labextension enable zbrain_nb`, and load the page again.",
        )
    else:
        yield fine("lab extension", "installed")


def _is_enabled() -> bool:
    """Read the configuration as Jupyter does: the nearest folder that says something is right."""
    for folder in map(Path, jupyter_config_path()):
        own = sorted((folder / "jupyter_server_config.d").glob("*.json"))
        for path in (folder / "jupyter_server_config.json", *own):
            said = _read(path).get("ServerApp", {}).get("jpserver_extensions", {}).get("zbrain_nb")
            if said is not None:
                return bool(said)
    return False


def _is_switched_off() -> bool:
    for folder in map(Path, jupyter_config_path()):
        said = _read(folder / "labconfig" / "page_config.json").get("disabledExtensions", {})
        if isinstance(said, dict) and "zbrain_nb" in said:
            return bool(said["zbrain_nb"])
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_kernels(server_version: str | None) -> Iterator[Diagnosis]:
    """See whether the kernels' interpreters exist, and have the zbrain_nb that the server has.

    Parameters
    ----------
    server_version : str or None
        Of the server; None if it could not be asked.
    """
    specs = {name: found["spec"] for name, found in sorted(KernelSpecManager().get_all_specs().items())}
    named = {name: (spec.get("argv") or [""])[0] for name, spec in specs.items()}
    programs = {name: find_program(program) for name, program in named.items()}
    missing = [name for name, program in programs.items() if program is None]
    for name in missing:
        yield warning(
            "kernels",
            f"The kernel {name!r} starts {named[name] or 'nothing'}, which is not there.",
            f"Install it again, or run `jupyter kernelspec remove {name}`.",
        )
    pythons = {
        name: program
        for name, program in programs.items()
        if program is not None and str(specs[name].get("language", "")).lower() == "python"
    }
    with ThreadPoolExecutor(4) as pool:
        versions = dict(zip(pythons, pool.map(_version_at, pythons.values()), strict=True))
    wanted = server_version or zbrain_nb.__version__
    for name, version in versions.items():
        if version is None:
            yield warning(
                "kernels",
                f"The kernel {name!r} has no zbrain_nb: `%load_ext zbrain_nb` fails there.",
                f"Install it there: {pythons[name]} -m pip install zbrain_nb",
            )
        elif version != wanted:
            yield warning(
                "kernels",
                f"The kernel {name!r} has zbrain_nb {version}, the server {wanted}.",
                "Install the same version in both environments.",
            )
    good = [name for name, version in versions.items() if version == wanted]
    if good:
        yield fine("kernels", f"with zbrain_nb {wanted}: {', '.join(good)}")


def _version_at(python: str) -> str | None:
    """Return the version of zbrain_nb that an interpreter has, or None if it has none."""
    if Path(python) == Path(sys.executable):
        return zbrain_nb.__version__
    try:
        ran = subprocess.run(
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECS, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() or None
