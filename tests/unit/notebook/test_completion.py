"""Tab completion: what is offered where, and that it waits for nobody."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel

from tests.conftest import end_everything
from zbrain_nb import Job, JobHandle, JobSpec
from zbrain_nb.model.errors import ServerUnreachable
from zbrain_nb.notebook import completion
from zbrain_nb.notebook.completion import MagicCompleter
from zbrain_nb.notebook.extension import load
from zbrain_nb.notebook.magic import ZBrainMagics


@pytest.fixture
def shell(notebook: InteractiveShell) -> InteractiveShell:
    load(notebook)
    notebook.user_ns.update(frame=1, first=2, os=os, _hidden=3)
    return notebook


@pytest.fixture
def completer(shell: InteractiveShell) -> MagicCompleter:
    return MagicCompleter(shell)


def job(name: str) -> Job:
    return Job(JobSpec(cmd=["true"], name=name))


class Server:
    """Stands where the magics keep their desk; answers when told to."""

    def __init__(self, shell: InteractiveShell, own: list[Job]) -> None:
        self.calls: list[Future[list[Job]]] = []
        handles = [JobHandle(None, one) for one in own]  # type: ignore[arg-type]
        client = SimpleNamespace(start=self.start, asynchronous=SimpleNamespace(jobs=None))
        magics = shell.magics_manager.registry[ZBrainMagics.__name__]
        magics._desk = SimpleNamespace(client=client, runs=SimpleNamespace(known=lambda: handles))

    def start(self, *_: Any) -> Future[list[Job]]:
        self.calls.append(Future())
        return self.calls[-1]


@pytest.mark.parametrize(
    ("text", "fragment", "offered"),
    [
        ("%zbrain ", "", {"ls", "sql", "doctor", "config", "attach"}),
        ("%zbrain ca", "ca", {"cancel"}),
        ("x = %zbrain re", "re", {"retry", "result"}),
        ("%zbrain ls --", "--", {"--state", "--limit", "--here"}),
        ("%zbrain ls --state ", "", {"pending", "failed"}),
        ("%zbrain ls --state=fa", "fa", {"failed"}),
        ("%zbrain sql select co", "co", {"code"}),
        ("%zbrain sql select state from jo", "jo", {"jobs", "job_id"}),
        ("%zbrain config ti", "ti", {"timeout="}),
        ("%zbrain config wait=1 kernel=python", "python", {"python3"}),
        ("%%zbrain --na", "--na", {"--name"}),
        ("%%zbrain --quiet --no-w", "--no-w", {"--no-wait"}),
        ("%%zbrain --quiet ", "", {"--name", "--kernel"}),
        ("%%zbrain --kernel python", "python", {"python3"}),
        ("%%zbrain --in f", "f", {"frame", "first"}),
        ("%%zbrain --in frame,fi", "fi", {"first"}),
        ("%%zbrain --in=frame,", "", {"auto", "none", "frame", "first"}),
        ("%%zbrain --limit cpu", "cpu", {"cpu_secs="}),
    ],
)
def test_completion_offers_what_may_stand_there(
    completer: MagicCompleter, text: str, fragment: str, offered: set[str]
) -> None:
    found, offers = completer.complete(text)
    assert (found, offered - {*offers}) == (fragment, set())


@pytest.mark.parametrize(
    "text", ["%zbrain", "%%time --", "zbrain ca", "print('%zbrain ", "%%zbrain --cwd /tm", "x = 1"]
)
def test_completion_leaves_other_places_alone(completer: MagicCompleter, text: str) -> None:
    assert completer.complete(text)[1] == []


def test_completion_of_a_cell_magic_is_for_the_first_line(completer: MagicCompleter) -> None:
    assert completer.complete("%%zbrain --na", is_first_line=False)[1] == []


def test_completion_hides_modules_and_private_names(completer: MagicCompleter) -> None:
    assert not {"os", "_hidden"} & {*completer.complete("%%zbrain --in ")[1]}


def test_completion_offers_jobs_by_variable_name_and_id(shell: InteractiveShell, completer: MagicCompleter) -> None:
    mine, theirs = job("train"), job("two words")
    server = Server(shell, [mine])
    shell.user_ns["run"] = JobHandle(None, mine)  # type: ignore[arg-type]
    completer.complete("%zbrain show ")
    server.calls[0].set_result([theirs])
    _, offers = completer.complete("%zbrain show ")
    assert offers[-4:] == ["run", "train", mine.id, theirs.id]
    assert completer.complete("%%zbrain --after tr") == ("tr", ["train"])
    assert len(server.calls) == 1  # what was said a moment ago is good still


def test_completion_replaces_the_whole_name(shell: InteractiveShell) -> None:
    Server(shell, [job("exp:1")])
    with provisionalcompleter():
        (found,) = shell.Completer.completions("%zbrain show exp:", 17)
    assert (found.start, found.end, found.text) == (13, 17, "exp:1")


def test_completion_asks_no_server_before_the_notebook_did(completer: MagicCompleter, shell: InteractiveShell) -> None:
    assert completer.complete("%zbrain show ")[1] == []
    assert shell.magics_manager.registry[ZBrainMagics.__name__].desk_if_there is None


def test_completion_goes_on_without_a_server_that_is_silent_or_dead(
    shell: InteractiveShell, completer: MagicCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "FRESH_SECS", 0)
    mine = job("train")
    server = Server(shell, [mine])
    for _ in range(3):
        assert completer.complete("%zbrain show tr")[1] == ["train"]
    assert len(server.calls) == 1  # one request at a time
    server.calls[0].set_exception(ServerUnreachable("Gone."))
    assert completer.complete("%zbrain show tr")[1] == ["train"]


def test_completion_loaded_twice_offers_once(shell: InteractiveShell) -> None:
    load(shell)
    assert len(shell.Completer.custom_matchers) == 1


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("completion") / "data"
    manager, client = start_new_kernel(
        kernel_name="python3", env={**os.environ, "ZDB_DATA": str(root)}, startup_timeout=60
    )
    client.execute_interactive("%load_ext zbrain_nb\nframe = 1", timeout=60, store_history=False, output_hook=_ignore)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    end_everything(root)


def _ignore(message: dict[str, Any]) -> None:
    assert message["msg_type"] != "error", message["content"]


def ask(client: Any, code: str, cursor: int | None = None) -> dict[str, Any]:
    sent = client.complete(code, len(code) if cursor is None else cursor)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            answer = client.get_shell_msg(timeout=1)
        except queue.Empty:
            continue
        if answer["parent_header"].get("msg_id") == sent:
            content: dict[str, Any] = answer["content"]
            return content
    raise AssertionError("no answer")


@pytest.mark.parametrize("jedi", [True, False])
def test_completion_comes_through_a_real_kernel(kernel: Any, jedi: bool) -> None:
    kernel.execute_interactive(f"%config Completer.use_jedi = {jedi}", timeout=60, output_hook=_ignore)
    answer = ask(kernel, "%zbrain can")
    assert (answer["matches"], answer["cursor_start"], answer["cursor_end"]) == (["cancel"], 8, 11)
    assert ask(kernel, "%zbrain l")["matches"] == ["ls", "logs"]  # and nothing of Python's
    code = "%%zbrain --in frame --no-w\nframe + 1"
    answer = ask(kernel, code, code.index("\n"))
    assert (answer["matches"], code[answer["cursor_start"] : answer["cursor_end"]]) == (["--no-wait"], "--no-w")
    code = "%%zbrain --in fra"
    answer = ask(kernel, code)
    assert (answer["matches"], code[answer["cursor_start"] :]) == (["frame"], "fra")
    assert "frame" in ask(kernel, "fra")["matches"]
    assert "%%zbrain" in ask(kernel, "%%zbr")["matches"]
