"""Checks of what surrounds host and jobs: the memory they may use, and what would end them with itself."""

from __future__ import annotations

import configparser
import getpass
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from zbrain_nb.client.diagnosis.findings import Diagnosis, fine, warning
from zbrain_nb.model.sizes import format_kib

#: With less, a notebook's libraries alone may not fit.
SMALL_MEMORY_BYTES = 1 << 30
_FULL_PART = 0.9
_NO_LIMIT = 1 << 60  # version 1 of cgroups says "none" by a number near 2^63
_LOGIND = ("etc/systemd/logind.conf", *(f"{top}/systemd/logind.conf.d/*.conf" for top in ("usr/lib", "run", "etc")))
_SESSION = re.compile(r"/session-[^/]+\.scope")
_UNIT = re.compile(r"/((?!user@)[^/]+\.service)")


def check_memory(root: Path = Path("/")) -> Iterator[Diagnosis]:
    """See how much memory this process's cgroup may use, and whether it ran out before.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys/fs/cgroup`` lie.
    """
    found = _limit(root)
    if found is None:
        yield fine("memory", "no limit but the machine's")
        return
    limit, used, kills = found
    text = f"{format_kib(used / 1024)} of at most {format_kib(limit / 1024)} are used (cgroup)"
    hint = "Give the container or unit more, or jobs less: `--mem` ends one job instead of all."
    if kills:
        yield warning("memory", f"{text}; {kills} processes were killed for it since it was set up.", hint)
    elif used > _FULL_PART * limit:
        yield warning("memory", f"{text}; what needs more is killed.", hint)
    elif limit < SMALL_MEMORY_BYTES:
        yield warning("memory", f"{text}, which is little for notebooks.", hint)
    else:
        yield fine("memory", text)


def _limit(root: Path) -> tuple[int, int, int] | None:
    """Return limit, use (without what is only cached) and kills of the tightest cgroup above us; None without limit."""
    groups = _read(root / "proc/self/cgroup").splitlines()
    paths = {kinds: path for _, kinds, path in (line.split(":", 2) for line in groups if line.count(":") >= 2)}
    old = next((path for kinds, path in paths.items() if "memory" in kinds.split(",")), None)
    top = root / "sys/fs/cgroup" / ("" if old is None else "memory")
    names = ("memory.max", "memory.current") if old is None else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    start = top / (old or paths.get("", "/")).lstrip("/")
    found = []
    for folder in (start, *start.parents):
        # In a container the path may be the machine's, and only the top be there.
        limit = _read(folder / names[0]).strip()
        if limit.isdecimal() and int(limit) < _NO_LIMIT:
            found.append((int(limit), folder))
        if folder == top:
            break
    if not found:
        return None
    limit_bytes, folder = min(found)
    counts = _counts(folder / "memory.stat")
    cached = counts.get("inactive_file", counts.get("total_inactive_file", 0))
    used = int(_read(folder / names[1]).strip() or 0) - cached
    kills = _counts(folder / ("memory.events" if old is None else "memory.oom_control")).get("oom_kill", 0)
    return limit_bytes, max(0, used), kills


def _counts(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def check_session(
    pid: int | None, root: Path = Path("/"), environ: Mapping[str, str] = os.environ
) -> Iterator[Diagnosis]:
    """See what would end the host and its jobs when it ends: a login, a service, a pod, a batch job.

    Parameters
    ----------
    pid : int or None
        The host's process on this machine; None looks at this one, which would start it.
    root : Path
        Where ``proc``, ``etc`` and so on lie.
    environ : mapping
        The environment.
    """
    subject = "session"
    group = _read(root / "proc" / (str(pid) if pid else "self") / "cgroup")
    unit = _UNIT.search(group)
    if job := environ.get("SLURM_JOB_ID"):
        yield warning(
            subject, f"Host and jobs end with the Slurm job {job}.", "Run the host on a login or service node."
        )
    elif "KUBERNETES_SERVICE_HOST" in environ:
        yield warning(
            subject,
            "Host and running jobs end with this pod.",
            "Keep ZDB_DATA on a volume: what waits goes on in the next pod, and so do jobs with rerun_if_lost.",
        )
    elif _SESSION.search(group) and _kills_user_processes(root):
        yield warning(
            subject,
            "Host and running jobs end when you log out (KillUserProcesses of systemd-logind).",
            "Run `loginctl enable-linger`, and start Jupyter by `systemd-run --user --scope jupyter lab`.",
        )
    elif "/user@" in group and not (root / "var/lib/systemd/linger" / getpass.getuser()).exists():
        yield warning(subject, "Host and running jobs end with your last login.", "Run `loginctl enable-linger`.")
    elif unit:
        yield warning(
            subject,
            f"Host and running jobs end when {unit[1]} is stopped or restarted.",
            "Put KillMode=process into its [Service] section; they are then found again.",
        )
    else:
        yield fine(subject, "nothing found that would end host and jobs when you leave")


def _kills_user_processes(root: Path) -> bool:
    """Read ``KillUserProcesses`` of logind as systemd does: the last file that says something is right."""
    said = False
    for pattern in _LOGIND:
        for path in sorted(root.glob(pattern)):
            parser = configparser.ConfigParser(strict=False, interpolation=None)
            try:
                parser.read_string(_read(path))
                said = parser.getboolean("Login", "KillUserProcesses", fallback=said)
            except (configparser.Error, ValueError):
                continue  # systemd passes over what it cannot read, too
    return said
