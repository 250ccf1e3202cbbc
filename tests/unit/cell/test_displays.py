"""Rich outputs, results, errors."""

from __future__ import annotations

import base64
import re

from zbrain_nb.model.payload import load_value


def plain(error: dict) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))


def test_last_expression_becomes_result_output_and_value(run):
    ran = run("x = 20\nx + 1")
    [output] = ran.outputs
    assert output == {
        "output_type": "execute_result",
        "data": {"text/plain": "21"},
        "metadata": {},
        "execution_count": 1,
    }
    assert ran.finished["output"] == "21"
    assert load_value(ran.finished["result"]) == 21


def test_semicolon_and_none_give_no_value(run):
    for code in ("5;", "None", "x = 5"):
        ran = run(code)
        assert ran.outputs == []
        assert ran.finished["result"] is None


def test_figure_is_shown_at_the_end_as_png(run):
    ran = run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('drawn')")
    [output] = ran.outputs
    assert ran.order() == ["drawn", "<Figure size 640x480 with 1 Axes>"]
    assert output["output_type"] == "display_data"
    assert base64.b64decode(output["data"]["image/png"]).startswith(b"\x89PNG")


def test_bytes_in_a_bundle_become_base64(run):
    ran = run("display({'image/png': b'\\x89PNG', 'text/plain': 'p'}, raw=True)")
    assert ran.outputs[0]["data"]["image/png"] == base64.b64encode(b"\x89PNG").decode()


def test_update_and_clear_keep_their_meaning(run):
    ran = run(
        "from IPython.display import clear_output\n"
        "h = display('a', display_id='one')\nh.update('b')\nclear_output(wait=True)"
    )
    kinds = [o["output_type"] for o in ran.outputs]
    assert kinds == ["display_data", "update_display_data", "clear_output"]
    assert [o["transient"]["display_id"] for o in ran.outputs[:2]] == ["one", "one"]
    assert ran.outputs[2]["wait"] is True


def test_numbers_that_json_lacks_do_not_end_the_job(run):
    ran = run(
        "import numpy as np\ndisplay({'text/plain': 'x', 'application/json': {'a': float('nan'), 'b': 1}}, raw=True)"
    )
    assert ran.exit_code == 0
    assert ran.outputs[0]["data"]["application/json"]["b"] == 1


def test_error_names_the_cells_own_lines_and_none_of_ours(run):
    ran = run("def f(x):\n    return 1 / x\n\nf(0)")
    [output] = ran.outputs
    text = plain(output)
    assert output["ename"] == "ZeroDivisionError"
    assert "Cell In[1], line 4" in text and "Cell In[1], line 2, in f(x)" in text
    assert "zbrain" not in text and "IPython" not in text
    assert "\x1b[" in "".join(output["traceback"])
    assert ran.exit_code == 1
    assert ran.finished["error"] == {k: output[k] for k in ("ename", "evalue", "traceback")}


def test_syntax_error_is_an_error_output(run):
    ran = run("x = = 2")
    assert ran.outputs[0]["ename"] == "SyntaxError"
    assert ran.exit_code == 1


def test_exception_group_is_an_error_output_too(run):
    ran = run("raise ExceptionGroup('several', [ValueError(1), KeyError(2)])")
    [output] = ran.outputs
    assert output["ename"] == "ExceptionGroup"
    assert "ValueError: 1" in plain(output) and "interactiveshell" not in plain(output)
    assert ran.stderr == ""


def test_pager_becomes_a_display(run):
    ran = run("?len")
    assert "Signature" in ran.outputs[0]["data"]["text/plain"]


def test_widget_falls_back_to_text(run):
    ran = run("import ipywidgets\nipywidgets.IntSlider(value=3)")
    [output] = ran.outputs
    assert list(output["data"]) == ["text/plain"]
    assert "value=3" in output["data"]["text/plain"]


def test_output_widget_updates_its_own_display_and_clears_only_itself(run):
    ran = run(
        "import ipywidgets\nfrom IPython.display import HTML, clear_output\n"
        "out = ipywidgets.Output()\nprint('stays')\ndisplay(out)\n"
        "with out:\n    print('first')\n    clear_output()\n    print('a < b')\n    display(HTML('<b>c</b>'))\n"
        "with out:\n    1 / 0\n"
        "print('goes on')"
    )
    assert ran.stdout == "stays\ngoes on\n" and ran.exit_code == 0
    shown, *updates = ran.outputs
    assert {u["output_type"] for u in updates} == {"update_display_data"}
    assert {o["transient"]["display_id"] for o in ran.outputs} == {shown["transient"]["display_id"]}
    last = updates[-1]["data"]
    assert last["text/html"].startswith("<pre>a &lt; b\n</pre><div><b>c</b></div>")
    assert last["text/plain"].startswith("a < b\n") and "ZeroDivisionError" in last["text/plain"]


def test_shell_looks_like_a_kernels_to_libraries(run):
    ran = run("type(get_ipython()).__name__, type(get_ipython()).__module__")
    assert ran.finished["output"] == "('ZMQInteractiveShell', 'ipykernel.zmqshell')"


def test_unpicklable_value_is_said_not_to_be_kept(run):
    ran = run("import sqlite3\nsqlite3.connect(':memory:')")
    assert ran.exit_code == 0 and ran.finished["result"] is None
    assert ran.stderr.startswith("zbrain: the value of type Connection was not kept: ")


def test_shell_command_has_no_input_and_its_output_stands_in_order(run):
    ran = run("print('before')\n!echo one; read x; echo two >&2; exit 3\nprint('after', _exit_code)")
    assert ran.order() == ["before", "one", "two", "after 3"]


def test_shell_command_that_leaves_a_child_behind_does_not_hold_the_cell(run):
    ran = run("!sleep 60 & echo started\nprint('on')")
    assert ran.order() == ["started", "on"]
