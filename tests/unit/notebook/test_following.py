"""What is retried by a page or a command is known to the notebook at its next cell, on a real host with a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

import zbrain_nb
from tests.unit.notebook.conftest import Notebook
from zbrain_nb.client.client import Client
from zbrain_nb.client.group import JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.notebook import following

QUIET = "--no-wait --quiet"


@pytest.fixture
def page(pad: Notebook) -> Iterator[Client]:
    """Somebody else who asks the same server, as the buttons of a view do."""
    with zbrain_nb.connect() as client:
        yield client


def fails_without(file: Path, then: str) -> str:
    return f"import pathlib\nassert pathlib.Path({str(file)!r}).exists()\n{then}"


def test_names_follow_a_retry_made_elsewhere_before_the_next_cell_runs(
    pad: Notebook, page: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pad.shell.user_ns["model"] = "old"
    cell = fails_without(tmp_path / "data", "model = 7")
    first = pad.cell("a", f"{QUIET} --name train --out model --job run", cell).wait(60)
    assert first.job.state == "failed"
    assert pad.shell.user_ns["model"] == "old"
    (tmp_path / "data").touch()
    failed_again = page.job(first.id).retry().wait(60)  # and a second press of the button
    again = failed_again.retry().wait(60)
    capsys.readouterr()
    pad.shell.run_cell("seen = (run.id, _zb.id, model)")
    assert pad.shell.user_ns["seen"] == (again.id, again.id, 7)
    said = "zbrain: retried elsewhere: train; `_zb`, `run` hold what runs instead, `model` is bound when it succeeds.\n"
    assert said in capsys.readouterr().out
    assert [handle.id for handle in pad.desk.runs.all()] == [first.id, failed_again.id, again.id]
    pad.shell.run_cell("pass")
    assert "retried" not in capsys.readouterr().out


def test_names_follow_a_second_retry_when_the_first_came_to_nothing_and_not_before(
    pad: Notebook, page: Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    wait = f"import time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)"
    first = pad.cell("a", f"{QUIET} --job run", fails_without(tmp_path / "data", wait)).wait(60)
    failed = page.job(first.id).retry()
    pad.shell.run_cell("pass")
    assert pad.shell.user_ns["run"].id == failed.id  # as it was then: it has not ended
    failed.wait(60)
    (tmp_path / "data").touch()
    runs = page.job(first.id).retry()
    pad.shell.run_cell("pass")
    assert pad.shell.user_ns["run"].id == runs.id
    beside = page.job(first.id).retry()
    pad.shell.run_cell("pass")
    assert pad.shell.user_ns["run"].id == runs.id
    gate.touch()
    for handle in (runs, beside):
        handle.wait(60)


def test_names_wait_for_a_retry_that_still_runs_and_attach_finds_it(
    pad: Notebook, page: Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    wait = f"import time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\nfound = 7"
    pad.shell.user_ns["found"] = "of before"
    first = pad.cell("a", f"{QUIET} --out found --job run", fails_without(tmp_path / "data", wait)).wait(60)
    (tmp_path / "data").touch()
    again = page.job(first.id).retry()
    assert pad.shell.user_ns["found"] == "of before"
    pad.shell.run_cell("pass")
    assert "found" not in pad.shell.user_ns
    pad.line("attach")
    assert pad.shell.user_ns["_zb"].id == again.id
    gate.touch()
    pad.shell.user_ns["run"].wait(60)
    assert pad.shell.user_ns["found"] == 7


def test_name_alone_that_waits_for_a_retry_is_told_of_and_what_was_assigned_since_stays(
    pad: Notebook, page: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pad.cell("a", f"{QUIET} --name train --out model,rate", "model, rate = 1, 2").wait(60)
    pad.cell("b", QUIET, "3").wait(60)  # `_zb` is another's
    capsys.readouterr()
    pad.shell.user_ns["model"] = "mine"
    page.job(first.id).retry().wait(60)
    pad.shell.run_cell("pass")
    assert capsys.readouterr().out == "zbrain: retried elsewhere: train; `rate` is bound when it succeeds.\n"
    page.job(first.id).retry().wait(60)
    pad.shell.user_ns["rate"] = "mine"
    pad.shell.run_cell("seen = (model, rate)")
    assert pad.shell.user_ns["seen"] == ("mine", "mine")
    assert capsys.readouterr().out == ""


def test_group_takes_retried_runs_in_the_place_of_those_that_failed(
    pad: Notebook, page: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"import pathlib\nassert a == 2 or pathlib.Path({str(tmp_path / 'data')!r}).exists()\na"
    runs = pad.cell("g", f"{QUIET} --grid a=1,2,3 --job runs", code, JobGroup).wait(60)
    assert runs.last_counts() == {"succeeded": 1, "failed": 2}
    (tmp_path / "data").touch()
    for handle in (runs[0], runs[2]):
        page.job(handle.id).retry()
    pad.shell.run_cell("results = runs.results(timeout=60)")
    assert pad.shell.user_ns["results"] == [1, 2, 3]
    assert capsys.readouterr().out.count("retried elsewhere") == 1


def test_retry_of_this_kernel_or_of_another_owner_moves_no_name(pad: Notebook, page: Client) -> None:
    first = pad.cell("a", f"{QUIET} --job run", "1 / 0").wait(60)
    first.retry().wait(60)
    pad.shell.run_cell("pass")
    assert pad.shell.user_ns["run"].id == first.id
    first.update(msgspec.structs.replace(first.job, owner="bob"))
    page.job(first.id).retry().wait(60)
    pad.shell.run_cell("pass")
    assert pad.shell.user_ns["run"].id == first.id
    assert len(pad.desk.runs.all()) == 3


def test_server_that_does_not_answer_holds_up_one_cell_and_is_told_of(
    pad: Notebook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pad.cell("a", QUIET, "1").wait(60)
    asked = []

    async def never(*args: object) -> None:
        asked.append(args)
        await anyio.sleep_forever()

    monkeypatch.setattr(pad.desk.client.asynchronous, "submitted", never)
    monkeypatch.setattr(following, "PATIENCE_SECS", 0.01)
    for _ in range(2):
        pad.shell.run_cell("pass")
    assert len(asked) == 1
    assert "is not known: the server does not answer." in capsys.readouterr().err


def test_where_no_server_runs_none_is_started_and_nobody_is_asked(
    pad: Notebook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pad.cell("a", QUIET, "1").wait(60)
    transport = pad.desk.client.asynchronous.transport
    monkeypatch.setattr(transport, "request", None)
    monkeypatch.setattr(transport, "_endpoint", None)
    monkeypatch.setenv("ZDB_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("JPY_PARENT_PID", str(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)) as jupyter:  # it would not answer
        info = {"url": f"http://127.0.0.1:{jupyter.getsockname()[1]}/", "token": ""}
        (tmp_path / f"jpserver-{os.getpid()}.json").write_bytes(msgspec.json.encode(info))
        jupyter.setblocking(False)
        capsys.readouterr()
        pad.shell.run_cell("pass")
        with pytest.raises(BlockingIOError):
            jupyter.accept()
    assert capsys.readouterr() == ("", "")


def test_server_that_restarted_meanwhile_is_asked(pad: Notebook, page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pad.cell("a", f"{QUIET} --job run", "1 / 0").wait(60)
    again = page.job(first.id).retry().wait(60)
    monkeypatch.setattr(pad.desk.client.asynchronous.transport, "_endpoint", None)  # as after a lost connection
    pad.shell.run_cell("pass")
    assert pad.shell.user_ns["run"].id == again.id


def test_loading_twice_keeps_what_the_notebook_knows(pad: Notebook) -> None:
    handle: JobHandle = pad.cell("a", QUIET, "1").wait(60)
    desk = pad.desk
    pad.shell.run_line_magic("load_ext", "zbrain_nb")
    pad.shell.run_line_magic("reload_ext", "zbrain_nb")
    assert pad.desk is desk
    assert [one.id for one in pad.desk.runs.known()] == [handle.id]
