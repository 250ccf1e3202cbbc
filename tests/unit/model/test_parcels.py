"""Payloads whose large buffers are apart, so that the same data travel once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.packing import MAX_APART, Packing
from zbrain_nb.model.payload import Reader, load_call, pack_arguments, pack_call, parcel_call

LARGE = 200_000  # of float64: 1.6 MB


def laid(folder: Path, parts: dict[str, memoryview]) -> dict[str, str]:
    for sha256, part in parts.items():
        (folder / sha256).write_bytes(part)
    return {sha256: str(folder / sha256) for sha256 in parts}


def test_large_buffers_are_apart_under_their_hash_and_small_ones_are_not():
    large, small = np.arange(float(LARGE)), np.arange(10.0)
    parcel = Packing({"large": large, "small": small}).parcel("names")
    assert {hashlib.sha256(large.tobytes()).hexdigest()} == set(parcel.apart)
    assert len(parcel.data) < 10_000


def test_same_data_of_two_parcels_has_the_same_name():
    frame = np.random.default_rng(1).random(LARGE)
    first = Packing({"a": frame, "b": 1}).parcel("names")
    second = Packing({"c": [frame, "more"]}).parcel("names")
    assert first.data != second.data
    assert set(first.apart) == set(second.apart)


def test_parcel_comes_back_with_aliases_shared_and_equal_arrays_of_their_own(tmp_path):
    array = np.arange(float(LARGE))
    parcel = Packing({"a": array, "alias": array, "equal": array.copy()}).parcel("names")
    assert len(parcel.apart) == 1
    values = Reader(parcel.data, "names", laid(tmp_path, parcel.apart)).load({})
    assert values["a"] is values["alias"]
    values["a"][0] = -1.0
    assert values["equal"][0] == 0.0
    assert (values["equal"] == array).all()


def test_call_and_its_arguments_come_back_from_parcels(tmp_path):
    array = np.arange(float(LARGE))
    call = parcel_call(lambda x, y: (x.sum(), y), (array,), {})
    more = pack_arguments((7,))
    function, args, kwargs = load_call(call.data, None, more.data, laid(tmp_path, call.apart))
    assert function(*args, **kwargs) == (array.sum(), 7)


def test_missing_part_is_named():
    parcel = Packing({"a": np.arange(float(LARGE))}).parcel("names")
    with pytest.raises(ZBrainError, match=f"not here: {next(iter(parcel.apart))[:12]}"):
        Reader(parcel.data, "names")


def test_cut_part_is_refused(tmp_path):
    parcel = Packing({"a": np.arange(float(LARGE))}).parcel("names")
    paths = laid(tmp_path, parcel.apart)
    for path in paths.values():
        Path(path).write_bytes(b"short")
    with pytest.raises(ZBrainError, match="cut off: 5 of 1,600,000 bytes"):
        Reader(parcel.data, "names", paths)


def test_no_more_parts_than_a_job_has_inputs_for_and_the_largest_are_apart(tmp_path):
    arrays = [np.full(131_072 + n, float(n)) for n in range(MAX_APART + 6)]
    parcel = Packing({"all": arrays}).parcel("names")
    assert {part.nbytes for part in parcel.apart.values()} == {array.nbytes for array in arrays[6:]}
    values = Reader(parcel.data, "names", laid(tmp_path, parcel.apart)).load({})
    assert all((one == other).all() for one, other in zip(values["all"], arrays, strict=True))


def test_whole_payload_holds_everything():
    data = pack_call(lambda x: x.sum(), (np.ones(LARGE),))
    function, args, _ = load_call(data)
    assert function(*args) == LARGE
