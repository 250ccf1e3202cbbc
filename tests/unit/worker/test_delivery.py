from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbrain_nb.model.events import (
    AnyWorkerEvent,
    JobCompleted,
    JobDisplayed,
    JobFailed,
    JobLogged,
    JobProgress,
    JobStarted,
    LogStream,
)
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.lines import LineAssembler
from zbrain_nb.worker.request import LOG_BYTES
from zbrain_nb.worker.spool import Frame, Kind

BEGIN = Frame(Kind.BEGIN, 0.0, b'{"pid":1,"supervisor_pid":2}')
END = Frame(Kind.END, 99.0, b'{"reason":"exited","exit_code":0}')
DISPLAY = b'{"kind":"displayed","outputs":[{"output_type":"display_data"}]}'


def event(**fields: Any) -> Frame:
    return Frame(Kind.EVENT, 5.0, msgspec.json.encode(fields))


def feed(frames: list[Frame], high: int = 0, cap_bytes: int = LOG_BYTES) -> Delivery:
    delivery = Delivery("j", 1, "w", high, cap_bytes)
    for frame in frames:
        delivery.feed(frame)
    if delivery.end is not None:
        delivery.close(JobCompleted(job_id="j"))
    return delivery


def flat(events: list[AnyWorkerEvent]) -> list[Any]:
    """What a reader sees, however it was cut into events."""
    seen: list[Any] = []
    for one in events:
        seen += one.lines if isinstance(one, JobLogged) else [msgspec.structs.replace(one, after=None, seq=None)]
    return seen


def in_order(events: list[AnyWorkerEvent], high: int = 0) -> int:
    for one in events:
        assert one.after == high
        assert one.seq is not None
        assert one.seq > high
        high = one.seq
    return high


def test_events_of_a_short_run() -> None:
    frames = [
        BEGIN,
        Frame(Kind.STDOUT, 1.0, b"a\nb"),
        Frame(Kind.STDERR, 2.0, b"e\n"),
        event(kind="progress", fraction=2),
    ]
    events, _ = feed([*frames, END]).take(10**6)
    assert [type(one) for one in events] == [JobStarted, JobLogged, JobProgress, JobLogged, JobCompleted]
    assert events[1].lines == [(LogStream.STDOUT, 1.0, "a"), (LogStream.STDERR, 2.0, "e")]  # type: ignore[union-attr]
    assert events[2].progress == {"fraction": 1.0, "note": None}  # type: ignore[union-attr]
    assert events[3].lines == [(LogStream.STDOUT, 99.0, "b")]  # type: ignore[union-attr]
    in_order(events)


def test_display_pushes_out_the_unfinished_line_before_it() -> None:
    frames = [BEGIN, Frame(Kind.STDOUT, 1.0, b"loading "), Frame(Kind.EVENT, 2.0, DISPLAY)]
    events, _ = feed(frames).take(10**6)
    assert [type(one) for one in events] == [JobStarted, JobLogged, JobDisplayed]
    in_order(events)


def test_broken_events_count_but_say_nothing() -> None:
    frames = [BEGIN, Frame(Kind.EVENT, 1.0, b"{not json"), Frame(Kind.EVENT, 1.0, b"[1]"), event(kind="what"), END]
    events, _ = feed(frames).take(10**6)
    assert [type(one) for one in events] == [JobStarted, JobCompleted]
    assert events[-1].seq == 20


PIECES = st.one_of(
    st.binary(max_size=12).map(lambda data: Frame(Kind.STDOUT, 1.0, data.replace(b"\x00", b"\n"))),
    st.sampled_from([b"x", b"y\n", b"z\r", b"1\n2\n3"]).map(lambda data: Frame(Kind.STDERR, 2.0, data)),
    st.just(Frame(Kind.EVENT, 3.0, DISPLAY)),
    st.just(event(kind="progress", fraction=0.5)),
    st.just(Frame(Kind.MARK, 4.0, b"dropped")),
)


@given(st.lists(PIECES, max_size=15), st.data())
def test_what_follows_is_the_same_after_any_interruption(pieces: list[Frame], data: st.DataObject) -> None:
    """A worker dies after any acknowledged event, however events were cut, and another goes on."""
    frames = [BEGIN, *pieces, END]
    whole, _ = feed(frames).take(10**9)
    delivered: list[AnyWorkerEvent] = []
    first = Delivery("j", 1, "w")
    for frame in frames[: data.draw(st.integers(0, len(frames)))]:
        first.feed(frame)
        if data.draw(st.booleans()):
            events, _ = first.take(data.draw(st.integers(0, 200)))
            delivered += events
            if events:
                assert first.acknowledge(events[-1].seq or 0)
    high = in_order(delivered)
    rest, _ = feed(frames, high).take(10**9)
    in_order(rest, high)
    assert flat(delivered + rest) == flat(whole)


def test_acknowledge_drops_what_is_taken_and_tells_when_the_queue_lacks_more() -> None:
    delivery = feed([BEGIN, Frame(Kind.STDOUT, 1.0, b"a\n"), Frame(Kind.EVENT, 2.0, DISPLAY)])
    assert delivery.urgent
    assert len(delivery.take(10**6)[0]) == 3
    assert not delivery.urgent
    assert delivery.acknowledge(8)
    assert [type(one) for one in delivery.take(10**6)[0]] == [JobDisplayed]
    assert not delivery.acknowledge(4)
    assert delivery.acknowledge(12)
    assert not delivery.waiting
    assert delivery.waiting_bytes == 0


def test_take_keeps_to_its_limit_but_gives_at_least_one() -> None:
    delivery = feed([Frame(Kind.EVENT, 1.0, b'{"kind":"displayed","outputs":[]}' + b" " * 1000)] * 3)
    assert len(delivery.take(1)[0]) == 1
    assert len(delivery.take(2100)[0]) == 2


@pytest.mark.parametrize("high", [0, 4, 5, 12, 4000])
def test_lost_run_ends_after_all_that_the_queue_has(high: int) -> None:
    delivery = Delivery("j", 1, "w", high)
    delivery.feed(BEGIN)
    delivery.feed(Frame(Kind.STDOUT, 1.0, b"tail"))
    delivery.lose(7.0)
    delivery.close(JobFailed(job_id="j", lost=True), ["It vanished."])
    events, _ = delivery.take(10**6)
    in_order(events, high)
    assert isinstance(events[-1], JobFailed)


def test_substitute_puts_something_acceptable_in_place() -> None:
    delivery = feed([BEGIN, Frame(Kind.EVENT, 2.0, DISPLAY), END])
    delivery.acknowledge(4)
    assert delivery.substitute("too large")
    events, _ = delivery.take(10**6)
    in_order(events, 4)
    assert "too large" in events[0].lines[0][2]  # type: ignore[union-attr]
    assert not delivery.substitute("still")
    delivery = feed([END])
    assert delivery.substitute("bad output")
    (ending,) = delivery.take(10**6)[0]
    assert isinstance(ending, JobFailed)
    assert "bad output" in (ending.reason or "")
    assert not delivery.substitute("still")


@pytest.mark.parametrize("high", [0, 8, 12, 4004])
def test_log_over_its_cap_keeps_the_head_and_the_last_lines(monkeypatch: pytest.MonkeyPatch, high: int) -> None:
    frames = [BEGIN, *(Frame(Kind.STDOUT, 1.0, b"line %d\n" % i) for i in range(5000)), END]
    events, _ = feed(frames, high, 100 * 1024).take(10**9)
    in_order(events, high)
    lines = [line for event in events if isinstance(event, JobLogged) for _, _, line in event.lines]
    if high == 0:
        assert lines[0] == "line 0"
        assert len(lines) < 2500
        assert sum("only its last lines are kept" in line for line in lines) == 1
    assert lines[-200:] == [f"line {i}" for i in range(4800, 5000)]
    assert "lines were left out here" in lines[-201]


def test_log_over_its_cap_with_the_first_frame_keeps_the_head_of_that() -> None:
    frames = [BEGIN, Frame(Kind.STDOUT, 1.0, b"".join(b"line %d\n" % i for i in range(5000))), END]
    events, _ = feed(frames, 0, 100 * 1024).take(10**9)
    in_order(events, 0)
    lines = lines_of(events)
    mark = next(at for at, line in enumerate(lines) if "only its last lines are kept" in line)
    assert 1000 < mark < 2500
    assert lines[:mark] == [f"line {i}" for i in range(mark)]
    assert lines[-200:] == [f"line {i}" for i in range(4800, 5000)]
    assert lines[-201] == f"{5000 - 200 - mark:,} lines were left out here."


RESTS = [
    BEGIN,
    Frame(Kind.STDOUT, 1.0, (b"l" * 52 + b"\n") * 2100 + b"P" * 60000),
    Frame(Kind.STDERR, 2.0, b"FATAL tail on stderr"),
    END,
]


def lines_of(events: list[AnyWorkerEvent]) -> list[str]:
    return [line for one in events if isinstance(one, JobLogged) for _, _, line in one.lines]


@pytest.mark.parametrize("bound", [1, 60_000, 256 * 1024])
@pytest.mark.parametrize("lost", [False, True])
def test_unfinished_lines_of_both_streams_come_once_whatever_the_bounds(
    monkeypatch: pytest.MonkeyPatch, bound: int, lost: bool
) -> None:
    """Also when the worker is killed after any of the events."""
    monkeypatch.setattr("zbrain_nb.worker.delivery._LINES_BYTES", bound)

    def run(high: int) -> list[AnyWorkerEvent]:
        delivery = feed(RESTS[: 3 if lost else 4], high)
        if lost:
            delivery.lose(9.0)
            delivery.close(JobFailed(job_id="j", lost=True))
        return delivery.take(10**9)[0]

    whole = run(0)
    lines = lines_of(whole)
    assert lines.count("FATAL tail on stderr") == 1
    assert lines.count("P" * 60000) == 1
    assert len(lines) == 2102
    for at, one in enumerate(whole):
        rest = run(one.seq or 0)
        in_order(rest, one.seq or 0)
        assert lines_of(whole[: at + 1] + rest) == lines


def test_output_over_the_cap_is_neither_split_nor_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    original = LineAssembler.feed

    def spy(self: LineAssembler, data: bytes) -> list[str]:
        fed.append(len(data))
        return original(self, data)

    monkeypatch.setattr(LineAssembler, "feed", spy)
    frames = [BEGIN, Frame(Kind.STDOUT, 1.0, b"cut "), *[Frame(Kind.STDOUT, 1.0, b"yes\n" * 16384)] * 200]
    events, _ = feed([*frames, Frame(Kind.STDERR, 2.0, b"last words"), END], cap_bytes=100 * 1024).take(10**9)
    assert sum(fed) < 600_000
    lines = lines_of(events)
    assert lines[-200:] == ["yes"] * 199 + ["last words"]
    told = next(at for at, line in enumerate(lines) if "only its last lines are kept" in line)
    assert f"{16384 * 200 - 199 - told:,} lines were left out here." in lines


NUMBERED = re.compile(r"\d+\.\d+$")


def chatty(count: int) -> list[Frame]:
    return [Frame(Kind.STDOUT, 1.0, b"".join(b"%d.%d\n" % (i, k) for k in range(1000))) for i in range(count)]


@pytest.mark.parametrize("taken", [0, 1, 10**5])
@pytest.mark.parametrize("at", [2, 40, 90])
def test_cancel_leaves_out_the_backlog_with_a_mark(at: int, taken: int) -> None:
    frames = [BEGIN, *chatty(90), Frame(Kind.EVENT, 2.0, DISPLAY), Frame(Kind.STDERR, 3.0, b"bye"), END]
    delivery = feed(frames[:at])
    on_the_way, _ = delivery.take(taken) if taken else ([], 0)
    delivery.hurry()
    for frame in frames[at:]:
        delivery.feed(frame)
    delivery.close(JobCompleted(job_id="j"))
    events, _ = delivery.take(10**9)
    assert events[: len(on_the_way)] == on_the_way  # the queue may have these already
    in_order(events)
    lines = lines_of(events)
    assert sum(map(len, lines)) < 900_000
    assert any("was canceled" in line or "left out here" in line for line in lines)
    assert lines[-1] == "bye"
    assert lines[-2] == "89.999"
    numbered = [line for line in lines if NUMBERED.match(line)]
    assert len(numbered) == len(set(numbered))
    assert numbered == sorted(numbered, key=lambda line: tuple(map(int, line.split("."))))
    assert sum(isinstance(one, JobDisplayed) for one in events) == 1
    assert isinstance(events[-1], JobCompleted)


def test_cancel_of_a_quiet_job_leaves_nothing_out() -> None:
    delivery = feed([BEGIN, Frame(Kind.STDOUT, 1.0, b"a\nb")])
    delivery.hurry()
    for frame in [Frame(Kind.STDOUT, 1.0, b"c\ntidy\n"), END]:
        delivery.feed(frame)
    delivery.close(JobCompleted(job_id="j"))
    assert lines_of(delivery.take(10**6)[0]) == ["a", "bc", "tidy"]


@pytest.mark.parametrize("again", [0, 3, 30, 93])
def test_cancel_and_a_killed_worker_no_line_comes_twice(again: int) -> None:
    """The first worker hears of the cancel at frame 20, the second one at `again`."""
    frames = [BEGIN, *chatty(45), Frame(Kind.EVENT, 2.0, DISPLAY), *chatty(90)[45:], END]

    def run(high: int, at: int) -> list[AnyWorkerEvent]:
        delivery = Delivery("j", 1, "w", high)
        for number, frame in enumerate(frames):
            if number == at:
                delivery.hurry()
            delivery.feed(frame)
        delivery.close(JobCompleted(job_id="j"))
        return delivery.take(10**9)[0]

    first = run(0, 20)
    for at, one in enumerate(first):
        rest = run(one.seq or 0, again)
        in_order(rest, one.seq or 0)
        numbered = [line for line in lines_of(first[: at + 1] + rest) if NUMBERED.match(line)]
        assert len(numbered) == len(set(numbered))
