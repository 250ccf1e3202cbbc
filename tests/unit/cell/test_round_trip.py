"""From a notebook through a job and back."""

from __future__ import annotations

import logging
import re
import sys
import warnings

import pytest

from zbrain_nb.model.payload import load_value
from zbrain_nb.notebook.shipping import ship_cell


@pytest.fixture
def zb(notebook, run, tmp_path):
    """Run a cell of the notebook as ``%%zbrain`` would."""

    def run_shipped(code, names="auto", **request):
        path = tmp_path / "cell"
        path.write_bytes(ship_cell(notebook, code, names).parcel.data)
        return run(code, inputs={"cell": str(path)}, **request)

    return run_shipped


def text_of(ran):
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(ran.finished["error"]["traceback"]))


def test_frame_and_function_give_the_same_result_as_in_place(notebook, zb):
    notebook.run_cell(
        "import numpy as np, pandas as pd\nrng = np.random.default_rng(0)\n"
        "df = pd.DataFrame({'g': list('abab'), 'x': rng.random(4)})\nscale = 10\n"
        "def summarise(frame): return frame.groupby('g').x.sum() * scale"
    )
    cell = "total = summarise(df)\ntotal.to_dict()"
    ran = zb(cell, keep="auto")
    here = notebook.run_cell(cell).result
    assert load_value(ran.finished["result"]) == here
    assert load_value(ran.variables["total"]["path"]).equals(notebook.user_ns["total"])


def test_class_of_the_notebook_stays_the_same_class(notebook, zb):
    notebook.run_cell("class Model:\n    def fit(self): self.done = True; return self\nmodel = Model()")
    ran = zb("model.fit()\nother = Model()\nother", keep="auto")
    assert isinstance(load_value(ran.finished["result"]), notebook.user_ns["Model"])
    fitted = load_value(ran.variables["model"]["path"])
    assert type(fitted) is notebook.user_ns["Model"] and fitted.done
    assert not hasattr(notebook.user_ns["model"], "done")


def test_change_in_place_comes_back(notebook, zb):
    notebook.run_cell("rows, table, untouched = [1], {}, [0]")
    ran = zb("rows.append(2)\ntable['k'] = len(untouched)", keep="auto")
    assert {n: load_value(v["path"]) for n, v in ran.variables.items()} == {"rows": [1, 2], "table": {"k": 1}}


def test_helper_redefined_in_the_cell_is_seen(notebook, zb):
    notebook.run_cell("def helper(): return 'old'\ndef work(): return helper()")
    assert zb("def helper(): return 'new'\nwork()").finished["output"] == "'new'"


def test_global_of_a_function_counts_in_the_cell(notebook, zb):
    notebook.run_cell("count = 1\ndef up():\n    global count\n    count += 1")
    assert zb("up(); up()\ncount").finished["output"] == "3"
    assert notebook.user_ns["count"] == 1


def test_names_not_given_are_not_there(notebook, zb):
    notebook.run_cell("a, b = 1, 2")
    ran = zb("a + b", ["a"])
    assert ran.finished["error"]["ename"] == "NameError" and "'b'" in ran.finished["error"]["evalue"]


def test_traceback_shows_cell_number_and_lines_of_notebook_functions(notebook, zb):
    notebook.run_cell("x = 1", store_history=True)
    notebook.run_cell("def broken(v):\n    return v / 0", store_history=True)
    notebook.execution_count = 8
    ran = zb("y = 1\nbroken(y)")
    assert "Cell In[7], line 2" in text_of(ran)
    assert "Cell In[2], line 2, in broken(v)" in text_of(ran) and "return v / 0" in text_of(ran)


def test_execution_count_is_the_notebooks(notebook, zb):
    notebook.execution_count = 12
    assert zb("5").outputs[0]["execution_count"] == 11


def test_options_of_the_notebook_hold_in_the_job(notebook, zb):
    import numpy as np
    import pandas as pd

    notebook.run_cell(
        "import numpy as np, pandas as pd, warnings\narr, df = np.array([1/3]), pd.DataFrame({'a': range(20)})"
    )
    with np.printoptions(precision=2), pd.option_context("display.max_rows", 4), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ran = zb("warnings.warn('seen')\nprint(arr)\nprint(df)")
    assert "[0.33]" in ran.stdout and "[20 rows x 1 columns]" in ran.stdout
    assert ran.stderr == ""


def test_inline_figure_format_of_the_notebook_holds(notebook, zb):
    from matplotlib_inline.config import InlineBackend

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            InlineBackend.instance().figure_formats = {"svg"}
            ran = zb("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    finally:
        InlineBackend.clear_instance()
    assert list(ran.outputs[0]["data"]) == ["text/plain", "image/svg+xml"]


def test_logging_of_the_notebook_goes_on_in_the_job(notebook, zb):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    logging.basicConfig(level=logging.INFO, format="%(levelname)s=%(message)s", stream=sys.stderr)
    try:
        ran = zb("import logging\nlogging.getLogger('mine').info('said')")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert ran.stderr == "INFO=said\n"


def test_import_path_of_the_notebook_holds(notebook, zb, tmp_path):
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "beside_the_notebook.py").write_text("answer = 42")
    notebook.run_cell(f"import sys\nsys.path.insert(0, {str(tmp_path / 'libs')!r})\nimport beside_the_notebook as b")
    try:
        assert zb("b.answer").finished["output"] == "42"
    finally:
        notebook.run_cell("sys.path.pop(0); del sys.modules['beside_the_notebook']")


def test_import_that_the_worker_lacks_is_named(notebook, zb, tmp_path, monkeypatch):
    (tmp_path / "gone.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    notebook.run_cell("import gone")
    monkeypatch.undo()
    ran = zb("gone")
    del sys.modules["gone"]
    assert ran.exit_code == 1
    assert "has imported gone, which the worker cannot" in ran.finished["error"]["evalue"]


def test_submodule_used_through_its_package_is_imported(notebook, zb):
    notebook.run_cell("import xml.dom.minidom")
    assert zb("xml.dom.minidom.Document().nodeName").finished["output"] == "'#document'"
