from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbrain_nb.worker import lines
from zbrain_nb.worker.lines import LineAssembler

TEXT = st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", "ü€😀".encode(), b"\xff", b"dddd"]), max_size=40)


def whole(data: bytes) -> list[str]:
    assembler = LineAssembler()
    return assembler.feed(data) + assembler.flush()


@given(TEXT, st.lists(st.integers(0, 100), max_size=8))
def test_lines_do_not_depend_on_how_bytes_were_cut(parts: list[bytes], cuts: list[int]) -> None:
    original, lines.LONGEST = lines.LONGEST, 7
    try:
        data = b"".join(parts)
        bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        assembler = LineAssembler()
        found = [line for a, b in itertools.pairwise(bounds) for line in assembler.feed(data[a:b])]
        assert found + assembler.flush() == whole(data)
    finally:
        lines.LONGEST = original


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo", ["one", "two"]),
        (b"\n\n", ["", ""]),
        (b" 10%\r 50%\r100%\n", ["100%"]),
        (b" 10%\r 50%\r", [" 50%"]),
        (b"bad \xff\xfe\n", ["bad \ufffd\ufffd"]),
        (b"x" * (lines.LONGEST + 1) + b"\n", ["x" * lines.LONGEST, "x"]),
        (b"x" * lines.LONGEST + b"\n", ["x" * lines.LONGEST]),
        (b"a\x85b\x0cc\n", ["a\ufffdb\x0cc"]),
        (b"", []),
    ],
)
def test_lines_of(data: bytes, expected: list[str]) -> None:
    assert whole(data) == expected


def test_unfinished_line_waits() -> None:
    assembler = LineAssembler()
    assert assembler.feed(b"abc") == []
    assert assembler.feed(b"def\ng") == ["abcdef"]
    assert assembler.flush() == ["g"]
    assert assembler.flush() == []
