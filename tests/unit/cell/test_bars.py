"""Progress of a job."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_progress_function_reports_through_the_cells_channel(run):
    ran = run("import zbrain_nb\nzbrain_nb.progress(1, 4, 'quarter')\nprint('after')")
    assert ran.progress == [{"kind": "progress", "fraction": 0.25, "note": "quarter"}]


@pytest.mark.parametrize("module", ["tqdm", "tqdm.auto", "tqdm.notebook", "tqdm.autonotebook"])
def test_bars_become_events_and_no_text(run, module):
    ran = run(
        f"import warnings; warnings.simplefilter('ignore')\nfrom {module} import tqdm\n"
        "sum(1 for _ in tqdm(range(8), desc='work'))"
    )
    assert ran.exit_code == 0, ran.finished
    assert (ran.stdout, ran.stderr) == ("", "")
    assert [o["output_type"] for o in ran.outputs] == ["execute_result"]
    assert ran.progress[0]["fraction"] == 0.0 and ran.progress[-1]["fraction"] == 1.0
    assert ran.progress[-1]["note"].startswith("work: 8/8 [")


def test_many_iterations_make_few_events(run):
    ran = run("from tqdm import tqdm\nfor _ in tqdm(range(10**6)): pass")
    assert len(ran.progress) < 20


def test_nested_bars_report_the_outermost(run):
    ran = run(
        "from tqdm.auto import trange\n"
        "for i in trange(2, desc='outer'):\n    for j in trange(3, desc='inner', leave=False):\n        pass"
    )
    assert ran.progress[1]["fraction"] == 0.0 and " · inner: 0/3" in ran.progress[1]["note"]
    assert ran.progress[-1]["fraction"] == 1.0 and "inner" not in ran.progress[-1]["note"]


def test_bar_written_to_a_file_stays_text(run):
    ran = run(
        "import io\nfrom tqdm import tqdm\nf = io.StringIO()\n"
        "for _ in tqdm(range(3), file=f): pass\nprint('3/3' in f.getvalue())"
    )
    assert ran.stdout == "True\n" and ran.progress == []


def test_tqdm_variants_work_unchanged(run):
    ran = run(
        "import pandas as pd, asyncio\nfrom tqdm.auto import tqdm\nfrom tqdm.contrib.concurrent import thread_map\n"
        "tqdm.pandas()\n"
        "a = pd.Series(range(5)).progress_apply(lambda x: x).sum()\n"
        "b = sum(thread_map(lambda x: x, range(5)))\n"
        "import tqdm.asyncio\n"
        "async def one(): return 1\n"
        "c = sum(await tqdm.asyncio.tqdm.gather(*[one() for _ in range(5)]))\n"
        "bar = tqdm.tqdm(total=2)\nbar.update(1)\nbar.set_postfix(loss=0.5)\nbar.reset()\nbar.close()\n"
        "tqdm.tqdm.write('line')\n"
        "a, b, c"
    )
    assert ran.finished["output"] == "(np.int64(10), 10, 5)"
    assert ran.stdout == "line\n" and ran.stderr == ""


def test_bar_that_was_imported_ahead_of_the_job_becomes_events_too():
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from tqdm.auto import tqdm, trange\nimport tqdm.std, tqdm.notebook\n"
        "from tqdm.auto import tqdm as captured\n"
        "from zbrain_nb.worker.cell.bars import Bars\n"
        "class Writer:\n    is_open = True\n    events = []\n    def event(self, event): self.events.append(event)\n"
        "bars = Bars(Writer())\n"
        "import sys\n"
        "bars.patch_console(sys.modules['tqdm.std']); bars.patch_notebook(sys.modules['tqdm.notebook'])\n"
        "for bar in (captured, trange): list(bar(range(3)) if bar is captured else bar(3))\n"
        "print([event['fraction'] for event in Writer.events].count(1.0))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("2\n", "")
