"""The line of %%zbrain."""

from __future__ import annotations

import pytest

from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook.arguments import parse_line


def test_line_empty_gives_defaults() -> None:
    options = parse_line("")
    assert (options.ship, options.keep, options.wait, options.shell) == ("auto", "auto", None, False)


def test_line_full_is_read() -> None:
    options = parse_line('--name "two words" --in a,b --out c --job j --wait --timeout 5 --env A=b=c')
    assert (options.name, options.ship, options.keep, options.job) == ("two words", ["a", "b"], ["c"], "j")
    assert (options.wait, options.timeout, options.env) == (True, 5.0, ["A=b=c"])
    assert parse_line("--no-wait  # for now").wait is False
    named = parse_line("--name exp#3 --env 'COLOR=#fff #1' --timeout 60 #--new")
    assert (named.name, named.env, named.timeout, named.new) == ("exp#3", ["COLOR=#fff #1"], 60, False)
    assert parse_line("--notify-after 90").notify_after == 90.0


def test_line_says_resources_and_limits() -> None:
    options = parse_line("--cpus 2 --mem 1.5G --limit cpu_secs=60 --limit log_mb=0.5")
    assert options.resources == {"cpus": 2.0, "memory_mb": 1536}
    assert options.limit == ["cpu_secs=60", "log_mb=0.5"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--mem 16", "'16' is no size such as 16G or 512M"),
        ("--timout 3", r"does not know '--timout'. Did you mean --timeout\?"),
        ("--frobnicate", "does not know '--frobnicate'. It knows --name"),
        ("--name two words", "does not know 'words'. A value with spaces needs quotes."),
        ("--grid lr=1,2 depth=2,3", "does not know 'depth=2,3'. Each NAME=VALUE has a flag before it, as in --grid"),
        ("--notify-after -1", "'-1' is no number of seconds"),
        ("--timeout soon", "invalid float value: 'soon'"),
        ("--out 1a", "'1a' is no list of names"),
        ("--job a.b", "'a.b' is no variable's name"),
        ('--name "open', "cannot be read"),
        ("--env A", "takes NAME=VALUE, not 'A'"),
        ("--in", "expected one argument"),
        ("--shell --out x", "a shell script takes no variables along"),
        ("--job m --out m,n", "'m' cannot be the job's handle and its result"),
    ],
)
def test_line_wrong_is_one_sentence_that_helps(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_line(line)
