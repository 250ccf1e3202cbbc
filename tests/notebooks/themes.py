"""Small notebooks, each about one theme: cells with `CUT` between them."""

from __future__ import annotations

CUT = "\n# %%\n"

_TEXTS = {
    "last expression": r"""
x = 6 * 7
x
# %%
x;
# %%
x + 1
# %%
None
# %%
x; x * 2
# %%
print(x)
x
# %%
_ + _3
# %%
'text'
# %%
_ * 2
# %%
_ is _9, __
""",
    "exceptions": r"""
def load(path):
    return parse(path)

def parse(path):
    raise ValueError(f'no {path}: é')
# %%
print('before')
load('a.csv')
print('after')
# %%
try:
    1 / 0
except ZeroDivisionError as error:
    raise RuntimeError('chained') from error
# %%
{}['key']
# %%
undefined_name
# %%
class Wrong(Exception):
    def __init__(self, code):
        super().__init__(f'code {code}')
raise Wrong(3)
# %%
assert 1 == 2, 'not equal'
# %%
error = OSError(2, 'No such file')
error.add_note('look elsewhere')
raise error
# %%
def down(n):
    return down(n + 1)
# %%
down(0)
# %%
a = []
a.append(a)
a
# %%
print('goes on')
""",
    "syntax errors": r"""
def f(:
    pass
# %%
if True:
print(1)
# %%
x = (1,
# %%
return 1
# %%
print('é' 1)
# %%
print(1)
""",
    "figures": r"""
%matplotlib inline
import matplotlib.pyplot as plt
# %%
plt.plot([1, 2, 4])
plt.title('first');
# %%
fig, ax = plt.subplots(figsize=(3, 2))
ax.bar(['a', 'b'], [1, 2])
fig
# %%
plt.figure(figsize=(2, 2))
plt.plot([1])
print('drawn')
1 / 0
# %%
# in the kernel
import matplotlib.pyplot as plt
%config InlineBackend.figure_formats = ['svg']
%config InlineBackend.rc = {'svg.hashsalt': 'fixed', 'svg.fonttype': 'none'}
# %%
# in the kernel
plt.rcParams['svg.hashsalt'] = 'fixed'
plt.rcParams['figure.figsize'] = (2, 1)
# %%
fig = plt.figure()
fig.text(0, 0, 'é')
print(plt.rcParams['figure.figsize'], plt.rcParams['svg.hashsalt'])
""",
    "tables": r"""
import pandas as pd
frame = pd.DataFrame({'a': [1, 2, 3], 'b': list('xyz')}, index=pd.Index([7, 8, 9], name='n'))
# %%
frame
# %%
frame.a
# %%
# in the kernel
pd.set_option('display.max_rows', 4)
pd.options.display.float_format = '{:.1f}'.format
# %%
pd.DataFrame({'v': [i / 3 for i in range(9)]})
# %%
frame.style.format({'a': '{:.1f}'}).set_uuid('fixed').highlight_max('a')
# %%
frame.info(memory_usage=False)
print(frame.to_string())
frame.groupby('b').a.sum()
# %%
frame.missing
""",
    "displays": r"""
from IPython.display import display, HTML, Markdown, Latex, SVG, JSON, Math, Javascript, Image, Code
# %%
display(HTML('<b>é</b>'), Markdown('*m*'), Latex('$x$'), Math('y'))
JSON({'a': [1, None]}, expanded=True)
# %%
display(SVG('<svg xmlns="http://www.w3.org/2000/svg"><rect width="3"/></svg>'))
Javascript('1')
# %%
display({'text/plain': 'raw', 'application/x-own+json': {'k': 1}}, raw=True, metadata={'m': 1})
# %%
class Rich:
    def _repr_html_(self):
        return '<i>rich</i>'
    def _repr_mimebundle_(self, **_):
        return {'text/x-own': 'own'}, {'text/x-own': {'meta': True}}
Rich()
# %%
print('a')
display(1)
print('b')
display(2)
print('c')
3
# %%
class Broken:
    def __repr__(self):
        raise ValueError('no repr')
Broken()
""",
    "display ids": r"""
from IPython.display import display, update_display, clear_output
# %%
shown = display('one', display_id='fixed')
display('between')
update_display('two', display_id='fixed')
# %%
handle = display('own', display_id=True)
handle.update('changed')
handle.display('again')
# %%
print('gone')
display('gone too')
clear_output()
print('stays')
# %%
for i in range(3):
    clear_output(wait=True)
    print(i)
    display(i)
# %%
update_display('three', display_id='fixed')
print('said')
""",
    "unicode": r"""
name = 'naïve 日本 🎉 \u202eabc'
name
# %%
print(name, '\t|', '👩‍👩‍👧', 'e\u0301')
# %%
größe = {'schlüssel': name}
größe
# %%
raise ValueError(name)
""",
    "colours": r"""
print('\x1b[31mred\x1b[0m plain \x1b[1;38;5;208mbold\x1b[0m')
# %%
import os
{name: os.environ.get(name) for name in ('TERM', 'FORCE_COLOR', 'PAGER', 'CLICOLOR', 'MPLBACKEND')}
# %%
from rich import print as rprint
from rich.table import Table
table = Table('a', 'b')
table.add_row('[red]1', '2')
# %%
rprint(table)
rprint('[bold]done[/] :tada:')
# %%
import subprocess
print(subprocess.run(['printf', '\\033[32mgreen'], capture_output=True, text=True).stdout)
# %%
from tqdm import tqdm
from tqdm.auto import tqdm as auto
print(sum(1 for _ in auto(range(3), disable=True)))
# %%
print([i for i in tqdm(range(3), disable=True)])
""",
    "warnings": r"""
import warnings
def old():
    warnings.warn('use new', DeprecationWarning, stacklevel=2)
# %%
old()
warnings.warn('careful')
warnings.warn('careful')
# %%
# in the kernel
warnings.simplefilter('ignore')
# %%
warnings.warn('silent')
print('quiet')
# %%
# in the kernel
warnings.resetwarnings()
warnings.filterwarnings('error', category=UserWarning)
# %%
warnings.warn('raised')
""",
    "streams": r"""
import sys
for i in range(3):
    print('out', i)
    print('err', i, file=sys.stderr)
# %%
print('no end', end='')
# %%
print('a', 'b', sep='-', end='!\n', flush=True)
sys.stdout.write('written\n')
# %%
print('x' * 50_000)
print()
print('  indented')
# %%
print(sys.stdout.isatty(), sys.stdin.isatty() if sys.stdin else None, sys.stdout.encoding)
# %%
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as held:
    print('held')
held.getvalue()
""",
    "async": r"""
import asyncio
async def twice(x):
    await asyncio.sleep(0)
    return 2 * x
# %%
await twice(21)
# %%
print(await asyncio.gather(*map(twice, range(3))))
# %%
async with asyncio.timeout(5):
    x = await twice(1)
x
# %%
async def count(n):
    for i in range(n):
        yield i
[await twice(i) async for i in count(3)]
# %%
asyncio.get_running_loop().is_running()
# %%
async def fails():
    raise LookupError('async')
await fails()
# %%
asyncio.run(twice(1))
""",
    "classes": r"""
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple
# %%
@dataclass
class Point:
    x: int
    y: int = 0
    tags: list = field(default_factory=list)
class Kind(Enum):
    A = 1
class Pair(NamedTuple):
    a: int
    b: str
# %%
class Base:
    count = 0
    def __init__(self):
        type(self).count += 1
    @property
    def name(self):
        return type(self).__name__
class Child(Base):
    @classmethod
    def make(cls):
        return cls()
# %%
point = Point(1)
point.tags.append(Kind.A)
child = Child.make()
point, child.name, Child.count, Pair(1, 'b')
# %%
isinstance(child, Base), type(point) is Point, Kind.A is point.tags[0], point == Point(1, 0, [Kind.A])
# %%
Base, Point, Kind.A
# %%
Point()
""",
    "closures": r"""
def counter(step):
    total = 0
    def add():
        nonlocal total
        total += step
        return total
    return add
# %%
add = counter(5)
add(), add()
# %%
add()
# %%
import functools
@functools.lru_cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
# %%
fib(30), fib.cache_info().currsize > 0
# %%
state = {'n': 0}
def bump():
    global state
    state = {'n': state['n'] + 1}
    return state
# %%
bump(); bump()  # out: state
# %%
state
# %%
squares = list((lambda k: k * k)(i) for i in range(4))
[(y := s) for s in squares], y
# %%
def gen():
    yield from range(2)
next(gen()), [*gen()]
""",
    "magics": r"""
%time sum(range(10))
# %%
%%time
total = 1 + 1
total
# %%
total
# %%
%%capture held
print('captured')
1  # out: held
# %%
held.stdout, len(held.outputs)
# %%
!echo from the shell; exit 3
# %%
lines = !printf 'a\nb\n'
lines
# %%
name = 'value'
!echo {name} $name
# %%
%%bash
echo bash; echo err >&2
# %%
%%writefile made.txt
hello
# %%
%cat made.txt
# %%
%env ZB_SAMPLE=1
# %%
# in the kernel
%precision 2
# %%
1 / 3
# %%
%timeit -n1 -r1 pass
""",
    "widgets": r"""
import ipywidgets as widgets
from IPython.display import display
# %%
widgets.IntSlider(value=3)
# %%
box = widgets.HBox([widgets.Button(description='b'), widgets.Text('t')])
display(box)
box.children[1].value
# %%
print(widgets.FloatProgress(0.5).value)
""",
    "exits": r"""
import sys
print('before')
sys.exit(3)
# %%
raise SystemExit('message')
# %%
print('lives')
# %%
raise KeyboardInterrupt
""",
    "numpy": r"""
# in the kernel
import numpy as np
np.set_printoptions(precision=2, suppress=True)
# %%
np.linspace(0, 1, 4)
# %%
m = np.arange(6.0).reshape(2, 3) / 7
m
# %%
m[1, 2] = np.nan
print(m)
m.sum(axis=1), np.float64(1) / 3
# %%
np.array([1.0]) / 0
# %%
np.zeros(2) + np.zeros(3)
""",
    "logging": r"""
# in the kernel
import logging
logging.basicConfig(level=logging.INFO, format='%(levelname)s:%(name)s:%(message)s')
# %%
logging.info('root')
log = logging.getLogger('own')
log.warning('w %s', 1)
log.debug('not shown')
# %%
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger('x').error('failed')
# %%
logging.getLogger('own').setLevel(logging.ERROR)
logging.getLogger('own').warning('hidden')
""",
    "processes": r"""
import subprocess, sys, os
# %%
subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True)
# %%
subprocess.run(['sh', '-c', 'exit 4']).returncode
# %%
subprocess.check_call(['false'])
# %%
os.system('exit 2'), os.path.basename(os.getcwd()) in ('here', 'away')
# %%
import threading
from concurrent.futures import ThreadPoolExecutor
# %%
def work(n):
    print('working', n)
    return n * n
with ThreadPoolExecutor(1) as pool:
    results = list(pool.map(work, range(3)))
results  # out: work,results
# %%
thread = threading.Thread(target=lambda: print('in a thread'))
thread.start(); thread.join(); thread = None
# %%
with ThreadPoolExecutor(1) as pool:
    pool.submit(lambda: 1 / 0).result()  # out:
""",
}

THEMES: dict[str, list[str]] = {name: text.strip("\n").split(CUT) for name, text in _TEXTS.items()}
