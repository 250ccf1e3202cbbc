"""Defaults of a notebook's cells: ``%zbrain config``, and magics of one's own."""

from __future__ import annotations

import re

import pytest
from IPython.core.interactiveshell import InteractiveShell

import zbrain_nb
from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook import custom
from zbrain_nb.notebook.arguments import CellOptions, parse_line
from zbrain_nb.notebook.defaults import Defaults, preferences_of
from zbrain_nb.notebook.extension import load
from zbrain_nb.notebook.magic import ZBrainMagics


@pytest.fixture
def shell(notebook: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setattr(custom, "get_ipython", lambda: notebook)
    load(notebook)
    return notebook


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[CellOptions]:
    """The options with which cells would have been submitted."""
    sent: list[CellOptions] = []

    def run_cell(self: ZBrainMagics, line: str, cell: str, *defaults: Defaults) -> None:
        sent.append(parse_line(line, preferences_of(self.shell).defaults, *defaults))

    monkeypatch.setattr(ZBrainMagics, "run_cell", run_cell)
    return sent


def test_defaults_stand_before_the_line() -> None:
    defaults = Defaults("config")
    for name, value in {"mem": "16G", "wait": "0", "timeout": 5, "env": ["A=1", "B=2"], "quiet": True}.items():
        defaults.set(name, value)
    options = parse_line("--timeout 7 --env B=3 --no-quiet", defaults)
    assert (options.mem, options.wait, options.timeout, options.quiet) == (16384, False, 7, False)
    assert dict(pair.split("=") for pair in options.env) == {"A": "1", "B": "3"}
    defaults.set("mem", "")
    defaults.set("env", None)
    assert (parse_line("", defaults).mem, parse_line("", defaults).env) == (None, [])


def test_defaults_that_a_shell_script_cannot_have_are_left_out_of_one() -> None:
    defaults = Defaults("config")
    defaults.set("in", "none")
    assert (parse_line("", defaults).ship, parse_line("--shell", defaults).ship) == ("none", "auto")


@pytest.mark.parametrize(("first", "second"), [({"shell": 1}, {"out": "x"}), ({"in": "a"}, {"shell": True})])
def test_shell_and_variables_are_not_set_together(first: dict[str, object], second: dict[str, object]) -> None:
    defaults = Defaults("%zbrain config")
    (name, value), (other, more) = *first.items(), *second.items()
    defaults.set(name, value)
    with pytest.raises(UsageError, match=re.escape("config: a shell script takes no variables along and leaves none")):
        defaults.set(other, more)
    assert dict(defaults).keys() == first.keys()
    defaults.set(name, "")
    defaults.set(other, more)


def test_shell_of_a_later_default_drops_what_it_cannot_have() -> None:
    config, magic = Defaults("config"), Defaults("new_magic")
    config.set("out", "x")
    magic.set("shell", 1)
    assert parse_line("", config, magic).keep == "auto"
    with pytest.raises(UsageError, match="a shell script takes no variables"):
        parse_line("", magic, config)  # what was said last is not dropped in silence


def test_cache_of_a_default_is_left_out_of_a_grid() -> None:
    config = Defaults("config")
    config.set("cache", 1)
    assert (parse_line("", config).cache, parse_line("--grid a=1,2", config).cache) == (True, False)
    with pytest.raises(UsageError, match="--cache is for one job"):
        parse_line("--grid a=1,2 --cache")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("timout", 3, "config does not know 'timout'. Did you mean timeout?"),
        ("frob", 3, "It knows in, out, wait, timeout"),
        ("grid", "a=1", "config: grid belongs to one cell. Put --grid on its line."),
        ("mem", 16, "config: argument --mem: '16' is no size"),
        ("wait", "maybe", "config: wait is 1 or 0, not 'maybe'."),
    ],
)
def test_defaults_that_do_not_hold_say_why(name: str, value: object, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Defaults("config").set(name, value)


def test_config_sets_shows_and_takes_back(
    shell: InteractiveShell, sent: list[CellOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_line_magic("zbrain", "config timeout=3600 mem=8G")
    shown = capsys.readouterr().out
    assert "3600" in shown
    assert "retries" not in shown
    shell.run_cell_magic("zbrain", "--timeout 5", "x = 1")
    load(shell)
    shell.run_line_magic("zbrain", "config mem=")
    capsys.readouterr()
    shell.run_cell_magic("zbrain", "", "x = 1")
    assert [(options.timeout, options.mem) for options in sent] == [(5, 8192), (3600, None)]
    shell.run_line_magic("zbrain", "config")
    assert "retries" in capsys.readouterr().out


def test_config_with_a_bad_word_changes_nothing(shell: InteractiveShell) -> None:
    for line, said in (("config timeout=1 mem=much", "no size"), ("config timeout=1 wait", "takes FLAG=VALUE")):
        with pytest.raises(UsageError, match=said):
            shell.run_line_magic("zbrain", line)
    assert not preferences_of(shell).defaults


def test_new_magic_is_zbrain_with_other_flags(shell: InteractiveShell, sent: list[CellOptions]) -> None:
    zbrain_nb.new_magic("gpu", on="local", gpus=1, mem="16G", in_="none", artifacts=["*.png", "*.csv"], quiet=True)
    shell.run_line_magic("zbrain", "config gpus=4 timeout=60")
    shell.run_cell_magic("gpu", "--mem 1G --no-quiet", "x = 1")
    (options,) = sent
    assert (options.on, options.gpus, options.mem, options.timeout) == ("local", 1, 1024, 60)
    assert (options.ship, options.artifacts, options.quiet) == ("none", ["*.png", "*.csv"], False)
    assert "%%gpu is %%zbrain --on=local --gpus=1 --mem=16G" in (ZBrainMagics.zbrain.__doc__ or "")
    load(shell)
    shell.run_cell_magic("gpu", "", "x = 1")
    assert "%%gpu" in (ZBrainMagics.zbrain.__doc__ or "")
    zbrain_nb.new_magic("gpu", gpus=2)
    shell.run_cell_magic("gpu", "", "x = 1")
    assert [options.gpus for options in sent] == [1, 1, 2]


def test_new_magic_loads_the_extension_where_it_is_not(
    notebook: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom, "get_ipython", lambda: notebook)
    zbrain_nb.new_magic("gpu", gpus=1)
    assert notebook.find_cell_magic("zbrain") is not None
    assert "%%zbrain --gpus=1" in (notebook.find_cell_magic("gpu").__doc__ or "")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("two words", {}, "'two words' cannot name a magic"),
        ("time", {}, "There is a magic 'time' already"),
        ("zbrain", {}, "There is a magic 'zbrain' already"),
        ("gpu", {"gpu": 1}, "new_magic('gpu') does not know 'gpu'. Did you mean gpus?"),
        ("gpu", {"gpus": "many"}, "new_magic('gpu'): argument --gpus: invalid int value: 'many'"),
    ],
)
def test_new_magic_that_does_not_hold_says_why(
    shell: InteractiveShell, name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        zbrain_nb.new_magic(name, **options)
    assert shell.find_cell_magic("gpu") is None


def test_new_magic_outside_ipython_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "get_ipython", lambda: None)
    with pytest.raises(UsageError, match="Magics live in IPython"):
        zbrain_nb.new_magic("gpu")


def test_doctor_and_the_list_of_columns_need_no_server(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("ZDB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    shell.run_line_magic("zbrain", "doctor")
    found = capsys.readouterr().out
    assert "python" in found
    assert "server" in found
    shell.run_line_magic("zbrain", "sql")
    assert "attempts.leased_at" in capsys.readouterr().out
    assert shell.magics_manager.registry[ZBrainMagics.__name__].desk_if_there is None
