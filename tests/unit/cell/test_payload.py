"""Payloads: what travels, what is mended, what is refused."""

from __future__ import annotations

import os
import queue
import sqlite3
import subprocess
import sys
import threading

import pytest

from zbrain_nb.model.errors import NotPicklable, TooLarge, ZBrainError
from zbrain_nb.model.packing import Packing
from zbrain_nb.model.payload import (
    dump_value,
    load_call,
    load_value,
    pack,
    pack_call,
    unpack,
)

ELSEWHERE = """
import sys
from zbrain_nb.model.payload import load_value, unpack, dump_value
namespace = sys.modules["__main__"].__dict__
value = load_value(sys.argv[1])
{code}
"""


def there(path, code):
    """Load a value in another Python and print what `code` says of it."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.format(code=code), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def define(main_module):
    def run(text):
        exec(text, main_module)
        return main_module

    return run


def test_helper_redefined_by_the_reader_is_seen_and_global_counts(define):
    names = define(
        "count = 0\ndef helper(): return 'old'\ndef f():\n    global count\n    count += 1\n    return helper()"
    )
    data = pack({"f": names["f"]}, names)
    cell: dict = {}
    values = unpack(data, cell)
    assert list(values) == ["f", "count", "helper"] and "f" not in cell
    cell.update(values)
    exec("def helper(): return 'new'\nanswer = f()", cell)
    assert (cell["answer"], cell["count"]) == ("new", 1)
    assert names["count"] == 0


def test_loading_changes_nothing_of_the_notebook(define):
    names = define("x = 1\ndef f(): return x")
    data = dump_value(names["f"], names)
    names["x"] = 2
    loaded = load_value(data)
    assert loaded() == 1 and names["x"] == 2


def test_aliases_stay_aliases_and_equal_arrays_stay_apart():
    np = pytest.importorskip("numpy")
    one = np.zeros(1000)
    values = unpack(pack({"a": one, "b": one, "c": np.zeros(1000)}, {}), {})
    assert values["a"] is values["b"] and values["a"] is not values["c"]


def test_arrays_from_a_file_are_mapped_writable_and_private(tmp_path):
    np = pytest.importorskip("numpy")
    path = tmp_path / "value"
    path.write_bytes(dump_value(np.arange(100_000)))
    loaded = load_value(path)
    loaded[0] = 7
    assert loaded.flags.writeable and loaded[0] == 7
    assert load_value(path)[0] == 0
    assert load_value(path.read_bytes()).flags.writeable


ARRIVALS = [
    (
        "import functools\n@functools.lru_cache(maxsize=7)\ndef f(x): return x + 1",
        "value(1), value.cache_parameters()['maxsize']",
        "(2, 7)",
    ),
    (
        "import functools\n@functools.singledispatch\ndef f(x): return 'any'\n@f.register\ndef _(x: int): return 'int'",
        "value(1), value('')",
        "('int', 'any')",
    ),
    (
        "import functools\nclass f:\n    @functools.cached_property\n    def p(self): return 5",
        "value().p",
        "5",
    ),
    (
        "class E(Exception):\n    def __init__(self, code, text):\n"
        "        super().__init__(text)\n        self.code = code\nf = E(3, 'no')",
        "value.code, value.args",
        "(3, ('no',))",
    ),
    (
        "import threading\nclass C:\n    def __init__(self): self.lock = threading.Lock()\nf = C()",
        "value.lock.locked()",
        "False",
    ),
    ("import threading\nf = threading.RLock()", "value.acquire()", "True"),
    ("import threading\nf = threading.Event(); f.set()", "value.is_set()", "True"),
    ("import logging\nf = logging.getLogger('mine')", "value.name", "mine"),
    ("import sys\nf = sys.stdout", "value is sys.stdout", "True"),
    ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\nf = P(3)", "value", "P(x=3)"),
    ("import enum\nclass Color(enum.Enum):\n    RED = 1\nf = Color.RED", "value.name", "RED"),
    ("def f(n): return 1 if n < 2 else n * f(n - 1)", "value(5)", "120"),
    ("def make():\n    n = 3\n    return lambda: n\nf = make()", "value()", "3"),
    ("import io\nf = io.BytesIO(b'x')", "value.read()", "b'x'"),
    ("f = ValueError('a', 1)", "value.args", "('a', 1)"),
]


@pytest.mark.parametrize(("definition", "use", "answer"), ARRIVALS)
def test_value_arrives_in_another_python(define, tmp_path, definition, use, answer):
    names = define(definition)
    (tmp_path / "value").write_bytes(dump_value(names["f"], names))
    assert there(tmp_path / "value", f"print(({use}))") == answer


def test_class_identity_survives_there_and_back(define, tmp_path):
    names = define("scale = 2\nclass Model:\n    def predict(self): return scale\nmodel = Model()")
    method = names["Model"].predict
    (tmp_path / "there").write_bytes(dump_value(names["model"], names))
    back = tmp_path / "back"
    there(tmp_path / "there", f"value.fitted = 5\nopen({str(back)!r}, 'wb').write(dump_value(value))")
    returned = load_value(back)
    assert isinstance(returned, names["Model"]) and returned.fitted == 5
    # the notebook's class keeps its own methods, which see the notebook's globals
    assert names["Model"].predict is method
    names["scale"] = 3
    assert returned.predict() == 3


def test_unpicklables_are_named_all_at_once_with_reasons(tmp_path, main_module):
    with (tmp_path / "f").open("w") as file, (tmp_path / "f").open() as readable:
        values = {
            "conn": sqlite3.connect(":memory:"),
            "fine": 1,
            "numbers": (i for i in [1]),
            "file": file,
            "readable": readable,
            "thread": threading.Thread(),
            "nested": [{"a": file}],
        }
        with pytest.raises(NotPicklable) as caught:
            pack(values, main_module)
        values["conn"].close()
    assert caught.value.details["names"] == ["conn", "numbers", "file", "readable", "thread", "nested"]
    text = str(caught.value)
    assert text.startswith("conn (sqlite3.Connection), numbers (generator), file (_io.TextIOWrapper), ")
    assert "cannot pickle 'generator' object" in text and "an open file belongs to its process" in text
    assert "--in" in caught.value.hint


def test_culprit_read_by_a_function_is_named_itself(define):
    names = define("gen = (i for i in [1])\ndef f(): return next(gen)")
    with pytest.raises(NotPicklable) as caught:
        pack({"f": names["f"]}, names)
    assert caught.value.details["names"] == ["gen"]


def test_all_of_a_call_that_cannot_travel_is_named_with_why(define):
    names = define("gen = (i for i in [1])\ndef f(a, b=0, *rest, key=None, **more): return gen")
    lock, good = threading.local(), 5
    with open(os.devnull) as file, pytest.raises(NotPicklable) as caught:
        pack_call(names["f"], (iter(()), good, lock), {"key": file, "other": lock, "fine": good})
    assert str(caught.value) == (
        "argument rest[0] (_thread._local), argument key (_io.TextIOWrapper), argument other (_thread._local) and "
        "gen (generator) cannot travel: argument rest[0] and argument other: cannot pickle '_thread._local' object; "
        "argument key: an open file belongs to its process; gen: cannot pickle 'generator' object. Make it inside the "
        "function, or hand over what it is made of."
    )


def test_function_that_cannot_travel_is_named():
    with pytest.raises(NotPicklable, match=r"^the function get \(builtin_method\) cannot travel: "):
        pack_call(queue.SimpleQueue().get, ("x",))


def test_object_whose_pickling_raises_anything_is_a_culprit():
    class Bad:
        def __reduce__(self):
            raise ZeroDivisionError("my own trouble")

    with pytest.raises(NotPicklable, match="my own trouble"):
        dump_value(Bad())


def test_object_that_cannot_be_rebuilt_is_named(define):
    names = define("class Bad:\n    def __reduce__(self): return int, ('no number',)\nbad = Bad()")
    with pytest.raises(ZBrainError, match=r"bad cannot be rebuilt here: ValueError: invalid literal"):
        unpack(pack({"bad": names["bad"]}, names))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"", "no payload of zbrain"),
        (lambda data: b"\x80\x05K\x01.", "no payload of zbrain"),
        (lambda data: data[:-3], "cut off"),
        (lambda data: data + b"x", "cut off"),
        (lambda data: data[:8] + b"\x09\x00" + data[10:], "has format 9, this zbrain_nb reads 2"),
        (lambda data: data[:14] + b"?" + data[15:], "header cannot be read"),
    ],
)
def test_bytes_that_are_not_ours_give_a_clear_error(spoil, says):
    with pytest.raises(ZBrainError, match=says):
        load_value(spoil(dump_value([1, 2, 3])))


def test_missing_file_gives_a_clear_error(tmp_path):
    with pytest.raises(ZBrainError, match="cannot be read: No such file"):
        load_value(tmp_path / "none")


def test_kinds_are_told_apart():
    with pytest.raises(ZBrainError, match="holds value, not a call"):
        load_call(dump_value(1))


def test_functions_of_another_python_are_refused(define):
    names = define("def f(): pass")
    data = dump_value(names["f"], names)
    here = f'"python": "{sys.version_info[0]}.{sys.version_info[1]}"'.encode()
    with pytest.raises(ZBrainError, match=r"functions of Python 2\.77"):
        load_value(data.replace(here, here.replace(here[-5:-1], b"2.77")))


def test_call_brings_function_arguments_and_globals(define):
    names = define("k = 10\ndef f(a, b=0): return a + b + k")
    function, args, kwargs = load_call(pack_call(names["f"], (1,), {"b": 2}))
    assert function(*args, **kwargs) == 13


def test_limit_stops_the_packing():
    np = pytest.importorskip("numpy")
    values = {"a": np.zeros(100), "b": np.zeros(200_000), "c": 1}
    with pytest.raises(TooLarge) as caught:
        Packing(values, {}, 1_000_000)
    assert list(caught.value.details["sizes"]) == ["a", "b"]
    Packing(values, {}, 2_000_000)


def test_same_values_make_the_same_bytes(define):
    names = define("k = 1\ndef f(): return k")
    assert pack({"f": names["f"], "k": [1, "a"]}, names) == pack({"f": names["f"], "k": [1, "a"]}, names)
