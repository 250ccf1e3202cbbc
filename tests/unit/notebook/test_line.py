"""``%zbrain`` and the jobs that a notebook finds again, on a real host with a worker."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.notebook.conftest import Notebook
from zbrain_nb.client.group import PLACE_TAG, JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.viewed import Viewed
from zbrain_nb.model.errors import JobFailedError, JobNotFound, UntrustedResult, UsageError
from zbrain_nb.model.job import JobSpec, JobState
from zbrain_nb.notebook import presenting


def waits_for(gate: Path) -> str:
    return f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\nfound = 7"


def saved_of(shown: Viewed) -> dict[str, Any]:
    """Return what its view under a cell begins with."""
    return next(data for mime, data in shown._repr_mimebundle_().items() if mime.startswith("application/vnd.zbrain"))


def test_same_cell_attaches_while_its_job_is_active(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = waits_for(tmp_path / "gate"), "--no-wait --quiet --out found"
    first = pad.cell("a", line, code)
    assert pad.cell("a", line, code).id == first.id
    assert "attached to" in capsys.readouterr().out
    assert pad.cell("b", line, code).id != first.id  # another cell
    changed = pad.cell("a", line, f"{code}\n# changed")
    assert changed.id != first.id
    assert f"`%zbrain cancel {first.id[:13]}` ends it." in capsys.readouterr().out
    new = pad.cell("a", f"{line} --new", code)
    assert new.id != first.id
    (tmp_path / "gate").touch()
    assert first.wait(60).job.state is JobState.SUCCEEDED
    new.wait(60)
    assert pad.shell.user_ns["found"] == 7
    assert pad.cell("a", line, code).id != first.id  # it has ended


def test_same_cell_with_other_inputs_is_another_job(pad: Notebook, tmp_path: Path) -> None:
    code, line = f"{waits_for(tmp_path / 'gate')}\nrate", "--no-wait --quiet"
    pad.shell.user_ns["rate"] = 1
    first = pad.cell("a", line, code)
    assert pad.cell("a", line, code).id == first.id
    pad.shell.user_ns["rate"] = 2
    second = pad.cell("a", line, code)
    assert second.id != first.id
    (tmp_path / "gate").touch()
    assert (first.result(60), second.result(60)) == (1, 2)


def test_attach_finds_the_jobs_after_a_restart_and_binds_what_the_notebook_lacks(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = pad.cell("a", "--no-wait --quiet --out x,y --job one", "x, y = 1, 2")
    failed = pad.cell("b", "--no-wait --quiet --out z", "1 / 0")
    done.wait(60), failed.wait(60)
    active = pad.cell("c", "--no-wait --quiet --out found --job two", waits_for(tmp_path / "gate"))
    pad.restart()
    pad.shell.user_ns["y"] = "mine"
    capsys.readouterr()
    pad.line("attach")
    said = capsys.readouterr().out
    space = pad.shell.user_ns
    assert (space["one"].id, space["two"].id, space["_zb"].id) == (done.id, active.id, active.id)
    assert (space["x"], space["y"]) == (1, "mine")
    assert "has succeeded; x is bound" in said
    assert "has failed" in said
    assert "found" not in space
    again = pad.cell("c", "--no-wait --quiet --out found --job two", waits_for(tmp_path / "gate"))
    assert again.id == active.id
    (tmp_path / "gate").touch()
    space["two"].wait(60)
    assert space["found"] == 7


def test_attach_goes_on_when_what_one_job_left_is_not_to_be_bound(
    pad: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad.cell("a", "--no-wait --quiet --out one --job first", "one = 1").wait(60)
    pad.cell("b", "--no-wait --quiet --job second", "2").wait(60)
    pad.restart()

    def refuse(*_: Any) -> None:  # as of what a colleague submitted again
        raise UntrustedResult("It is bob's.")

    monkeypatch.setattr(pad.desk.client, "check_trusted", refuse)
    pad.line("attach")
    assert {"first", "second", "one"} & set(pad.shell.user_ns) == {"first", "second"}


def test_attach_after_a_rename_takes_the_old_path_or_a_job(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "--no-wait --quiet"
    one = pad.cell("a", f"{line} --out x --job one", "x = 1").wait(60)
    two = pad.cell("b", f"{line} --out y --job two", "y = 2").wait(60)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "renamed.ipynb"))
    pad.restart()
    capsys.readouterr()
    pad.line("attach")
    assert "this notebook has no jobs. If it was renamed, `%zbrain attach OLD.ipynb`" in capsys.readouterr().out
    pad.line(f"attach {two.id}")
    space = pad.shell.user_ns
    assert (space["two"].id, space["y"], "x" in space) == (two.id, 2, False)
    for path in ("work.ipynb", str(tmp_path / "work.ipynb")):
        pad.line(f"attach {path}")
        assert (space["one"].id, space["x"], space["_zb"].id) == (one.id, 1, two.id)
        assert sorted(handle.id for handle in pad.desk.runs.all()) == sorted([one.id, two.id])
    with pytest.raises(JobNotFound, match=r"other\.ipynb' has no jobs"):
        pad.line("attach other.ipynb")


def test_of_a_long_log_the_end_is_printed_and_what_is_left_out_is_said(
    pad: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    pad.cell("a", "--no-wait --quiet --job many", "for n in range(300): print(n)").wait(60)
    for flags, first in (("", 100), ("-f", 100), ("-n 299", 1), ("-n 300", 0), ("--all", 0), ("-n 0", 300)):
        capsys.readouterr()
        pad.line(f"logs many {flags}")
        said = capsys.readouterr().out.splitlines()
        left_out = {0: [], 1: ["zbrain: 1 earlier line is left out; --all prints all."]}
        head = left_out.get(first, [f"zbrain: {first} earlier lines are left out; --all prints all."])
        assert said == [*head, *map(str, range(first, 300))], flags
    with pytest.raises(UsageError, match="not -1"):
        pad.line("logs many -n -1")


def test_lines_look_at_jobs_and_act_on_them(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pad.cell("a", "--no-wait --quiet --name spoken --job run", "print('hello\\x1b]0;title\\x07')\n6 * 7").wait(60)
    handle = pad.shell.user_ns["run"]
    for name in ("run", "-1", "spoken", handle.id, handle.id[:18]):
        assert pad.line(f"result {name}") == 42
    capsys.readouterr()
    pad.line("logs run")
    assert capsys.readouterr().out == "hello\n"
    pad.line("")
    assert "spoken" in capsys.readouterr().out
    pad.cell("b", "--no-wait --quiet", "2").wait(60)
    more = "zbrain: the newest only, up to --limit 1; there are more.\n"
    for where in ("", "--here"):
        capsys.readouterr()
        pad.line(f"ls {where} --limit 1")
        assert capsys.readouterr().out.endswith(more)
    pad.line("ls --here --limit 50")
    assert more not in capsys.readouterr().out
    pad.line("ls --here --state failed")
    assert capsys.readouterr().out == "No jobs.\n"
    pad.line("artifacts run")
    assert capsys.readouterr().out == "The job keeps no files.\n"
    pad.line("cancel run")
    assert capsys.readouterr().out == "zbrain: spoken had ended already.\n"
    pad.line("retry run")
    again = pad.shell.user_ns["_zb"]
    assert again.job.retry_of == handle.id
    assert pad.line("result -1") == 42
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(JobHandle, "refresh", None)  # the jobs are looked up in one request
        pad.line("ls --here --state succeeded")
    shown = capsys.readouterr().out
    assert handle.id[:13] in shown
    assert again.id[:13] in shown


def test_grid_makes_a_job_for_each_combination_and_one_group(pad: Notebook, tmp_path: Path) -> None:
    pad.shell.user_ns["offset"] = 100
    pad.cell(
        "g", "--no-wait --quiet --grid a=1,2 --grid b=x,y --max-parallel 2 --job runs", "f'{offset + a}{b}'", JobGroup
    )
    runs = pad.shell.user_ns["runs"]
    assert runs.results(timeout=60) == ["101x", "101y", "102x", "102y"]
    assert [handle.job.spec.labels for handle in runs][1] == {"a": "1", "b": "y"}
    assert {handle.job.spec.concurrency_limit for handle in runs} == {2}
    assert len({handle.job.spec.inputs["cell"] for handle in runs}) == 1
    frame = runs.df()
    assert list(frame["result"]) == ["101x", "101y", "102x", "102y"]
    assert list(frame["b"]) == ["x", "y", "x", "y"]


def test_grid_that_is_waited_for_raises_what_the_first_run_raised(pad: Notebook) -> None:
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        pad.cell("g", "--wait --quiet --grid a=1,0", "1 / a", JobGroup)
    assert pad.shell.user_ns["_zb"].last_counts() == {"succeeded": 1, "failed": 1}


def test_attach_finds_a_group_again(pad: Notebook) -> None:
    pad.cell("g", "--no-wait --quiet --grid a=1,2,3 --job runs", "a * 2", JobGroup)
    ids = pad.shell.user_ns["runs"].wait(60).ids
    pad.restart()
    pad.line("attach")
    assert pad.shell.user_ns["runs"].ids == ids
    assert pad.shell.user_ns["_zb"].results() == [2, 4, 6]


def test_group_that_is_found_again_holds_what_its_view_shows_when_a_run_was_repeated_twice(pad: Notebook) -> None:
    group = pad.cell("g", "--no-wait --quiet --grid a=1,2 --job runs", "a", JobGroup).wait(60)
    first, second = group
    again = first.retry()
    last = again.wait(60).retry()
    first.retry().wait(60)  # beside the others, as on the page of the first
    last.wait(60)
    pad.restart()
    pad.line("attach")
    assert pad.shell.user_ns["runs"].ids == [last.id, second.id]


def test_group_that_is_found_again_holds_no_run_that_failed_beside_one_that_did_not(
    pad: Notebook, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    code = f"import os\nassert os.path.exists({str(data)!r})\na"
    first = pad.cell("g", "--no-wait --quiet --grid a=1 --job runs", code, JobGroup).wait(60)[0]
    first.retry().wait(60)
    data.touch()
    last = first.retry().wait(60)
    pad.restart()
    pad.line("attach")
    runs = pad.shell.user_ns["runs"]
    assert (runs.ids, runs.results()) == ([last.id], [1])


def test_group_that_is_found_again_takes_no_run_for_its_own_because_of_its_tags(
    pad: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = pad.cell("g", "--no-wait --quiet --grid a=1,2 --job runs", "a", JobGroup).wait(60).ids
    tags = pad.shell.user_ns["runs"][0].job.spec.tags
    specs = [JobSpec(cmd=["true"], tags={**tags, PLACE_TAG: place}) for place in ("none", "0", "9")]
    *_, stranger = pad.desk.client.submit_many(specs)
    pad.restart()
    listed = pad.desk.client.jobs

    def jobs(**query: Any) -> list[JobHandle]:
        found = listed(**query)
        for handle in found:
            if handle.id == stranger.id:
                handle.update(replace(handle.job, owner="bob"))
        return found

    monkeypatch.setattr(pad.desk.client, "jobs", jobs)
    pad.line("attach")
    assert pad.shell.user_ns["runs"].ids == ids


def test_attach_finds_the_earlier_runs_of_a_changed_cell_again(pad: Notebook, tmp_path: Path) -> None:
    code = waits_for(tmp_path / "gate")
    grids = [pad.cell("g", f"--no-wait --quiet --grid a={values}", code, JobGroup) for values in ("1,2", "3,4")]
    jobs = [pad.cell("j", "--no-wait --quiet --job one", f"{code}\n{number}") for number in range(2)]
    pad.restart()
    pad.line("attach")
    assert pad.shell.user_ns["one"].earlier.ids == [jobs[0].id]
    again = pad.cell("g", "--no-wait --quiet --grid a=3,4", code, JobGroup)
    assert (again.ids, again.earlier.ids) == (grids[1].ids, grids[0].ids)
    for older in (jobs[0], grids[0]):  # taken up by its id, it is not the newer one that came earlier
        pad.line(f"attach {older[0].id if isinstance(older, JobGroup) else older.id}")
        assert pad.shell.user_ns["_zb"].earlier.ids == []
    (tmp_path / "gate").touch()
    for shown in (*grids, *jobs):
        shown.wait(60)


def test_same_grid_attaches_to_its_active_runs(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\na"
    first = pad.cell("g", "--no-wait --quiet --grid a=1,2", code, JobGroup)
    capsys.readouterr()
    assert pad.cell("g", "--no-wait --quiet --grid a=1,2", code, JobGroup).ids == first.ids
    said = capsys.readouterr().out
    assert "attached to" in said and "--notify-after" not in said
    assert pad.cell("g", "--no-wait --quiet --notify-after 9 --grid a=1,2", code, JobGroup).ids == first.ids
    assert "--notify-after is as it was when the job was submitted" in capsys.readouterr().out
    more = pad.cell("g", "--no-wait --quiet --grid a=1,3", code, JobGroup)
    assert "2 earlier jobs of this cell are still active" in capsys.readouterr().out
    plain = pad.cell("g", "--no-wait --quiet", "a = 1")
    assert [handle.id for handle in plain.earlier] == [*first.ids, *more.ids]
    another = pad.cell("g", "--no-wait --quiet --new --grid a=1,2", code, JobGroup)
    assert not set(first.ids) & {*more.ids, *another.ids}
    gate.touch()
    assert [group.results(timeout=60) for group in (first, more, another)] == [[1, 2], [1, 3], [1, 2]]


def test_views_of_a_changed_cell_keep_its_earlier_runs(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presenting, "get_ipython", lambda: pad.shell)
    code, pad.shell.user_ns["rate"] = f"{waits_for(tmp_path / 'gate')}\nrate", 0.5
    pad.cell("h", "--no-wait --quiet --cache", "rate").wait(60)
    first = pad.cell("g", "--no-wait --quiet --grid a=1,2", code, JobGroup)
    more = pad.cell("g", "--no-wait --quiet --grid a=3,4", code, JobGroup)
    assert "2 earlier jobs of this cell are still active; `_zb.earlier.cancel()` ends them." in capsys.readouterr().out
    same = pad.cell("g", "--no-wait --quiet --grid a=3,4", code, JobGroup)
    cached = pad.cell("g", "--no-wait --quiet --cache", "rate")
    plain = pad.cell("g", "--no-wait --quiet", "rate")
    assert plain.earlier.cancel().wait(60).last_counts() == {"canceled": 4}
    assert plain.result(60) == 0.5
    assert cached.cached
    both = [*first.ids, *more.ids]
    for sent, earlier in ((more, first.ids), (same, first.ids), (plain, both), (cached, both)):
        for saved in (saved_of(sent), sent.widget().saved):
            assert saved["earlier"] == earlier  # also when all has ended: the earlier may go on
    assert plain.retry().wait(60).earlier is plain.earlier
    assert saved_of(plain)["shipped"] == plain.widget().saved["shipped"] == "rate 21 bytes"


def test_attach_finds_what_was_submitted_again_in_the_place_of_what_failed(pad: Notebook) -> None:
    pad.cell("g", "--no-wait --quiet --grid a=1,0,2 --job runs", "1 / a", JobGroup)
    runs = pad.shell.user_ns["runs"].wait(60)
    runs.retry_failed().wait(60)
    pad.restart()
    pad.line("attach")
    assert pad.shell.user_ns["runs"].ids == runs.ids


def test_cell_runs_in_the_python_of_another_kernel(
    pad: Notebook, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pad.shell.run_cell("import numpy")
    handle = pad.cell("k", f"--no-wait --quiet --kernel {other}", "import sys\n(sys.prefix, numpy.__name__)")
    assert "numpy 0.1 (here " in capsys.readouterr().out
    assert handle.result(60) == (str(other.parent.parent), "numpy")


def test_wrong_lines_are_told_in_a_sentence(pad: Notebook) -> None:
    with pytest.raises(UsageError, match="invalid choice: 'frob'"):
        pad.line("frob")
    with pytest.raises(UsageError, match="JOB"):
        pad.line("show")
    with pytest.raises(UsageError, match="Close the quotes"):
        pad.line("show 'x")
    with pytest.raises(JobNotFound, match="no jobs yet"):
        pad.line("show -1")
    with pytest.raises(JobNotFound, match="There is no job 'nothing'"):
        pad.line("show nothing")


def test_cell_in_a_kernel_of_another_language_is_not_read_as_python(
    pad: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (tmp_path / "kernels" / "echo").mkdir(parents=True)
    kernel = Path(__file__).parents[1] / "worker" / "echo_kernel.py"
    argv = [sys.executable, "-P", str(kernel), "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Echo", "language": "echo"}
    (tmp_path / "kernels" / "echo" / "kernel.json").write_text(json.dumps(spec))
    pad.shell.user_ns["a"] = 1
    pad.cell("a", "--wait --kernel echo", "out a = $(this is no Python")
    assert pad.cell("a", "--no-wait --quiet --kernel echo", "value !x").result(60) == "!x"
    said = capsys.readouterr().out
    assert "zbrain: echo runs echo: no variables travel to it or back" in said
    assert "a = $(this is no Python\n" in said
    with pytest.raises(JobFailedError, match="no luck"):
        pad.cell("a", "--wait --kernel echo", "fail no luck")
    assert "no variables travel" not in capsys.readouterr().out  # it was said
    with pytest.raises(UsageError, match="--in names variables of Python"):
        pad.cell("a", "--kernel echo --in a", "out 1")
    with pytest.raises(UsageError, match="--cache knows the packages of this notebook's Python"):
        pad.cell("a", "--kernel echo --cache", "out 1")


def test_sql_keeps_its_quotes_and_returns_the_answer(pad: Notebook) -> None:
    pad.cell("a", "--no-wait --quiet --name 'with space'", "1").wait(60)
    frame = pad.line("sql select name, state from jobs where name = 'with space' -- # a comment")
    assert frame.values.tolist() == [["with space", "succeeded"]]


def test_cache_gives_what_the_same_cell_gave_before(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    code = f"import pathlib\nwith pathlib.Path({str(ran)!r}).open('a') as f: f.write('x')\nfound = 7\nprint('hi')\n8"
    line = "--no-wait --quiet --cache --out found"
    first = pad.cell("a", line, code)
    assert first.result(60) == 8
    pad.restart()
    capsys.readouterr()
    again = pad.cell("b", f"{line} --name other --job held", code)
    assert (again.id, again.cached, first.cached) == (first.id, True, False)
    assert pad.shell.user_ns["found"] == 7  # at once
    assert "nothing ran: import pathlib did the same" in capsys.readouterr().out
    assert pad.shell.user_ns["held"].result() == 8
    pad.shell.user_ns |= {"_oh": {}, "_": "", "__": "", "___": ""}  # where IPython keeps values
    pad.cell("b", "--wait --cache --out found", code)
    assert "hi\n" in capsys.readouterr().out
    assert ran.read_text() == "x"
    anyway = pad.cell("b", f"{line} --new", code)
    assert (anyway.result(60), anyway.cached, ran.read_text()) == (8, False, "xx")
    assert pad.cell("b", line, code).id == anyway.id  # the newest


def test_cache_runs_again_what_failed_or_changed(pad: Notebook) -> None:
    pad.shell.user_ns["rate"] = 0
    line, code = "--no-wait --quiet --cache", "1 / rate"
    failed = pad.cell("a", line, code)
    failed.wait(60)
    assert failed.job.state is JobState.FAILED
    second = pad.cell("a", line, code)
    assert second.id != failed.id
    pad.shell.user_ns["rate"] = 2
    assert pad.cell("a", line, code).result(60) == 0.5
    assert pad.cell("b", line, code).cached
    second.wait(60)


def test_org_is_the_jobs(pad: Notebook) -> None:
    assert pad.cell("a", "--no-wait --quiet --org lab", "1").wait(60).job.org_id == "lab"
    assert pad.cell("a", "--no-wait --quiet --shell", "true").wait(60).job.org_id == "default"


def detach_held(pad: Notebook) -> int:
    """Let the cell go on that waits for the jobs ``held``, as soon as it does; return how many waited."""
    detached = 0
    while not detached:
        detached = sum(job.detach() for job in pad.clients[-1].jobs(name="held"))
    return detached


def test_cell_that_waits_is_detached_and_its_names_bind_later(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(1) as threads:
        detaching = threads.submit(detach_held, pad)
        job = pad.cell("a", "--wait --name held --out found --job held", waits_for(tmp_path / "gate"))
        assert detaching.result(30) == 1
    assert "zbrain: detached; the job goes on." in capsys.readouterr().err
    assert pad.shell.user_ns["held"] is job
    assert "found" not in pad.shell.user_ns
    (tmp_path / "gate").touch()
    job.wait(60)
    assert pad.shell.user_ns["found"] == 7


def test_grid_that_waits_is_detached_by_one_of_its_runs(
    pad: Notebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(1) as threads:
        detaching = threads.submit(detach_held, pad)
        line = "--wait --quiet --name held --grid x=1,2"
        group = pad.cell("a", line, waits_for(tmp_path / "gate"), kind=JobGroup)
        assert detaching.result(30) >= 1  # the other run may have told it too, before it was gone
    assert "zbrain: detached; the runs go on." in capsys.readouterr().err
    (tmp_path / "gate").touch()
    assert group.wait(60).last_counts() == {"succeeded": 2}


@pytest.mark.parametrize(("line", "waiting"), [("", (JobHandle, "updates")), ("--grid x=1,2", (JobGroup, "wait"))])
def test_interrupt_of_a_cell_that_waits_detaches_and_holds_up_the_cells_behind_it(
    pad: Notebook,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    waiting: tuple[type, str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*waiting, interrupt)
        ran = pad.shell.run_cell(f"%%zbrain --wait --quiet {line}\n{waits_for(tmp_path / 'gate')}")
    assert isinstance(ran.error_in_exec, KeyboardInterrupt)  # a front end runs nothing of what is queued after it
    told = capsys.readouterr()
    assert "zbrain: detached; the " in told.err
    assert told.out.splitlines()[-1] == "KeyboardInterrupt"
    assert "Traceback" not in told.out
    (tmp_path / "gate").touch()
    assert pad.shell.user_ns["_zb"].wait(60).done()
