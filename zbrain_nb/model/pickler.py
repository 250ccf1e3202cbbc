"""The pickler for what travels between a notebook and a job, and its unpickler.

A `cloudpickle.Pickler` that knows one *namespace* (the notebook's, or the job's). Functions whose globals are
that namespace are not given a copy of it: they are bound to the reader's namespace, so that a helper redefined
in the cell is seen and ``global counter`` works. Which names they read is collected in `reads`; `payload`
ships those. It also mends what pickles wrongly in silence or needlessly not at all.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import io
import linecache
import pickle
import sys
import threading
import types
from _io import _IOBase
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle.cloudpickle as cp

#: As ipykernel names the files of cells: IPython formats tracebacks by the look of these names.
CELL_PREFIX = "/tmp/ipykernel_cell/"
_LOCKS: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}
_SINGLE_DISPATCH = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]
_REFUSED = (_IOBase, threading.Thread)
#: What is pickled by its name, if its module can be imported.
_NAMED = (type, types.FunctionType, types.ModuleType)
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]


class _Here:
    """Stands for the reader's namespace where a function's globals are pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _namespace, ()


_HERE = _Here()


class NamespacePickler(cp.Pickler):  # type: ignore[misc]
    """Pickles several objects, one after the other, with one memo: aliases stay aliases.

    Parameters
    ----------
    file : object with ``write(bytes)``
        Where the pickles go.
    namespace : dict
        Functions that have it as globals are bound to the reader's namespace.
    buffer_callback : callable
        Takes each out-of-band `pickle.PickleBuffer` (protocol 5).

    Attributes
    ----------
    reads : dict of str to None
        Names of `namespace` that pickled functions read, in order of appearance.
    sources : dict of str to str
        Texts of the cells that pickled code comes from, by the file name the code now bears.
    modules : set of str
        Modules that reading needs: those of what is pickled by its name, and those that pickled code imports.
    has_code : bool
        Whether bytecode was pickled, which only the same minor version of Python can read.
    """

    def __init__(
        self, file: Any, namespace: dict[str, Any], buffer_callback: Callable[[pickle.PickleBuffer], None]
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._namespace = namespace
        self.globals_ref[id(namespace)] = _HERE
        self.reads: dict[str, None] = {}
        self.sources: dict[str, str] = {}
        self.modules: set[str] = set()
        self.has_code = False

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what cloudpickle refuses without need, or takes wrongly."""
        kind = type(obj)
        if issubclass(kind, _NAMED):
            self._note_module(obj.__name__ if kind is types.ModuleType else getattr(obj, "__module__", None))
        if kind is types.CodeType:
            return self._reduce_code(obj)
        if kind is types.FunctionType and obj.__code__ is _SINGLE_DISPATCH and _is_local(obj):
            return _make_single_dispatch, (dict(obj.registry),)
        if kind is functools._lru_cache_wrapper and _is_local(obj):
            return _make_cached, (obj.__wrapped__, obj.cache_parameters())
        if kind is functools.cached_property:
            return _make_cached_property, (obj.func, obj.attrname)
        if kind in _LOCKS:
            return _make_lock, (kind is not type(threading.Lock()),)
        if isinstance(obj, _REFUSED):
            return self._reduce_unfit(obj)
        if isinstance(obj, BaseException) and _loses_its_init(kind):
            return _make_exception, (kind, obj.args), obj.__dict__ or None
        return super().reducer_override(obj)

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        if func.__globals__ is self._namespace:
            slots = reduced[2][1]
            self.reads.update(dict.fromkeys(slots["__globals__"]))
            slots["__globals__"] = {}
        return reduced

    def _note_module(self, name: object) -> None:
        if isinstance(name, str):  # a class may have anything for its module
            self.modules.add(name)

    def _reduce_code(self, code: types.CodeType) -> Any:
        self.has_code = True
        self.modules.update(_imports_of_code(code))
        make, args = cp._code_reduce(code)
        name, text = _cell_source(code.co_filename)
        if name is not None:
            self.sources[name] = text
        else:
            name = code.co_filename  # a script's: tracebacks show its lines where the file is at hand
        place = args.index("<dynamic-code>")
        return make, (*args[:place], name, *args[place + 1 :])

    def _reduce_unfit(self, obj: Any) -> Any:
        for name in ("stdout", "stderr"):
            if obj is getattr(sys, name):
                return getattr, (sys, name)
        if isinstance(obj, io.BytesIO | io.StringIO):
            return NotImplemented
        if isinstance(obj, threading.Thread):
            raise pickle.PicklingError("a thread belongs to its process")
        # cloudpickle would ship a file open for reading with its whole content, in silence
        raise pickle.PicklingError("an open file belongs to its process")


class NamespaceUnpickler(pickle.Unpickler):
    """Reads what `NamespacePickler` wrote.

    Parameters
    ----------
    file : object with ``read`` and ``readline``
        Where the pickles lie, one after the other.
    namespace : dict
        Becomes the globals of the functions that had the writer's namespace as theirs. Nothing is bound in it.
    buffers : list of memoryview
        The out-of-band buffers, in order.
    """

    def __init__(self, file: Any, namespace: dict[str, Any], buffers: list[memoryview]) -> None:
        super().__init__(file, buffers=buffers)
        self._target = namespace
        self._classes = _Classes()

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up; the makers of classes are wrapped, so that a class known here stays as it is.

        Nothing that is returned may lead back to the unpickler: its memo holds that, and not every Python's garbage
        collector looks into memos (3.11.2's does not), so all that was read would stay in memory for ever.
        """
        if module == "cloudpickle.cloudpickle":
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return functools.partial(self._classes.make, getattr(cp, name))
            if name == "_class_setstate":
                return self._classes.fill
        elif module == __name__ and name == "_namespace":
            return functools.partial(_identity, self._target)
        return super().find_class(module, name)


class _Classes:
    """Makes the classes that a pickle holds, but for those that live here already."""

    def __init__(self) -> None:
        self._known: set[type] = set()

    def make(self, make: Callable[..., type], *args: Any) -> type:
        tracker_id = args[-2]
        known: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
        if known is None:
            return make(*args)
        self._known.add(known)
        return known

    def fill(self, cls: type, state: Any) -> Any:
        # the class lives here with its own methods and globals; cloudpickle would put the job's over them
        return cls if cls in self._known else cp._class_setstate(cls, state)


def _identity(namespace: dict[str, Any]) -> dict[str, Any]:
    return namespace


def _namespace() -> dict[str, Any]:
    raise pickle.UnpicklingError("only NamespaceUnpickler reads this pickle")


def _imports_of_code(code: types.CodeType) -> Iterator[str]:
    """Yield the modules that code imports when it runs; functions inside it are code of their own."""
    if _IMPORT_NAME in code.co_code[::2]:  # disassembling is slow, and most functions import nothing
        for instruction in dis.get_instructions(code):
            if instruction.opcode == _IMPORT_NAME and instruction.argval:
                yield instruction.argval


def _is_local(obj: Any) -> bool:
    """Whether `obj` cannot be found again by importing its module."""
    return cp._lookup_module_and_qualname(obj) is None


def _make_single_dispatch(registry: Mapping[type, Callable[..., Any]]) -> Any:
    generic = functools.singledispatch(registry[object])
    for cls, implementation in registry.items():
        if cls is not object:
            generic.register(cls, implementation)
    return generic


def _make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _make_cached_property(function: Callable[[Any], Any], name: str | None) -> Any:
    made = functools.cached_property(function)
    made.attrname = name  # the class is filled by setattr, which does not call __set_name__
    return made


def _make_lock(reentrant: bool) -> Any:
    """Return a free lock: the job shares nothing with the notebook that a lock could guard."""
    return threading.RLock() if reentrant else threading.Lock()


def _loses_its_init(kind: type[BaseException]) -> bool:
    """Whether loading would call an ``__init__`` of Python with ``args``, which it may not fit."""
    return isinstance(kind.__init__, types.FunctionType) and (
        kind.__reduce__ is BaseException.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__
    )


def _make_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    made = kind.__new__(kind, *args)
    native = next(
        c for c in kind.__mro__ if not isinstance(c.__dict__.get("__init__", _make_exception), types.FunctionType)
    )
    native.__init__(made, *args)  # type: ignore[misc]
    return made


def _cell_source(filename: str) -> tuple[str | None, str]:
    """Return a name that does not change with the kernel's process, and the text, of the cell in `filename`."""
    entry = linecache.cache.get(filename)
    if entry is None or len(entry) != 4 or entry[1] is not None:  # a real file has a modification time
        return None, ""
    text = "".join(entry[2])
    if filename.startswith(CELL_PREFIX):
        return filename, text
    return f"{CELL_PREFIX}{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]}.py", text


def cell_numbers(files: Mapping[str, int], sources: Mapping[str, str]) -> dict[str, int]:
    """Return the numbers of the cells that travelling code comes from, for its tracebacks.

    Parameters
    ----------
    files : mapping of str to int
        The file names of the cells that have run here, and their numbers.
    sources : mapping of str to str
        As `NamespacePickler.sources`.
    """
    by_text = {"".join(linecache.getlines(name)): number for name, number in files.items()}
    return {name: by_text[text] for name, text in sources.items() if text in by_text}
