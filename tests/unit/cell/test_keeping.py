"""What stays of a cell."""

from __future__ import annotations

import pytest

from zbrain_nb.model.payload import load_value

TIMES = "\N{MULTIPLICATION SIGN}"


def values(ran):
    return {name: load_value(v["path"]) for name, v in ran.variables.items()}


def test_auto_keeps_what_the_cell_assigns(run):
    ran = run(
        "import math\nfrom collections import OrderedDict\na = 1\n_hidden = 2\n"
        "def f(): return a\nclass C: pass\nfor i in range(3): pass\nfile = open('/dev/null')\ngen = (x for x in [1])",
        keep="auto",
    )
    assert set(ran.variables) == {"a", "f", "C", "i"}
    assert values(ran)["f"]() == 1 and values(ran)["i"] == 2
    assert ran.stderr == ""


def test_auto_keeps_what_was_assigned_before_a_failure(run):
    ran = run("a = 1\nb = [a]\n1 / 0\nc = 3", keep="auto")
    assert ran.exit_code == 1
    assert values(ran) == {"a": 1, "b": [1]}


def test_auto_says_what_could_not_be_kept(run):
    ran = run("import sqlite3\nconn = sqlite3.connect(':memory:')\na = 1", keep="auto")
    assert set(ran.variables) == {"a"}
    assert ran.stderr == "zbrain: not kept with the job: conn (Connection).\n"


def test_nothing_is_kept_unasked(run):
    assert run("a = 1").variables == {}


def test_names_asked_for_are_kept_exactly(run):
    ran = run("a, b, c = 1, 2, 3", keep=["b", "a"])
    assert values(ran) == {"b": 2, "a": 1}


def test_name_that_is_missing_fails_the_job(run):
    ran = run("a = 1", keep=["a", "b"])
    assert ran.exit_code == 1
    assert ran.finished["error"]["evalue"] == "The cell did not leave b, which --out names. Assign it, or change --out."
    assert ran.outputs[-1]["output_type"] == "error"


def test_name_that_cannot_be_pickled_fails_the_job(run):
    ran = run("gen = (i for i in [1])", keep=["gen"])
    assert ran.exit_code == 1
    assert "gen cannot be kept" in ran.finished["error"]["evalue"] and "generator" in ran.finished["error"]["evalue"]
    assert "or leave it out of --out." in ran.finished["error"]["evalue"]
    assert "--in" not in ran.finished["error"]["evalue"]


def test_names_asked_for_do_not_hide_the_cells_own_failure(run):
    ran = run("a = 1\n1 / 0", keep=["a", "b"])
    assert ran.finished["error"]["ename"] == "ZeroDivisionError"
    assert values(ran) == {"a": 1}


@pytest.mark.parametrize(
    ("make", "kind", "summary"),
    [
        ("import pandas as pd; v = pd.DataFrame({'a': range(50), 'b': 0})", "DataFrame", f"DataFrame, 50 {TIMES} 2"),
        ("import numpy as np; v = np.zeros((3, 4))", "ndarray", "ndarray (3, 4) float64"),
        ("from sklearn.linear_model import Ridge; v = Ridge()", "Ridge", "Ridge"),
        ("v = [1, 2, 3]", "list", "list of 3"),
        ("v = 'x' * 500", "str", "'" + "x" * 58 + "…"),
        ("v = 0.5", "float", "0.5"),
        ("class Mine: pass\nv = Mine()", "Mine", "Mine"),
    ],
)  # fmt: skip
def test_summary_is_short_and_says_what_it_is(run, make, kind, summary):
    [kept] = run(make, keep=["v"]).variables.values()
    assert (kept["type"], kept["summary"]) == (kind, summary)
    assert kept["size"] > 0


def test_value_over_the_cap_is_not_kept(run):
    ran = run("import numpy as np\nv = np.zeros(14_000_000)\nv")
    assert ran.finished["result"] is None and ran.exit_code == 0
    assert "zbrain: the value of type ndarray was not kept: it is over 100 MiB (limits.result_mb)." in ran.stderr


def test_auto_stops_at_the_cap(run):
    ran = run("import numpy as np\na = np.zeros(50_000_000)\nb = np.zeros(50_000_000)\nc = 1", keep="auto")
    assert set(ran.variables) == {"a", "c"}
    assert ran.stderr == "zbrain: not kept with the job: b (ndarray, over the cap of 500 MB).\n"
