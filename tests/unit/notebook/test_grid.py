"""``--grid``: values become combinations."""

from __future__ import annotations

from typing import Any

import pytest

from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook.arguments import parse_line
from zbrain_nb.notebook.grid import combinations, parse_grid


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=0.1,0.01", [0.1, 0.01]),
        ("x=1", [1]),
        ("x=(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("x='a,b','c'", ["a,b", "c"]),
        ("x=adam,sgd,1", ["adam", "sgd", 1]),
        ("x=None,True", [None, True]),
        ("x=a=b", ["a=b"]),
    ],
)
def test_values_are_literals_else_text(text: str, values: list[Any]) -> None:
    assert parse_grid([text]) == {"x": values}


def test_each_combination_once_the_last_name_fastest() -> None:
    assert combinations(parse_grid(["a=1,2", "b=x,y"])) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--grid lr", "takes name=value,value, not 'lr'"),
        ("--grid lr=", "takes name=value,value, not 'lr='"),
        ("--grid 1x=2", "takes name=value,value"),
        ("--grid a=1 --grid a=2", "names 'a' twice"),
        (
            "--grid " + "a=" + ",".join(map(str, range(200))) + " --grid b=" + ",".join(map(str, range(200))),
            "40,000 runs",
        ),
        ("--max-parallel 2", "goes with --grid"),
        ("--grid a=1 --max-parallel 0", "is 1 or more"),
        ("--grid a=1 --out model", "cannot be bound by many runs"),
        ("--grid a=1 --shell", "a shell script has not"),
    ],
)
def test_what_cannot_be_is_said(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_line(line)
