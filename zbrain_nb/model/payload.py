"""Payloads: variables, calls and values as bytes that say what they are.

::

    8 bytes  magic            refused with a clear error when it is not ours
    u16 u32  version, length of the header
    header   JSON: kind, python, names, core, buffers, ..., and what the caller adds
    core     one pickle after the other, one for each name, with one memo
    buffers  out-of-band data of arrays and frames, each aligned to 64 bytes

A payload in a file is mapped, not read: its arrays are private, writable and cost nothing until touched. Of a
`Parcel` the large buffers lie in files of their own, which the header names by their SHA-256.
Called by the magic and the client (to pack calls, to load results) and inside the job.
"""

from __future__ import annotations

import inspect
import json
import linecache
import mmap
import os
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zbrain_nb.model.errors import NotPicklable, ZBrainError
from zbrain_nb.model.packing import (
    ALIGN,
    FIXED,
    HINT,
    MAGIC,
    VERSION,
    Packing,
    Parcel,
    attempt,
    find_culprits,
    main_namespace,
    not_picklable,
)
from zbrain_nb.model.pickler import NamespaceUnpickler

CALL_HINT = "Make it inside the function, or hand over what it is made of."
MAX_EXCEPTION_BYTES = 64 * 1024
Source = bytes | bytearray | memoryview | str | os.PathLike[str]


def pack(values: Mapping[str, Any], namespace: dict[str, Any] | None = None) -> bytes:
    """Pack variables, with all that their functions and classes read (see `Packing`)."""
    return Packing(values, namespace).tobytes("names")


def unpack(source: Source, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Load the variables of a payload.

    Parameters
    ----------
    source : bytes or path
        A payload, or the file that holds one.
    namespace : dict, optional
        Becomes the globals of the functions loaded; by default a private dict that holds what they read.

    Returns
    -------
    dict of str to object
        All names, in the order packed. Nothing is bound in a given `namespace`.

    Raises
    ------
    ZBrainError
        If it is no payload, is cut off, comes from another Python, or a variable cannot be rebuilt here.
    """
    reader = Reader(source)
    private = _private() if namespace is None else namespace
    values = reader.load(private)
    if namespace is None:
        private.update(values)
    return values


def pack_call(
    function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> bytes:
    """Pack a call ``function(*args, **kwargs)``, with what the function reads and the caller's ``sys.path``.

    Raises
    ------
    NotPicklable
        If the function, an argument or something that it reads cannot travel.
    """
    return _pack_call(function, args, kwargs or {}).tobytes("call", _paths())


def parcel_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parcel:
    """Pack a call as `pack_call` does, with large data apart.

    Raises
    ------
    NotPicklable
        If the function, an argument or something that it reads cannot travel.
    """
    return _pack_call(function, args, kwargs).parcel("call", _paths())


def _pack_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Packing:
    try:
        return Packing({"": (function, tuple(args), dict(kwargs))})
    except NotPicklable as error:
        raise unfit_call(error, function, args, kwargs) from None


def _paths() -> dict[str, Any]:
    return {"sys_path": [entry or str(Path.cwd()) for entry in sys.path], "prefix": sys.prefix}


def pack_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Parcel:
    """Pack arguments to add to those of a packed call, so that many calls can share the function's blob.

    Raises
    ------
    NotPicklable
        If one cannot travel.
    """
    return Packing({"": (tuple(args), dict(kwargs or {}))}).parcel("arguments")


def unfit_call(
    error: NotPicklable,
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> NotPicklable:
    """Return the error that lists all of a call that cannot travel, by name; `error` is what packing it raised."""
    parts: dict[str, Any] = {f"the function {getattr(function, '__name__', type(function).__name__)}": function}
    parts |= {f"argument {name}": value for name, value in _named(function, args, kwargs or {})}
    found = find_culprits(parts, main_namespace())
    return not_picklable(found, CALL_HINT) if found else error


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a call, each with the name that the function has for it."""
    try:
        bound = inspect.signature(function).bind_partial(*args, **kwargs)
    except (TypeError, ValueError):  # the call does not fit, or some builtins have no signature
        yield from ((str(place), value) for place, value in enumerate(args, 1))
        yield from kwargs.items()
        return
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{name}[{place}]", one) for place, one in enumerate(value))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def load_call(
    source: Source | Reader,
    namespace: dict[str, Any] | None = None,
    arguments: Source | None = None,
    apart: Mapping[str, str] | None = None,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Load a packed call, and the `arguments` to add to its own.

    What the function reads is bound in `namespace` (by default a private dict). `apart` are the paths of the
    buffers that are apart, by their SHA-256.
    """
    target = _private() if namespace is None else namespace
    function, args, kwargs = _load_one(source if isinstance(source, Reader) else Reader(source, "call", apart), target)
    if arguments is not None:
        more, named = _load_one(Reader(arguments, "arguments", apart), target)
        args, kwargs = (*args, *more), {**kwargs, **named}
    return function, args, kwargs


def pack_exception(error: BaseException) -> str | None:
    """Return an exception, without its traceback, as text for the job's ``error``; None if it cannot be rebuilt."""
    try:
        data = dump_value(error, limit_bytes=MAX_EXCEPTION_BYTES)
        load_value(data)
    except ZBrainError:
        return None
    return b64encode(data).decode()


def load_exception(text: str) -> BaseException | None:
    """Load what `pack_exception` made; None if it cannot be rebuilt here."""
    try:
        error = load_value(b64decode(text))
    except (ZBrainError, ValueError):
        return None
    return error if isinstance(error, BaseException) else None


def dump_value(value: Any, namespace: dict[str, Any] | None = None, limit_bytes: int | None = None) -> bytes:
    """Pack one value.

    Raises
    ------
    NotPicklable, TooLarge
        As `Packing` does.
    """
    return Packing({"": value}, namespace, limit_bytes).tobytes("value")


def load_value(source: Source) -> Any:
    """Load one value; what its functions read goes into a private dict, never into a notebook's namespace.

    A class that came from this process is found again: ``isinstance`` holds.

    Raises
    ------
    ZBrainError
        As `unpack` does.
    """
    return _load_one(Reader(source, "value"), None)


def _load_one(reader: Reader, namespace: dict[str, Any] | None) -> Any:
    target = _private() if namespace is None else namespace
    values = reader.load(target)
    value = values.pop("")
    target.update(values)
    return value


class Reader:
    """A payload opened for reading.

    Parameters
    ----------
    source : bytes or path
        The payload.
    kind : str, optional
        What it has to hold.
    apart : mapping of str to path, optional
        Where the buffers lie that are apart, by their SHA-256.

    Attributes
    ----------
    header : dict
        What the writer said, its own additions among it.

    Raises
    ------
    ZBrainError
        If it is no payload of this version and of `kind`, or is cut off.
    """

    def __init__(self, source: Source, kind: str | None = None, apart: Mapping[str, str] | None = None) -> None:
        view, mapped = _open(source)
        if len(view) < FIXED.size or bytes(view[: len(MAGIC)]) != MAGIC:
            raise ZBrainError("These bytes are no payload of zbrain.", "Read them with the program that wrote them.")
        _, version, length = FIXED.unpack_from(view)
        if not 1 <= version <= VERSION:
            raise ZBrainError(
                f"This payload has format {version}, this zbrain_nb reads {VERSION}.",
                "Use the same version of zbrain_nb in the notebook and the worker.",
            )
        position = FIXED.size + length
        try:
            self.header: dict[str, Any] = json.loads(bytes(view[FIXED.size : position]))
        except ValueError as error:
            raise ZBrainError("The payload is damaged: its header cannot be read.") from error
        self._core = view[position : position + self.header["core"]]
        position += self.header["core"]
        self._buffers: list[memoryview] = []
        elsewhere: dict[str, str] = self.header.get("apart", {})
        for place, size in enumerate(self.header["buffers"]):
            if (sha256 := elsewhere.get(str(place))) is not None:
                self._buffers.append(_buffer_apart(sha256, size, apart or {}))
                continue
            position += -position % ALIGN
            part = view[position : position + size]
            self._buffers.append(part if mapped else memoryview(bytearray(part)))
            position += size
        if position != len(view):
            raise ZBrainError(f"The payload is cut off: {len(view):,} of {position:,} bytes are here.")
        if kind is not None and self.header["kind"] != kind:
            raise ZBrainError(f"The payload holds {self.header['kind']}, not a {kind}.")

    def load(self, namespace: dict[str, Any]) -> dict[str, Any]:
        """Load all names, in order; functions get `namespace` as globals, nothing is bound in it."""
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if self.header["code"] and self.header["python"] != here:
            raise ZBrainError(
                f"The payload holds functions of Python {self.header['python']}, this is Python {here}.",
                "Run the job with the notebook's own kernel, or define the functions inside the cell.",
            )
        for name, text in self.header["sources"].items():
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        unpickler = NamespaceUnpickler(_File(self._core), namespace, self._buffers)
        values: dict[str, Any] = {}
        for name in self.header["names"]:

            def load_next(name: str = name) -> None:
                values[name] = unpickler.load()

            error = attempt(load_next)
            if error is not None:
                what = name or f"the {self.header['kind']}"
                raise ZBrainError(f"{what} cannot be rebuilt here: {type(error).__name__}: {error}.", HINT) from error
        return values


class _File:
    """A memoryview as the file that an unpickler wants, without a copy of the whole."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._view) if size < 0 else self._position + size
        data = bytes(self._view[self._position : end])
        self._position += len(data)
        return data

    def readinto(self, target: Any) -> int:
        data = self._view[self._position : self._position + len(target)]
        target[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readline(self) -> bytes:
        end = self._position
        while end < len(self._view) and self._view[end] != 0x0A:
            end += 1
        return self.read(end + 1 - self._position)


def _open(source: Source) -> tuple[memoryview, bool]:
    """Return the bytes of `source`, and whether they are a private mapping (which may be written to)."""
    if isinstance(source, bytes | bytearray | memoryview):
        return memoryview(source), False
    try:
        with Path(source).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b""), False
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)), True
    except OSError as error:
        raise ZBrainError(f"The payload {source} cannot be read: {error.strerror}.") from error


def _buffer_apart(sha256: str, size: int, apart: Mapping[str, str]) -> memoryview:
    if sha256 not in apart:
        raise ZBrainError(f"A part of the payload is not here: {sha256[:12]}….", "Upload it, and name it in inputs.")
    view, _ = _open(apart[sha256])
    if len(view) != size:
        raise ZBrainError(f"A part of the payload is cut off: {len(view):,} of {size:,} bytes are here.")
    return view


def _private() -> dict[str, Any]:
    return {"__name__": "__main__", "__builtins__": __builtins__}
