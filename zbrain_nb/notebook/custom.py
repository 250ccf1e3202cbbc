"""`new_magic`: cell magics of one's own, which are ``%%zbrain`` with other defaults."""

from __future__ import annotations

from typing import Any

from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell

from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook.defaults import Defaults, preferences_of
from zbrain_nb.notebook.magic import ZBrainMagics, explain


def new_magic(name: str, **options: Any) -> None:
    """Make the cell magic ``%%name``, which is ``%%zbrain`` with these flags.

    Flags on a cell's own line go before them, and they before those of ``%zbrain config``. Made again, a magic
    takes the new flags.

    Parameters
    ----------
    name : str
        A Python name that is no magic yet.
    **options
        Flags without their dashes, such as ``gpus=1, mem="16G"``; ``in_`` stands for ``in``, which is a word of
        Python's own. A list for flags that may be repeated, true or false for those without a value.

    Raises
    ------
    UsageError
        If the name or a flag does not hold, or if this is no IPython.
    """
    shell = get_ipython()
    if shell is None:
        raise UsageError("Magics live in IPython, and this is none.", "Call it in a notebook.")
    preferences = preferences_of(shell)
    _check_name(shell, name)
    defaults = Defaults(f"new_magic({name!r})")
    for option, value in options.items():
        defaults.set(option, value)
    if ZBrainMagics.__name__ not in shell.magics_manager.registry:
        shell.run_line_magic("load_ext", "zbrain_nb")

    def run(line: str, cell: str) -> None:
        magics: ZBrainMagics = shell.magics_manager.registry[ZBrainMagics.__name__]
        magics.run_cell(line, cell, defaults)

    preferences.magics[name] = defaults
    run.__doc__ = f"Run this cell as a job: `%%zbrain {' '.join(defaults.words())}`, which `%%zbrain?` explains."
    shell.register_magic_function(run, "cell", name)  # type: ignore[arg-type] # IPython's own types are off
    explain(preferences)


def _check_name(shell: InteractiveShell, name: str) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(f"{name!r} cannot name a magic.", "Take letters, digits and _, as for a variable.")
    taken = {*shell.magics_manager.magics["cell"], *shell.magics_manager.magics["line"]}
    if name in taken and name not in preferences_of(shell).magics:
        raise UsageError(f"There is a magic {name!r} already.", "Take another name.")
