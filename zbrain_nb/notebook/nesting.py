"""An opt-in for notebooks whose own cells call ``asyncio.run(...)`` although the kernel's loop runs."""

from __future__ import annotations


def allow_asyncio_run() -> None:
    """Let ``asyncio.run`` and ``run_until_complete`` work inside this kernel's running loop.

    Patches asyncio for the whole process, by nest-asyncio's maintained fork where that is installed. zbrain
    itself never needs it and never calls it.
    """
    try:
        import nest_asyncio2 as nesting
    except ImportError:
        import nest_asyncio as nesting
    nesting.apply()
