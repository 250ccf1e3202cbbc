"""Calls of one function as many specs: the function travels once, small arguments in the spec of their job."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zbrain_nb.client.asynchronous import AsyncClient
from zbrain_nb.model.errors import InvalidSpec, NotPicklable
from zbrain_nb.model.job import JobSpec
from zbrain_nb.model.packing import Parcel, find_culprits, main_namespace, not_picklable
from zbrain_nb.model.payload import CALL_HINT, pack_arguments, pack_call
from zbrain_nb.model.summaries import summarize

#: Larger arguments are a blob of their own.
INLINE_BYTES = 8 * 1024
#: So many items of a map that cannot travel are named.
NAMED_ITEMS = 10
#: The name among a spec's ``inputs`` of arguments that are a blob.
ARGUMENTS_INPUT = "arguments"
_OWN_FIELDS = frozenset({"cmd", "code", "function", "arguments"})


class PackedFunction:
    """A function at the server, ready to be called with arguments.

    Parameters
    ----------
    client : AsyncClient
        Uploads what does not fit into a spec.
    digest : str
        The blob that holds the pickled function.
    fields : mapping
        Fields of `JobSpec` for each call.
    """

    def __init__(self, client: AsyncClient, digest: str, fields: Mapping[str, Any]) -> None:
        self._client = client
        self._digest = digest
        self._fields = dict(fields)

    async def spec_of(self, arguments: Parcel, **more: Any) -> JobSpec:
        """Return the spec of a call with packed arguments; these are uploaded if they are large.

        Parameters
        ----------
        arguments : Parcel
            As `pack_arguments` makes them.
        **more
            Fields of this call's spec alone.
        """
        fields = self._fields | more
        if len(arguments.data) <= INLINE_BYTES and not arguments.apart:
            return JobSpec(function=self._digest, arguments=b64encode(arguments.data).decode(), **fields)
        digest, apart = await self._client.put_parcel(arguments)
        inputs = {**fields.pop("inputs", {}), ARGUMENTS_INPUT: digest, **apart}
        return JobSpec(function=self._digest, inputs=inputs, **fields)


def function_fields(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec that calls `function`: where and how it runs unless `options` say otherwise.

    Raises
    ------
    InvalidSpec
        If an option is no field of a spec, or one that the call itself fills.
    """
    for name in options:
        if name not in JobSpec.__struct_fields__ or name in _OWN_FIELDS:
            raise InvalidSpec(
                f"A job that calls a function has no option {name!r}.", "See help(zbrain_nb.JobSpec).", field=name
            )
    name = getattr(function, "__name__", type(function).__name__)
    return {"name": name[:200], "kernel": sys.executable, "cwd": str(Path.cwd()), **options}


async def upload_function(client: AsyncClient, packed: bytes, fields: Mapping[str, Any]) -> PackedFunction:
    """Bring a function, packed by `pack_function`, to the server."""
    return PackedFunction(client, await client.put_blob(packed), fields)


def pack_function(function: Callable[..., Any]) -> bytes:
    """Pack a function without arguments.

    Raises
    ------
    NotPicklable
        If the function or something that it reads cannot travel.
    """
    return pack_call(function)


def pack_items(items: Iterable[tuple[Any, ...]]) -> list[Parcel]:
    """Pack the arguments of many calls.

    Raises
    ------
    NotPicklable
        Naming those that cannot travel: by the places of the first `NAMED_ITEMS` items that hold any, from 0.
    """
    packed: list[Parcel] = []
    culprits: dict[str, tuple[str, str]] = {}
    bad = 0
    for place, args in enumerate(items):
        try:
            packed.append(pack_arguments(args))
        except NotPicklable:
            several = len(args) > 1
            named = {f"item {place}[{number}]" if several else f"item {place}": arg for number, arg in enumerate(args)}
            culprits |= find_culprits(named, main_namespace())
            bad += 1
            if bad == NAMED_ITEMS:
                break
    if culprits:
        raise not_picklable(culprits, CALL_HINT)
    return packed


def label_of(args: Iterable[Any]) -> str:
    """Return the arguments of a call in a few words, for people."""
    return ", ".join(map(summarize, args))[:200]
