"""Arguments and flags that several commands take."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

from zbrain_nb.cli.completing import complete_job
from zbrain_nb.model.limits import Limits, limits_from_pairs
from zbrain_nb.model.sizes import parse_mib

_JOB_HELP = "Id, four or more of its first characters, name, or -1 for the last."
#: "-1" behind the parser, which takes it for a flag.
LAST = "@-1"


class JobCommand(typer.core.TyperCommand):
    """A command that takes ``-1``, the last job, as an argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep ``-1`` from being taken for a flag."""
        return super().parse_args(ctx, [LAST if word == "-1" else word for word in args])


Command = Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help=_JOB_HELP, autocompletion=complete_job)]
JobNames = Annotated[list[str], typer.Argument(metavar="JOB...", help=_JOB_HELP, autocompletion=complete_job)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Name = Annotated[str | None, typer.Option(help="A name to find it by.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECS", help="End it after so long.")]
Retries = Annotated[int, typer.Option(min=0, help="Try again so often when it fails.")]
Priority = Annotated[int, typer.Option(help="Higher runs first.")]
After = Annotated[
    list[str] | None,
    typer.Option(metavar="JOB", help="Run after this job; may be repeated.", autocompletion=complete_job),
]
Env = Annotated[list[str] | None, typer.Option(metavar="K=V", help="Set a variable; may be repeated.")]
Secrets = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="NAME", help="Hand over a variable's value, hidden; asked for if it is not set."),
]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="K=V", help="A label; may be repeated.")]
Artifacts = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Files to keep; may be repeated.")]
Cpus = Annotated[float, typer.Option(metavar="N", help="CPU cores that it takes.")]
Mem = Annotated[str | None, typer.Option(metavar="16G", help="Memory that it takes; over it the job is killed.")]
Limit = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N", help=f"At most so much of {', '.join(Limits.__struct_fields__)}; may be repeated."),
]
Kind = Annotated[str, typer.Argument(metavar="[KIND]", help="Kind of worker.")]
On = Annotated[str | None, typer.Option(metavar="WORKER", help="Kind of worker, such as a pool (default: local).")]
Org = Annotated[str | None, typer.Option(help="Which org (default: ZDEFAULT_ORG_ID).")]
VERBATIM = {"allow_interspersed_args": False}


def spec_fields(
    *,
    name: str | None,
    timeout: float | None,
    retries: int,
    priority: int,
    env: list[str] | None,
    secrets: list[str] | None,
    tags: list[str] | None,
    artifacts: list[str] | None,
    cpus: float,
    mem: str | None,
    limit: list[str] | None,
    on: str | None,
    org: str | None,
) -> dict[str, Any]:
    """Return the fields of the spec that the flags of `run` and `submit` say.

    Raises
    ------
    typer.BadParameter
        If a size or a pair cannot be read.
    InvalidSpec
        If a limit does not hold.
    """
    try:
        memory_mb = None if mem is None else parse_mib(mem)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--mem") from None
    return {
        "name": name,
        "timeout_secs": timeout,
        "max_retries": retries,
        "priority": priority,
        "env": dict(pair(text, "--env") for text in env or []),
        "secrets": list(dict.fromkeys(secrets or [])),
        "tags": dict(pair(text, "--tag") for text in tags or []),
        "artifacts": list(artifacts or []),
        "resources": {"cpus": cpus, "memory_mb": memory_mb},
        "limits": limits_from_pairs(limit or []),
        "worker": on or "local",
        "org_id": org,
    }


def pair(text: str, flag: str) -> tuple[str, str]:
    """Return name and value of ``NAME=VALUE``.

    Raises
    ------
    typer.BadParameter
        If it is something else.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint=flag)
    return name, value
