"""What a cell takes along."""

from __future__ import annotations

import warnings

import pytest

from zbrain_nb.model.environment import travelling_environ
from zbrain_nb.model.errors import NotPicklable, TooLarge, UsageError
from zbrain_nb.model.payload import Reader
from zbrain_nb.notebook.options import set_options
from zbrain_nb.notebook.shipping import OPTIONS, ship_cell


def loaded(shipment):
    namespace: dict = {}
    values = Reader(shipment.parcel.data, "cell").load(namespace)
    values.pop(OPTIONS)
    return values


def test_auto_ships_what_the_cell_reads_and_what_its_functions_read(notebook):
    notebook.run_cell("import math\nbig = [1, 2]\nunused = 3\nrate = 2\ndef helper(x): return math.sqrt(x) * rate")
    shipment = ship_cell(notebook, "out = helper(big[0])")
    assert [(v.name, v.type, v.summary) for v in shipment.variables] == [
        ("helper", "function", "function helper"),
        ("big", "list", "list of 2"),
        ("rate", "int", "2"),
    ]
    assert shipment.imports == ["import math"]
    assert all(v.size > 0 for v in shipment.variables)
    assert set(loaded(shipment)) == {"helper", "big", "rate", "math"}
    assert shipment.capture.assigned == {"out"}


def test_none_ships_imports_only(notebook):
    notebook.run_cell("import math\nfrom math import sqrt\nx = 1")
    shipment = ship_cell(notebook, "sqrt(math.pi + x)", "none")
    assert shipment.variables == [] and shipment.imports == ["from math import sqrt", "import math"]


def test_names_given_are_shipped_and_no_others(notebook):
    notebook.run_cell("a, b = 1, 2")
    assert [v.name for v in ship_cell(notebook, "a", ["b"]).variables] == ["b"]


def test_name_that_does_not_exist_is_named(notebook):
    with pytest.raises(UsageError, match="The notebook has no nothing, which --in names"):
        ship_cell(notebook, "1", ["nothing"])


def test_over_the_limit_auto_names_the_biggest_and_names_given_go(notebook):
    notebook.run_cell("small, big, bigger = 'x', 'y' * 1000, 'z' * 2000")
    with pytest.raises(TooLarge) as caught:
        ship_cell(notebook, "small, big, bigger", limit_bytes=2500)
    assert "bigger (str, 2.0 kB), big (str," in caught.value.message and "more than 2.4 kB" in caught.value.message
    assert "--in" in caught.value.hint
    assert len(ship_cell(notebook, "1", ["big", "bigger"], limit_bytes=2500).variables) == 2


def test_unpicklables_are_named_together(notebook):
    notebook.run_cell("import sqlite3\nconn = sqlite3.connect(':memory:')\ngen = (i for i in [1])")
    with pytest.raises(NotPicklable) as caught:
        ship_cell(notebook, "conn, gen")
    notebook.run_cell("conn.close()")
    assert caught.value.details["names"] == ["conn", "gen"]


def test_fingerprint_knows_values_but_not_the_cells_number(notebook):
    notebook.run_cell("x = 1\ndef f(): return x", store_history=True)
    first = ship_cell(notebook, "f()")
    notebook.execution_count += 5
    second = ship_cell(notebook, "f()")
    notebook.run_cell("x = 2")
    assert first.fingerprint == second.fingerprint != ship_cell(notebook, "f()").fingerprint
    assert first.parcel != second.parcel


def test_cell_numbers_of_shipped_functions_travel(notebook):
    notebook.run_cell("def f(): return 1", store_history=True)
    notebook.run_cell("pass", store_history=True)
    header = Reader(ship_cell(notebook, "f()").parcel.data).header
    [name] = header["sources"]
    assert header["cells"] == {name: 1} and header["sources"][name] == "def f(): return 1\n"
    assert header["execution_count"] == 2


def test_only_differences_from_the_defaults_are_options(notebook):
    import matplotlib as mpl
    import numpy as np
    import pandas as pd

    assert set_options(notebook) == {}
    notebook.run_cell("%precision 3\nget_ipython().ast_node_interactivity = 'all'")
    with (
        mpl.rc_context({"lines.linewidth": 9}),
        np.printoptions(precision=2),
        np.errstate(divide="ignore"),
        pd.option_context("display.max_rows", 7),
    ):
        options = set_options(notebook)
    np.set_printoptions(precision=8)  # which %precision has set too
    assert options["matplotlib"] == {"lines.linewidth": 9}
    assert options["numpy"] == {"precision": 2} and options["numpy_errors"] == {"divide": "ignore"}
    assert options["pandas"] == {"display.max_rows": 7}
    assert options["float_precision"] == "3" and options["shell"] == {"ast_node_interactivity": "all"}


def test_warning_filters_travel(notebook):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mine", category=UserWarning)
        header = Reader(ship_cell(notebook, "1").parcel.data).header
    assert len(header["warnings"]) == len(warnings.filters) + 1


def test_environ_leaves_secrets_and_jupyter_behind():
    withheld = "JPY_PARENT_PID JUPYTERHUB_USER ZBRAIN_URL HF_TOKEN my_secret AWS_ACCESS_KEY_ID DB_PASSWORD"
    environ = dict.fromkeys(["HOME", *withheld.split(), "LANG"], "x")
    assert list(travelling_environ(environ)) == ["HOME", "LANG"]
