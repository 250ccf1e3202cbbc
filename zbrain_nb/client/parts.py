"""Cuts a submit into requests that a server takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from zbrain_nb.model.job import JobSpec

#: Jobs and bytes in one request at most; a spec that is longer goes alone.
PART_JOBS, PART_BYTES = 10_000, 16 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


def parts_of(specs: Sequence[JobSpec]) -> Iterator[tuple[Sequence[JobSpec], list[msgspec.Raw]]]:
    """Yield the specs in parts, in order, each with the JSON of its specs; none at all are one part."""
    start, size = 0, 0
    encoded: list[msgspec.Raw] = []
    for end, spec in enumerate(specs):
        text = _encode(spec)
        if encoded and (len(encoded) == PART_JOBS or size + len(text) > PART_BYTES):
            yield specs[start:end], encoded
            start, size, encoded = end, 0, []
        encoded.append(msgspec.Raw(text))
        size += len(text) + 1
    yield specs[start:], encoded
