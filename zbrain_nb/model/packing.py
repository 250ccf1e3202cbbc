"""Pickles names for a payload: finds what functions read, measures each name, names all that cannot travel."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zbrain_nb.model.errors import NotPicklable, TooLarge
from zbrain_nb.model.pickler import NamespacePickler

MAGIC = b"\x89ZBRAIN\n"
#: 2: some buffers may be apart. 1 is read too.
VERSION = 2
FIXED = struct.Struct("<8sHI")
ALIGN = 64
#: Buffers of this size and more are apart in a `Parcel`: the same data travel once, whatever reads them.
APART_BYTES = 1 << 20
#: The most that are apart, the largest of them: each is an input of the job.
MAX_APART = 64
HINT = "Name what the cell needs with --in, or make it inside the cell."
#: What IPython puts into every namespace: the job has its own.
_NEVER = frozenset({"In", "Out", "_ih", "_oh", "_dh", "get_ipython", "exit", "quit"})


@dataclass(frozen=True)
class Parcel:
    """A payload whose large buffers are apart, for uploads by content.

    Attributes
    ----------
    data : bytes
        The payload, which names the hashes of the others.
    apart : dict of str to memoryview
        The buffers by their SHA-256, not copied: whoever owns the data must not change them before they are sent.
    """

    data: bytes
    apart: dict[str, memoryview]

    def snapshot(self) -> Parcel:
        """Return one with copies of the buffers, for sending later."""
        return Parcel(self.data, {sha256: memoryview(bytes(buffer)) for sha256, buffer in self.apart.items()})


class Packing:
    """Pickled names, not yet joined to bytes.

    Parameters
    ----------
    values : mapping of str to object
        What to pickle.
    namespace : dict, optional
        The globals of the notebook's functions; by default those of ``__main__``. Names in it that pickled
        functions read are packed too, after `values`.
    limit_bytes : int, optional
        The most that may be pickled.

    Attributes
    ----------
    sizes : dict of str to int
        Bytes of each name, in the order of packing; what two names share counts for the first.
    sources : dict of str to str
        Texts of the cells that the pickled functions come from.
    modules : set of str
        As `NamespacePickler.modules`.

    Raises
    ------
    NotPicklable
        Naming every culprit, with its type and why.
    TooLarge
        When `limit_bytes` is reached; ``details["sizes"]`` maps the names packed so far to bytes.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        namespace: dict[str, Any] | None = None,
        limit_bytes: int | None = None,
    ) -> None:
        self._namespace = main_namespace() if namespace is None else namespace
        self._sink = _Sink(limit_bytes)
        self.sizes: dict[str, int] = {}
        pickler = NamespacePickler(self._sink, self._namespace, self._sink.take_buffer)
        waiting = dict(values)
        while waiting:
            for name, value in waiting.items():
                before = self._sink.size
                error = attempt(pickler.dump, value)
                if error is not None:
                    found = find_culprits(values, self._namespace)
                    raise not_picklable(found or {name: (_type_name(value), _reason(error))})
                self.sizes[name] = self._sink.size - before
                if self._sink.full:
                    raise TooLarge(f"More than {limit_bytes:,} bytes would travel.", sizes=self.sizes)
            waiting = _implied(pickler.reads, self._namespace, self.sizes)
        self.sources = pickler.sources
        self.modules = pickler.modules
        self._has_code = pickler.has_code

    @property
    def size(self) -> int:
        """Bytes of all names together."""
        return self._sink.size

    @cached_property
    def apart(self) -> dict[int, str]:
        """Which buffers are apart in a `Parcel`, and their SHA-256."""
        large = [(buffer.nbytes, place) for place, buffer in enumerate(self._sink.buffers)]
        places = [place for size, place in sorted(large, reverse=True)[:MAX_APART] if size >= APART_BYTES]
        return {place: hashlib.sha256(self._sink.buffers[place]).hexdigest() for place in sorted(places)}

    def parts(
        self, kind: str, header: Mapping[str, Any] | None = None, *, whole: bool = True
    ) -> list[bytes | memoryview]:
        """Return the payload in pieces.

        Parameters
        ----------
        kind : str
            Said in the header.
        header : mapping, optional
            JSON values to add to it.
        whole : bool
            With the buffers that are `apart`, or only their hashes.
        """
        core, buffers = self._sink.core(), self._sink.buffers
        apart = {} if whole else self.apart
        head = {
            **(header or {}),
            "kind": kind,
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "code": self._has_code,
            "names": list(self.sizes),
            "sources": self.sources,
            "core": len(core),
            "buffers": [buffer.nbytes for buffer in buffers],
            "apart": {str(place): sha256 for place, sha256 in apart.items()},
        }
        text = json.dumps(head).encode()
        parts: list[bytes | memoryview] = [FIXED.pack(MAGIC, VERSION, len(text)), text, core]
        position = FIXED.size + len(text) + len(core)
        for buffer in (buffer for place, buffer in enumerate(buffers) if place not in apart):
            padding = -position % ALIGN
            parts += [bytes(padding), buffer]
            position += padding + buffer.nbytes
        return parts

    def tobytes(self, kind: str, header: Mapping[str, Any] | None = None) -> bytes:
        """Return the payload in one piece."""
        return b"".join(self.parts(kind, header))

    def parcel(self, kind: str, header: Mapping[str, Any] | None = None) -> Parcel:
        """Return the payload with its large buffers apart."""
        data = b"".join(self.parts(kind, header, whole=False))
        return Parcel(data, {sha256: self._sink.buffers[place] for place, sha256 in self.apart.items()})


class _Sink:
    """Takes what the pickler writes and counts it."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self.buffers: list[memoryview] = []
        self.size = 0

    @property
    def full(self) -> bool:
        return self._limit is not None and self.size > self._limit

    def write(self, data: Any) -> int:
        # past the limit the pickler goes on to the end of this name, but nothing more is held in memory
        self.size += len(data)
        if not self.full:
            self._pieces.append(bytes(data))
        return len(data)

    def take_buffer(self, buffer: pickle.PickleBuffer) -> None:
        view = buffer.raw()
        self.size += view.nbytes
        self.buffers.append(view)

    def core(self) -> bytes:
        return b"".join(self._pieces)


def find_culprits(values: Mapping[str, Any], namespace: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Pickle each name alone: that finds all that cannot travel, in `values` or read by their functions.

    Returns
    -------
    dict of str to (str, str)
        By name its type, and why.
    """
    found: dict[str, tuple[str, str]] = {}
    seen: dict[str, None] = {}
    waiting = dict(values)
    while waiting:
        following: dict[str, None] = {}
        for name, value in waiting.items():
            seen[name] = None
            pickler = NamespacePickler(_Sink(None), namespace, lambda _: None)
            error = attempt(pickler.dump, value)
            if error is not None:
                found[name] = (_type_name(value), _reason(error))
            following.update(pickler.reads)
        waiting = _implied(following, namespace, seen)
    return found


def not_picklable(culprits: Mapping[str, tuple[str, str]], hint: str = HINT) -> NotPicklable:
    """Return the error that lists all `culprits` (see `find_culprits`)."""
    named = [f"{name} ({kind})" if name else kind for name, (kind, _) in culprits.items()]
    reasons = {name: why for name, (_, why) in culprits.items()}
    by_cause: dict[str, list[str]] = {}
    for name, (kind, why) in culprits.items():
        by_cause.setdefault(why, []).append(name or kind)
    causes = [why if len(by_cause) == 1 else f"{_listed(names)}: {why}" for why, names in by_cause.items()]
    message = f"{_listed(named)} cannot travel: {'; '.join(causes)}."
    return NotPicklable(message, hint, names=list(reasons), reasons=reasons)


def main_namespace() -> dict[str, Any]:
    """Return the namespace that notebook code runs in: the one of ``__main__``."""
    return sys.modules["__main__"].__dict__


def _implied(reads: Mapping[str, None], namespace: dict[str, Any], have: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: namespace[name]
        for name in reads
        if name in namespace and name not in have and name not in _NEVER and not name.startswith("__")
    }


def attempt(action: Callable[..., Any], *args: Any) -> Exception | None:
    """Run `action`; return what it raised. Pickling runs the objects' own code, which may raise anything."""
    try:
        action(*args)
    except Exception as error:
        return error
    return None


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _type_name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
