"""The command line: ``zbrain``. Thin over the client, and over the entry points of host and worker."""

from zbrain_nb.cli.app import main

__all__ = ["main"]
