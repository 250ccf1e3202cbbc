"""Makes specs of the body of a submit; one that is too much is refused before it takes memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from zbrain_nb.model.checks import brief
from zbrain_nb.model.errors import InvalidSpec, TooLarge
from zbrain_nb.model.job import MAX_SPEC_BYTES, JobSpec
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.handlers.base import decode_json, field_of

#: Jobs in one request.
MAX_BATCH = 10_000
#: A longer body is looked through before it is decoded, which may take thirty times its length.
LONG_BYTES = 1024 * 1024
_IS_LIST = re.compile(rb"\s*\[").match


class _Passed(msgspec.Struct, gc=False):
    """Any JSON object, passed over."""


def read_specs(body: bytes, settings: Settings, key: str | None) -> tuple[list[JobSpec], bool]:
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
        If a spec is too long, or there are too many.
    """
    items: Iterable[Any]
    if len(body) > LONG_BYTES:
        many = _IS_LIST(body) is not None
        items = _look_through(body) if many else [decode_json(_checked(body, "The spec"), object)]
    else:
        raw = decode_json(body, object)
        many = isinstance(raw, list)
        items = raw if isinstance(raw, list) else [raw]
        if many:
            _check_number(len(items))
    if not many and key:
        for raw in items:
            if isinstance(raw, dict) and raw.get("idempotency_key") is None:
                raw["idempotency_key"] = key
    return [read_spec(item, settings, where=f"Spec {n}: " if many else "") for n, item in enumerate(items)], many


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


def _look_through(body: bytes) -> Iterable[Any]:
    """Return the specs in a long list, to be decoded one by one."""
    _check_number(len(decode_json(body, list[_Passed])))  # they are objects, so each that is kept apart is one
    parts = decode_json(body, list[msgspec.Raw])
    for position, part in enumerate(parts):
        _checked(memoryview(part), f"Spec {position}", index=position)
    return (decode_json(part, object) for part in parts)


def _check_number(number: int) -> None:
    if not number:
        raise InvalidSpec("The list of specs is empty.")
    if number > MAX_BATCH:
        raise TooLarge(f"{number:,} specs are more than {MAX_BATCH:,}.", "Send them in several requests.")


def _checked(part: bytes | memoryview, what: str, **details: int) -> Any:
    """Return the JSON of one spec.

    Raises
    ------
    TooLarge
        If it is too long.
    """
    if len(part) > MAX_SPEC_BYTES:
        raise TooLarge(f"{what} is over {MAX_SPEC_BYTES >> 20} MiB.", "Send inputs as blobs.", **details)
    return part
