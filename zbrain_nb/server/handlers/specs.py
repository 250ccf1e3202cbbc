"""Makes specs of the body of a submit; one that is too much is refused before it takes memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from zbrain_nb.model.amounts import MAX_SPEC_VALUES, count_values
from zbrain_nb.model.checks import brief
from zbrain_nb.model.errors import InvalidSpec, TooLarge
from zbrain_nb.model.job import MAX_SPEC_BYTES, JobSpec
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.handlers.base import decode_json, field_of

#: Jobs in one request.
MAX_BATCH = 10_000
#: A longer body, or one with more values than a spec may hold, is decoded spec by spec.
LONG_BYTES = 1024 * 1024
#: Others have their turn whenever so much of a body is looked at, or decoded.
TURN_BYTES = 64 * 1024
_IS_LIST = re.compile(rb"\s*\[").match


class _Passed(msgspec.Struct, gc=False):
    """Any JSON object, passed over."""


async def read_specs(body: bytes, settings: Settings, key: str | None) -> tuple[list[JobSpec], bool]:
    """Return the specs that a body holds, and whether it is a list of them.

    Parameters
    ----------
    key : str or None
        The idempotency key of a single spec that names none.

    Raises
    ------
    Malformed, InvalidSpec
        If the body is no JSON, or a spec does not hold.
    TooLarge
        If a spec is too long or holds too many values, or there are too many.
    """
    if len(body) > LONG_BYTES or count_values(body, MAX_SPEC_VALUES) > MAX_SPEC_VALUES:
        if _IS_LIST(body) is not None:
            return [read_spec(raw, settings, where=f"Spec {n}: ") async for n, raw in _one_by_one(body)], True
        _check(body, "The spec")
    raw = decode_json(body, object)
    if isinstance(raw, list):
        _check_number(len(raw))
        return [read_spec(item, settings, where=f"Spec {n}: ") for n, item in enumerate(raw)], True
    if key and isinstance(raw, dict) and raw.get("idempotency_key") is None:
        raw["idempotency_key"] = key
    return [read_spec(raw, settings)], False


def read_spec(raw: Any, settings: Settings, *, where: str = "") -> JobSpec:
    """Make a spec from decoded JSON, with the defaults for raw requests that run a command.

    Raises
    ------
    InvalidSpec
        If it does not hold; the message starts with `where`.
    """
    if not isinstance(raw, dict):
        raise InvalidSpec(f"{where}A job spec is a JSON object, not {type(raw).__name__}.")
    if raw.get("cmd") is not None:
        raw.setdefault("timeout_secs", settings.default_timeout_secs)
        raw.setdefault("max_retries", settings.max_retries)
    try:
        return msgspec.convert(raw, JobSpec)
    except InvalidSpec as error:
        raise InvalidSpec(f"{where}{error.message}", error.hint, **error.details) from error
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"{where}{brief(error)}.", field=field_of(error)) from error


async def _one_by_one(body: bytes) -> AsyncIterator[tuple[int, Any]]:
    """Yield the specs in a long list, each decoded when its turn comes."""
    _check_number(len(decode_json(body, list[_Passed])))  # they are objects, so each that is kept apart is one
    parts = [bytes(part) for part in decode_json(body, list[msgspec.Raw])]
    async for position, part in _in_turns(parts):
        _check(part, f"Spec {position}", index=position)
    async for position, part in _in_turns(parts):
        yield position, decode_json(part, object)


async def _in_turns(parts: list[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the parts with their positions; others have their turn in between."""
    done = 0
    for position, part in enumerate(parts):
        yield position, part
        done += len(part)
        if done > TURN_BYTES:
            done = 0
            await asyncio.sleep(0)


def _check_number(number: int) -> None:
    if not number:
        raise InvalidSpec("The list of specs is empty.")
    if number > MAX_BATCH:
        raise TooLarge(f"{number:,} specs are more than {MAX_BATCH:,}.", "Send them in several requests.")


def _check(part: bytes, what: str, **details: int) -> None:
    """Refuse the JSON of one spec that is too much.

    Raises
    ------
    TooLarge
        If it is too long, or holds too many values.
    """
    if len(part) > MAX_SPEC_BYTES:
        raise TooLarge(f"{what} is over {MAX_SPEC_BYTES >> 20} MiB.", "Send inputs as blobs.", **details)
    if count_values(part, MAX_SPEC_VALUES) > MAX_SPEC_VALUES:
        raise TooLarge(f"{what} holds more than {MAX_SPEC_VALUES:,} values.", "Send inputs as blobs.", **details)
