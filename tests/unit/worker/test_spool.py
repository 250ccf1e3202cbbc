from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbrain_nb.model.datadir import is_locked
from zbrain_nb.worker.spool import Begin, End, Frame, Kind, SpoolReader, SpoolWriter, pack, split, write_closed

FRAMES = st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=50)), max_size=20)


@given(FRAMES, st.data())
def test_split_torn_anywhere_gives_the_whole_frames_before(
    frames: list[tuple[Kind, bytes]], data: st.DataObject
) -> None:
    packed = [pack(kind, payload, ts=1.5) for kind, payload in frames]
    text = b"".join(packed)
    cut = data.draw(st.integers(0, len(text)))
    found, used = split(text[:cut])
    whole = 0
    while whole < len(packed) and sum(map(len, packed[: whole + 1])) <= cut:
        whole += 1
    assert found == [Frame(kind, 1.5, payload) for kind, payload in frames[:whole]]
    assert used == sum(map(len, packed[:whole]))


def test_split_unknown_kind_stops() -> None:
    assert split(pack(Kind.STDOUT, b"a", 1.0) + b"\x63" + b"\0" * 40)[0] == [Frame(1, 1.0, b"a")]


def test_reader_reads_on_where_it_stopped_and_waits_for_a_torn_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.1.spool"
    writer = SpoolWriter.create(path)
    writer.append(Kind.STDOUT, b"one", ts=1.0)
    reader = SpoolReader(path)
    assert reader.read() == [Frame(1, 1.0, b"one")]
    assert reader.read() == []
    late = pack(Kind.STDERR, b"two" * 100, 2.0)
    os.write(writer.descriptor, late[:50])
    assert reader.read() == []
    os.write(writer.descriptor, late[50:])
    assert reader.read() == [Frame(2, 2.0, b"two" * 100)]
    reader.rewind()
    assert len(reader.read()) == 2
    reader.close()
    writer.close()


def test_reader_frame_larger_than_its_limit_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.1.spool"
    writer = SpoolWriter.create(path)
    writer.append(Kind.EVENT, b"x" * 10_000)
    writer.append(Kind.STDOUT, b"y")
    reader = SpoolReader(path)
    assert [len(frame.payload) for frame in reader.read(limit=100)] == [10_000]
    assert [frame.payload for frame in reader.read(limit=100)] == [b"y"]
    reader.close()
    writer.close()


def test_spool_is_locked_until_closed_and_cannot_be_made_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.1.spool"
    writer = SpoolWriter.create(path)
    reader = SpoolReader(path)
    assert is_locked(path)
    assert reader.is_locked()
    with pytest.raises(FileExistsError):
        SpoolWriter.create(path)
    assert not write_closed(path, End(reason="canceled"))
    writer.close()
    assert not reader.is_locked()
    assert not is_locked(path)
    reader.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.1.spool"]


def test_append_on_a_full_disk_leaves_no_torn_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.1.spool"
    writer = SpoolWriter.create(path)
    writer.append(Kind.STDOUT, b"kept")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            writer.append(Kind.STDOUT, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.append(Kind.STDOUT, b"after")
    reader = SpoolReader(path)
    assert [frame.payload for frame in reader.read()] == [b"kept", b"after"]
    reader.close()
    writer.close()


def test_write_closed_gives_a_finished_spool(tmp_path: Path) -> None:
    path = tmp_path / "a.1.spool"
    assert write_closed(path, End(reason="unstartable", message="No."))
    reader = SpoolReader(path)
    assert not reader.is_locked()
    begin, end = reader.read()
    assert begin.kind == Kind.BEGIN
    assert b'"pid":0' in begin.payload
    assert b"unstartable" in end.payload
    assert Begin(pid=0, supervisor_pid=0).boot_id == ""
    reader.close()
