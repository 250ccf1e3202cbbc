"""Text for a terminal: what a job wrote may not steer it."""

from __future__ import annotations

import datetime as dt

import pytest

from zbrain_nb.client.printing import elapsed, printable, short_ids
from zbrain_nb.model.job import Job, JobSpec, JobState

MARK = "\N{REPLACEMENT CHARACTER}"


def test_printable_keeps_no_escape_but_colours() -> None:
    hostile = "a\x1b[31mb\x1b[0m\x1b[2J\x1b]0;title\x07\x1bcc\u202ed\x00"
    assert printable(hostile) == f"abc{MARK}d{MARK}"
    assert printable(hostile, colours=True) == f"a\x1b[31mb\x1b[0mc{MARK}d{MARK}\x1b[0m"


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b",
        "\x1b\n",
        "\x1b\x1b[2J",
        "\x1b[",
        "\x1b[2\x072J",
        "\x9b2J",
        "\x9d0;t\x9c",
        "\x1bP1$r\x1b\\",
        "\x1b]0;t",
        "\x1b#8",
    ],
)
def test_no_escape_is_left_that_what_follows_could_complete(hostile: str) -> None:
    for colours in (False, True):
        shown = printable(f"{hostile}[2J", colours=colours)
        assert not set(shown) & set(map(chr, (0x1B, 0x07, *range(0x80, 0xA0)))), repr(shown)


def test_colour_ends_with_its_line() -> None:
    assert printable("\x1b[41mred", colours=True) == "\x1b[41mred\x1b[0m"
    assert printable("plain", colours=True) == "plain"


def test_short_ids_are_as_long_as_tells_them_apart() -> None:
    first, second = "01a224ee-45c3-7046-bf63", "01a224ee-45c3-7047-bf63"
    assert short_ids([first]) == {first: "01a224ee-45c3"}
    assert short_ids([first, second]) == {first: "01a224ee-45c3-7046", second: "01a224ee-45c3-7047"}


@pytest.mark.parametrize(("state", "shows"), [("running", True), ("retrying", False), ("pending", False)])
def test_elapsed_stands_only_where_something_runs_or_ran(state: str, shows: bool) -> None:
    begun = None if state == "pending" else dt.datetime.now(dt.UTC) - dt.timedelta(minutes=2)
    job = Job(JobSpec(cmd=["true"]), owner="ada", org_id="lab")
    job.state, job.started_at = JobState(state), begun
    assert bool(elapsed(job)) == shows
