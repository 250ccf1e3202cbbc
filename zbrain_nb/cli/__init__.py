"""The command line: ``zbrain``. Thin over the client, and over the entry points of host and worker.

`app.py` puts the commands together and says what becomes of errors; the commands stand by subject: `running`,
`listing`, `looking`, `acting` and `operating`. What takes long to import is imported by who needs it, so that
completion and help answer at once.
"""

from zbrain_nb.cli.app import main

__all__ = ["main"]
