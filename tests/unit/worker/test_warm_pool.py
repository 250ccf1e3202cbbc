"""Zygotes that import ahead what jobs need: what comes in, what never does, and when they are replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.worker.conftest import Station, eventually, zygotes
from zbrain_nb.worker.warmth import lasting_environment, modules_of

pytestmark = pytest.mark.anyio

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install packages into a folder of packages that the station's zygotes and jobs have, beside their own."""
    monkeypatch.setenv("ZBRAIN_PRELOAD", "")
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(packages))

    def write(name: str, text: str, version: int = 1) -> None:
        (packages / name).mkdir(exist_ok=True)
        (packages / name / "__init__.py").write_text(text)
        (packages / f"{name}-{version}.dist-info").mkdir()

    return write


async def imported_ahead(station: Station, *modules: str) -> None:
    """Wait until one zygote is there, which was started to import just these modules ahead."""

    def is_so() -> bool:
        asked = []
        for pid in zygotes(station):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                return False
            asked.append([word for word in words[6:] if word])
        return asked == [list(modules)]

    await eventually(is_so, 60)


async def test_second_job_is_warm_computes_with_threads_and_sees_nothing_of_the_first(
    idle_station: Station, install: Install
) -> None:
    await idle_station.start(concurrency=1)
    first = await idle_station.run(code="import sklearn.cluster, pandas as pd\nsklearn.left = pd.left = 1")
    assert first.ending.exit_code == 0
    await imported_ahead(idle_station, "pandas", "sklearn.cluster")
    code = (
        "import sys\nprint([name in sys.modules for name in ('pandas', 'sklearn.cluster')])\n"
        "import numpy as np, pandas as pd, sklearn.cluster\nprint(hasattr(sklearn, 'left'), hasattr(pd, 'left'))\n"
        "found = sklearn.cluster.KMeans(2, n_init=2).fit(np.random.rand(3000, 8))\n"
        "(np.random.rand(300, 300) @ np.random.rand(300, 300)).sum()\nprint(len(found.cluster_centers_))"
    )
    second = await idle_station.run(code=code, timeout_secs=60)
    assert second.lines() == ["[True, True]", "False False", "2"]
    await idle_station.stop()


async def test_modules_that_spoil_a_fork_are_not_imported_ahead(
    idle_station: Station, install: Install, tmp_path: Path
) -> None:
    driver = tmp_path / "libcuda.so.1"
    driver.write_bytes(b"driver")
    map_it = f"import mmap\nmapped = mmap.mmap(open({str(driver)!r}, 'rb').fileno(), 0, prot=mmap.PROT_READ)"
    spoilt = {
        "crashes": "import os\nos._exit(3)",
        "drives": map_it,
        "raises": "raise ValueError('no')",
        "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        "torch": "",
    }
    for name, text in {**spoilt, "good": "", "lacks": "import nothing_of_that_name"}.items():
        install(name, text)
    (tmp_path / "own.py").touch()
    await idle_station.start(concurrency=1)
    names = [*spoilt, "good", "lacks"]
    await idle_station.run(code=f"if False:\n    import {', '.join(names)}, own, absent", cwd=str(tmp_path))
    await imported_ahead(idle_station, "good", "lacks")
    job = await idle_station.run(code=f"import sys\nprint(*sys.modules.keys() & {[*names, 'own']})")
    assert job.lines() == ["good"]
    await idle_station.stop()


async def test_job_sees_what_was_installed_since_and_the_users_own_module_of_that_name(
    idle_station: Station, install: Install, tmp_path: Path
) -> None:
    install("thing", "version = 1")
    await idle_station.start(concurrency=1)
    code = "import sys\nahead = 'thing' in sys.modules\nimport thing\nprint(ahead, thing.version)"
    assert (await idle_station.run(code=code)).lines() == ["False 1"]
    await imported_ahead(idle_station, "thing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thing.py").write_text("version = 'mine'")
    assert (await idle_station.run(code=code, cwd=str(tmp_path / "mine"))).lines() == ["False mine"]
    assert (await idle_station.run(code=code)).lines() == ["True 1"]
    install("thing", "version = 'of 2026'", 2)
    assert (await idle_station.run(code=code)).lines() == ["False of 2026"]
    await imported_ahead(idle_station, "thing")
    assert (await idle_station.run(code=code)).lines() == ["True of 2026"]
    await idle_station.stop()


async def test_switched_off_each_job_has_an_interpreter_of_its_own(
    idle_station: Station, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("thing", "")
    monkeypatch.setenv("ZBRAIN_PRELOAD", "thing")
    await idle_station.start(warm=True, pooled=False)
    code = "import os, sys\nprint('thing' in sys.modules)\nimport thing"
    jobs = [idle_station.submit(code=code) for _ in range(3)]
    await idle_station.until(lambda: all(job.ended for job in jobs))
    assert [job.lines() for job in jobs] == [["False"]] * 3
    await eventually(lambda: not zygotes(idle_station))
    await idle_station.stop()


async def test_variables_that_python_reads_at_its_start_hold(idle_station: Station, install: Install) -> None:
    await idle_station.start()
    code = "import sys\nsys.flags.hash_randomization, sys.flags.optimize"
    seeded = await idle_station.run(code=code, env={"PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": "2"})
    plain = await idle_station.run(code=code, env={"SOME": "other"})
    assert (seeded.ending.output, plain.ending.output) == ("(0, 2)", "(1, 0)")
    assert len(zygotes(idle_station)) == 2
    await idle_station.stop()


async def test_only_so_many_kinds_of_zygotes_stay(
    idle_station: Station, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    await idle_station.start(concurrency=3)
    jobs = [idle_station.submit(code="1", env={"PYTHONHASHSEED": str(seed)}) for seed in range(5)]
    await idle_station.until(lambda: all(job.ended for job in jobs), 60)
    assert [job.ending.output for job in jobs] == ["1"] * 5
    await eventually(lambda: len(zygotes(idle_station)) <= 4)
    await idle_station.stop()


def test_modules_of_a_cell_are_read_off_its_text_and_its_notebook() -> None:
    code = (
        "import numpy as np, os, a.b  # import c\nfrom d.e import f\n  import g\n%time import h\n"
        "text = 'import i'\nfrom . import j\nimport k; l()\nimport zbrain_nb, m-n"
    )
    assert modules_of(code, ["pandas.core.frame", "__main__", "json"]) == [
        "a.b",
        "d.e",
        "g",
        "k",
        "numpy",
        "pandas.core.frame",
    ]
    assert len(modules_of("", [f"m{i}" for i in range(1000)])) == 100


def test_environment_that_a_zygote_must_have_is_what_is_read_once() -> None:
    environ = {"PYTHONPATH": "a", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "2", "DASK_X": "3", "MINE": "4"}
    assert lasting_environment(environ) == {"PYTHONPATH": "a", "OMP_NUM_THREADS": "2"}
    assert lasting_environment(environ, ["dask.array"]).keys() == {"PYTHONPATH", "OMP_NUM_THREADS", "DASK_X"}
    assert lasting_environment(os.environ).items() <= os.environ.items()
