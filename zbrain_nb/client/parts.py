"""Cuts a submit into requests that a server takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from zbrain_nb.model.amounts import MAX_SPEC_VALUES, MAX_VALUES, count_values
from zbrain_nb.model.job import JobSpec

#: Jobs, bytes and JSON values in one request at most; a spec that is longer goes alone.
PART_JOBS, PART_BYTES, PART_VALUES = 10_000, 16 * 1024 * 1024, MAX_VALUES

_encode = msgspec.json.Encoder().encode


def parts_of(specs: Sequence[JobSpec]) -> Iterator[tuple[Sequence[JobSpec], list[msgspec.Raw]]]:
    """Yield the specs in parts, in order, each with the JSON of its specs; none at all are one part."""
    start, size, values = 0, 0, 1
    encoded: list[msgspec.Raw] = []
    for end, spec in enumerate(specs):
        text = _encode(spec)
        more = count_values(text, MAX_SPEC_VALUES)  # a spec with more is refused
        if encoded and (len(encoded) == PART_JOBS or size + len(text) > PART_BYTES or values + more > PART_VALUES):
            yield specs[start:end], encoded
            start, size, values, encoded = end, 0, 1, []
        encoded.append(msgspec.Raw(text))
        size += len(text) + 1
        values += more
    yield specs[start:], encoded
