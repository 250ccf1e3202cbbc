"""``zbrain``: its commands put together, and what becomes of errors."""

from __future__ import annotations

import os
import sys

import typer

from zbrain_nb.cli import acting, admitting, listing, looking, operating, running
from zbrain_nb.cli.exits import EXIT_CODES, exit_code_of
from zbrain_nb.cli.output import say
from zbrain_nb.model.errors import Detached, ZBrainError

app = typer.Typer(
    name="zbrain",
    help="Run commands and notebook cells as durable jobs.",
    epilog=f"Exit codes: {EXIT_CODES}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for room in (running, listing, looking, acting, operating, admitting):
    room.add_to(app)


def main() -> None:
    """Run ``zbrain``; an error of ours is one line on stderr, and an exit code (see `exits`)."""
    try:
        app()
    except Detached as error:
        job_id = error.details["job_id"]
        say(f"{error.message} `zbrain logs -f {job_id}` follows it again, `zbrain cancel {job_id}` ends it.")
        sys.exit(exit_code_of(error))
    except ZBrainError as error:
        say(str(error))
        sys.exit(exit_code_of(error))
    except BrokenPipeError:
        # Nobody reads on. Python would say so once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
