"""What a cell reads and assigns."""

from __future__ import annotations

import pytest

from zbrain_nb.notebook.capture import capture

READS = [
    ("print(a)", "a"),
    ("a = 1\nprint(a)", ""),
    ("print(a)\na = 1", "a"),
    ("a = a + 1", "a"),
    ("a += 1", "a"),
    ("a.x = 1", "a"),
    ("a[b] = 1", "a b"),
    ("del a", "a"),
    ("del a\na", "a"),
    ("a = 1\ndel a\nprint(b)", "b"),
    ("a: int = b", "b"),
    ("a: int\na", "a"),
    ("(a := b) + a", "b"),
    ("if b:\n    a = 1\nprint(a)", "a b"),
    ("if True:\n    a = 1\nelse:\n    a = 2\nprint(a)", ""),
    ("if b:\n    a = 1\nelse:\n    raise ValueError\nprint(a)", "b"),
    ("for a in b:\n    print(a)", "b"),
    ("for i in b:\n    a = i\nprint(a)", "a b"),
    ("while b:\n    a = 1\nprint(a)", "a b"),
    ("while True:\n    a = 1\n    print(a)", ""),
    ("try:\n    a = 1\nexcept ValueError:\n    pass\nprint(a)", "a"),
    ("try:\n    a = 1\nexcept ValueError:\n    raise\nprint(a)", ""),
    ("try:\n    a = 1\nexcept ValueError as b:\n    a = b\nprint(a)", ""),
    ("try:\n    a = 1\nfinally:\n    print(a)", "a"),
    ("with open(b) as a:\n    a.read()", "b"),
    ("import a\na.x", ""),
    ("import a.b as c\nc, a", "a"),
    ("from b import a\na", ""),
    ("[a for a in b]", "b"),
    ("[a + c for a in b if d]", "b c d"),
    ("{a: c for a in b}", "b c"),
    ("sum(c * x for x in b)", "b c"),
    ("[(a := x) for x in b]\na", "b"),
    ("[x for x in [1]]\nx", "x"),
    ("lambda x: x + a", "a"),
    ("def f(x=b):\n    return x + a\nf()", "a b"),
    ("def f():\n    return a\na = 1\nf()", ""),
    ("def f():\n    return a\nf()\na = 1", "a"),
    ("def f():\n    return a", ""),
    ("def f():\n    return g()\ndef g():\n    return a\nf()", "a"),
    ("def f(a):\n    a = 1\n    return a\nf(b)", "b"),
    ("def f():\n    global a\n    a += 1\nf()", "a"),
    ("def f():\n    def g():\n        return a\n    return g\nf()()", "a"),
    ("@c\ndef f():\n    return a", "a c"),
    ("def f(x: a) -> b:\n    pass", "a b"),
    ("class F(b):\n    y = a\n    def m(self):\n        return c\nF().m()", "a b c"),
    ("class F:\n    a = 1\n    d = a\nF", ""),
    ("class F:\n    class G:\n        def m(self):\n            return a\nF.G().m()", "a"),
    ("async def f():\n    return a\nawait f()", "a"),
    ("await a", "a"),
    ("async with a as b:\n    b", "a"),
    ("f'{a} {b!r:>{c}}'", "a b c"),
    ("a and (c := b)\nc", "a b c"),
    ("c if a else b", "a b c"),
    ("match a:\n    case {'x': b}:\n        print(b)\n    case [c, *d]:\n        d", "a"),
    ("match a:\n    case b:\n        pass\nb", "a b"),
    ("a.query('x > @b and y in @c')", "a b c"),
    ("a.eval('x + @b')", "a b"),
    ("eval('a + b')", "a b"),
    ("def f():\n    return eval('a')\nf()", "a"),
    ("'a b c'", ""),
    ("%time a + b", "a b"),
    ("%timeit -n 1 a", "a"),
    ("c = %sql select a", "a"),
    ("%%time\nx = a\nx + b", "a b"),
    ("%%time\na = 1\na", ""),
    ("%%bash\necho $a {b} d", "a b"),
    ("!echo $a {b + c} d", "a b c"),
    ("x = !ls {a}", "a"),
    ("%cd -q", ""),
    ("?a", "a"),
    ("get_ipython().user_ns", ""),
    ("print(_)", "_"),
    ("print(unknown)", ""),
]


@pytest.fixture
def lettered(notebook):
    notebook.user_ns.update({name: f"value of {name}" for name in "abcdfgxy"}, _=1)
    return notebook


@pytest.mark.parametrize(("code", "reads"), READS, ids=[code.replace("\n", "; ") for code, _ in READS])
def test_cell_reads_exactly(lettered, code, reads):
    assert sorted(capture(lettered, code).variables) == reads.split()


@pytest.mark.parametrize(
    ("code", "assigned", "changed"),
    [
        ("a = b = 1", "a b", ""),
        ("a, (b, *c) = x", "a b c", ""),
        ("def f():\n    g = 1", "f", ""),
        ("def f():\n    global g\n    g = 1", "f g", ""),
        ("import a.b, c as d\nfrom e import f as g, h", "a d g h", ""),
        ("with x as a: pass\nfor b in x: pass", "a b", ""),
        ("a['k'] = 1\na.b.c = 2\ndel d[0]", "", "a d"),
        ("a.append(1)\nx = b.copy()", "x", "a"),
        ("[y for y in a]\n[(z := 1) for _ in a]", "z", ""),
        ("%%time\na = 1", "a", ""),
        ("try: pass\nexcept E as e: pass", "", ""),
    ],
)
def test_cell_assigns_and_changes(notebook, code, assigned, changed):
    found = capture(notebook, code)
    assert found.assigned == set(assigned.split())
    assert found.changed == set(changed.split())


def test_modules_and_what_comes_from_them_are_imports(notebook):
    notebook.run_cell(
        "import numpy as np, concurrent.futures\nfrom collections import OrderedDict as OD\n"
        "from math import sqrt\nimport os.path\nx = 1"
    )
    found = capture(notebook, "np.zeros(x), OD(), sqrt(4), concurrent.futures.wait([]), os.path")
    assert found.variables == ["x"]
    assert found.imports == {
        "np": "import numpy as np",
        "OD": "from collections import OrderedDict as OD",
        "sqrt": "from math import sqrt",
        "concurrent": "import concurrent",
        "os": "import os",
    }
    assert {"numpy", "concurrent", "concurrent.futures", "os.path"} <= set(found.modules)


def test_own_functions_are_variables(notebook):
    notebook.run_cell("def helper(): pass\nclass Model: pass")
    assert capture(notebook, "helper(Model)").variables == ["helper", "Model"]


@pytest.mark.parametrize("code", ["x = = 1", "return 1", "def f(:", "nonlocal a", "%%time\nok = 1\n(", "f(**a, *b)"])
def test_syntax_error_is_raised_before_anything_is_sent(notebook, code):
    if code.startswith("%%"):
        assert capture(notebook, code).variables == []  # the magic itself will say it, in the job
    else:
        with pytest.raises(SyntaxError):
            capture(notebook, code)
