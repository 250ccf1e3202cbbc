"""Time from submit to first output of ``print(1)`` as a cell, beside papermill on a one-cell notebook.

Also of a cell that imports scikit-learn: the first, and one whose zygote has imported it ahead meanwhile.

Run as ``python -m tests.benchmarks.bench_cell``; ``python -m tests.benchmarks`` runs all.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import nbformat

import zbrain_nb
from tests.benchmarks.table import print_table
from tests.conftest import end_everything

IMPORTS = "import sklearn.cluster\nprint(1)"
WARM = "zbrain cell, submit to first output, warm"
WHOLE = "zbrain cell, submit to succeeded, warm"
IMPORTING = "zbrain cell that imports scikit-learn, the first"
AHEAD = "zbrain cell that imports scikit-learn, imported ahead"
COLD = "zbrain cell, first output of a new host, its start included"
IN_PROCESS = "papermill one-cell notebook, in process"
BY_COMMAND = "papermill one-cell notebook, by command"
CELLS = 30
COLD_STARTS = 3
NOTEBOOKS = 3


def first_output_secs(client: zbrain_nb.Client, code: str = "print(1)") -> float:
    """Return the time from before the submit until the first log line is in this process."""
    begun = time.perf_counter()
    job = client.submit(code=code)
    for entry in job.logs(follow=True):
        assert entry.line == "1"
        break
    return time.perf_counter() - begun


def import_ahead(client: zbrain_nb.Client) -> None:
    """Wait until a cell finds scikit-learn imported."""
    deadline = time.monotonic() + 120
    while client.submit(code="import sys\n'sklearn.cluster' in sys.modules").result(timeout=60) is not True:
        assert time.monotonic() < deadline, "it was not imported ahead"
        time.sleep(2)  # successors are made when nothing is asked for


def whole_secs(client: zbrain_nb.Client) -> float:
    """Return the time from before the submit until the job is known to have succeeded."""
    begun = time.perf_counter()
    client.submit(code="print(1)").result(timeout=60)
    return time.perf_counter() - begun


def papermill_secs(folder: Path, *, command: bool) -> float:
    """Return the time that papermill takes for a notebook of one cell."""
    source, target = folder / "one.ipynb", folder / "out.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, source)
    begun = time.perf_counter()
    if command:
        words = [sys.executable, "-m", "papermill", "--no-progress-bar", str(source), str(target)]
        subprocess.run(words, check=True, capture_output=True)
    else:
        import papermill

        papermill.execute_notebook(source, target, progress_bar=False)
    return time.perf_counter() - begun


def measure() -> dict[str, list[float]]:
    """Return seconds by what was done."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cold = []
        for number in range(COLD_STARTS):
            os.environ["ZDB_DATA"] = str(folder / f"cold-{number}")
            try:
                begun = time.perf_counter()
                first_output_secs(zbrain_nb.connect())
                cold.append(time.perf_counter() - begun)
            finally:
                end_everything(folder / f"cold-{number}")
        os.environ["ZDB_DATA"] = str(folder / "data")
        try:
            client = zbrain_nb.connect()
            for _ in range(3):
                first_output_secs(client)
            first = [first_output_secs(client) for _ in range(CELLS)]
            whole = [whole_secs(client) for _ in range(CELLS)]
            imports_cold = first_output_secs(client, IMPORTS)
            import_ahead(client)
            imports_warm = [first_output_secs(client, IMPORTS) for _ in range(NOTEBOOKS)]
        finally:
            end_everything(folder / "data")
        in_process = [papermill_secs(folder, command=False) for _ in range(NOTEBOOKS)]
        by_command = [papermill_secs(folder, command=True) for _ in range(NOTEBOOKS)]
    return {
        WARM: first,
        WHOLE: whole,
        COLD: cold,
        IMPORTING: [imports_cold],
        AHEAD: imports_warm,
        IN_PROCESS: in_process,
        BY_COMMAND: by_command,
    }


def main() -> None:
    """Measure, and print one table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = measure()
    peer = statistics.median(found[IN_PROCESS])
    print_table(
        "A cell's way",
        ("what", "median ms", "worst ms", "papermill in process / this"),
        [
            (
                what,
                f"{statistics.median(secs) * 1e3:.1f}",
                f"{max(secs) * 1e3:.1f}",
                f"{peer / statistics.median(secs):.1f}",
            )
            for what, secs in found.items()
        ],
    )


if __name__ == "__main__":
    main()
