"""Values that shall not be read: hidden however they are cut into writes, in all that a job says."""

from __future__ import annotations

import base64

import pytest

from zbrain_nb.model.events import JobCompleted, JobDisplayed, JobFailed, JobLogged, JobProgress
from zbrain_nb.model.job import Variable
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.lines import LONGEST, LineAssembler
from zbrain_nb.worker.masking import Mask
from zbrain_nb.worker.spool import Frame, Kind

SECRET = 'p4ss "w/ord+é'
MASK = Mask([SECRET, "first line of many\nsecond line of many"])


@pytest.mark.parametrize("size", [1, 2, 5, 7, 1000])
def test_value_in_a_line_is_hidden_however_it_was_written(size: int) -> None:
    data = f"a {SECRET} b\nfirst line of many\n  second line of many!\rc {SECRET}\nend {SECRET}".encode()
    lines = LineAssembler(MASK)
    said = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])] + lines.flush()
    assert said == ["a *** b", "***", "c ***", "end ***"]


@pytest.mark.parametrize("before", range(LONGEST - 20, LONGEST + 3))
def test_value_where_an_overlong_line_is_cut_is_hidden(before: int) -> None:
    data = b"x" * before + SECRET.encode() + b"y" * 100
    for pieces in ([data + b"\n"], [data[: before + 5], data[before + 5 :], b"\n"]):
        lines = LineAssembler(MASK)
        said = [line for piece in pieces for line in lines.feed(piece)]
        assert "".join(said) == "x" * before + "***" + "y" * 100
        assert max(map(len, said)) <= LONGEST + MASK.longest


@pytest.mark.parametrize(
    "spelling",
    [
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
        "p4ss%20%22w%2Ford%2B%C3%A9",
        "p4ss+%22w%2Ford%2B%C3%A9",
        'p4ss \\"w/ord+\\u00e9',
    ],
)
def test_usual_spelling_is_hidden(spelling: str) -> None:
    assert MASK.text(f"<{spelling}>").rstrip("=>") == "<***"


def test_mask_of_nothing_hides_nothing() -> None:
    assert Mask(["", " "]).text("a b") == "a b"
    assert Mask().tree({"a": [1, "b"]}) == {"a": [1, "b"]}


def _frame(kind: Kind, payload: bytes) -> Frame:
    return Frame(kind, 1.0, payload)


def test_all_that_is_told_of_an_attempt_is_masked() -> None:
    delivery = Delivery("j", 1, "w", mask=MASK)
    text = SECRET.replace('"', '\\"').encode()
    delivery.feed(_frame(Kind.STDOUT, f"{SECRET}\n".encode()))
    delivery.feed(_frame(Kind.STDERR, SECRET.encode()))
    output = b'{"kind": "displayed", "outputs": [{"data": {"text/html": "<b>%s"}, "metadata": {"%s": [1]}}]}'
    delivery.feed(_frame(Kind.EVENT, output % (text, text)))
    delivery.feed(_frame(Kind.EVENT, b'{"kind": "progress", "note": "at %s"}' % text))
    delivery.feed(_frame(Kind.MARK, SECRET.encode()))
    failed = JobFailed("j", error={"traceback": [SECRET]}, reason=f"ValueError: {SECRET}")
    delivery.close(failed, [f"it left {SECRET}"])
    events, _ = delivery.take(1 << 20)
    assert {type(event) for event in events} == {JobLogged, JobDisplayed, JobProgress, JobFailed}
    assert SECRET not in repr(events) and "p4ss" not in repr(events)
    assert repr(events).count("***") == 9
    done = Delivery("j", 1, "w", mask=MASK)
    variable = Variable(name="v", type="str", summary=SECRET, sha256="0" * 64, size=1)
    done.close(JobCompleted("j", output={"x": [SECRET]}, variables=[variable]))
    (ending,) = done.take(1 << 20)[0]
    assert isinstance(ending, JobCompleted)
    assert (ending.output, ending.variables[0].summary) == ({"x": ["***"]}, "***")
