"""Errors of ours that look, to IPython and to its reader, like what the cell itself raised."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from contextlib import suppress

from zbrain_nb.model.errors import ZBrainError


def lookalike(error: ZBrainError, name: str, text: str, trace: Sequence[str]) -> ZBrainError:
    """Return an error of the kind of `error` that shows itself as another one.

    Parameters
    ----------
    error : ZBrainError
        What it is: its class, message, hint and details stay.
    name : str
        The name of its class; if a built-in exception has it, ``except`` catches it by that too.
    text : str
        Its ``str``.
    trace : sequence of str
        What IPython prints in place of a traceback.
    """
    attributes = {"__str__": lambda _: text, "_render_traceback_": lambda _: list(trace), "__module__": __name__}
    own = getattr(builtins, name, None)
    kinds: list[tuple[type, ...]] = [(type(error),)]
    # IPython has ways of its own for syntax errors and exits, which look past what the error says of itself
    if isinstance(own, type) and issubclass(own, Exception) and not issubclass(own, SyntaxError):
        kinds.insert(0, (type(error), own))
    for bases in kinds:
        with suppress(TypeError, ValueError):  # a built-in kind with fields of its own goes with no other
            made: ZBrainError = type(name, bases, attributes)(error.message, error.hint, **error.details)
            return made
    return error
