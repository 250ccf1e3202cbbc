"""Notebooks run where nobody watches: `%%zbrain` waits, and a failing job fails the notebook."""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

LOAD = "%load_ext zbrain_nb"


def run(tmp_path: Path, *cells: str) -> list[str]:
    """Run a notebook of these cells by papermill; return the text that each wrote."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    source, target = tmp_path / "source.ipynb", tmp_path / "target.ipynb"
    nbformat.write(notebook, source)
    papermill.execute_notebook(source, target, progress_bar=False, cwd=tmp_path)
    ran = nbformat.read(target, as_version=4)
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in ran.cells if cell.cell_type == "code"]


def test_papermill_next_cell_sees_what_out_names(tmp_path: Path) -> None:
    texts = run(
        tmp_path,
        f"{LOAD}\nbase = 20",
        "%%zbrain --out doubled\nprint('in the job')\ndoubled = base * 2",
        "print(doubled + 2)",
    )
    assert texts == ["", "in the job\n", "42\n"]


def test_papermill_fails_with_the_job_and_shows_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError) as failure:
        run(tmp_path, LOAD, "%%zbrain\nprint('on')\nraise ValueError('the reason')", "print('never')")
    assert "ValueError: the reason" in str(failure.value)
    ran = nbformat.read(tmp_path / "target.ipynb", as_version=4)
    assert ran.cells[-1].outputs == []


def test_papermill_out_name_is_the_old_value_again_after_a_failure(tmp_path: Path) -> None:
    texts = run(
        tmp_path,
        f"{LOAD}\nimport zbrain_nb\nmodel = 'old'",
        "try:\n"
        "    get_ipython().run_cell_magic('zbrain', '--out model', 'model = 1\\n1 / 0')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, isinstance(error, zbrain_nb.JobFailedError))",
        "print(model)",
    )
    assert texts[1].endswith("ZeroDivisionError True\n")
    assert texts[2] == "old\n"


def test_no_wait_returns_at_once_and_the_name_is_unbound_until_the_job_succeeded(tmp_path: Path) -> None:
    texts = run(
        tmp_path,
        f"{LOAD}\nvalue = 'old'",
        "%%zbrain --no-wait --out value --job job\nimport time\ntime.sleep(1)\nvalue = 'new'",
        "try:\n    value\nexcept NameError:\n    print('unbound')",
        "job.wait()\nprint(value)",
    )
    assert texts[2:] == ["unbound\n", "new\n"]


MODEL = """import numpy as np
import pandas as pd


class Line:
    def __init__(self, weights):
        self.weights = weights

    def __eq__(self, other):
        return type(self) is type(other) and (self.weights == other.weights).all()


def fit(frame):
    return Line(np.linalg.lstsq(frame[['x', 'one']], frame['y'], rcond=None)[0])


frame = pd.DataFrame({'x': range(50), 'one': 1.0}).assign(y=lambda d: 3 * d.x + np.sin(d.x))"""


def test_out_gives_the_same_model_as_the_kernel(tmp_path: Path) -> None:
    texts = run(
        tmp_path,
        f"{LOAD}\n{MODEL}",
        "%%zbrain --out model\nmodel = fit(frame[frame.x > 5])",
        "here = fit(frame[frame.x > 5])\n"
        "print(here == model, type(model) is Line, here.weights.tobytes() == model.weights.tobytes())",
    )
    assert texts[2] == "True True True\n"
