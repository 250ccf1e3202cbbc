"""``zbrain token`` and ``zbrain audit``: who may ask this server, and who did what."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated

import msgspec
import typer

from zbrain_nb.cli import options
from zbrain_nb.cli.finding import connected
from zbrain_nb.cli.output import print_json, print_table, say
from zbrain_nb.client.printing import age
from zbrain_nb.model.access import Role
from zbrain_nb.model.audit import Record
from zbrain_nb.model.tokens import DAY_SECS, MAX_LIFE_SECS, Token, TokenKind, TokenRequest

_AGO = re.compile(r"(\d{1,6})\s*(s|min|h|d)")
_UNIT_SECS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
token = typer.Typer(help="Tokens: make, list and revoke them.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(token, name="token")
    app.command()(audit)


@token.command()
def create(
    kind: Annotated[TokenKind, typer.Option(help="What for: a person or kernel, a worker, an admin.")] = (
        TokenKind.PERSON
    ),
    org: Annotated[
        list[str] | None,
        typer.Option(metavar="ORG[=ROLE]", help=f"Where, as {', '.join(Role)}; may be repeated (default: your org)."),
    ] = None,
    all_orgs: Annotated[bool, typer.Option("--all-orgs", help="Everywhere: workers and admins.")] = False,
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Who it acts as (default: you).")] = None,
    pool: Annotated[str | None, typer.Option(help="Of a worker: the kind of jobs that it takes, and no other.")] = None,
    jobs_of: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a worker: takes this person's jobs only; '*': all, kept apart."),
    ] = None,
    label: Annotated[str, typer.Option(help="What it is for, in your words.")] = "",
    days: Annotated[
        float | None,
        typer.Option(min=0.001, max=MAX_LIFE_SECS / DAY_SECS, help="It expires after so many days (default: 90)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make a token and print its secret: this once, nobody can show it again.

    It may do no more than you may. Set ZBRAIN_TOKEN to the secret, or send it as `Authorization: token SECRET`.
    """
    from zbrain_nb.client.tokens import create_token

    if all_orgs and org:
        raise typer.BadParameter("It names no orgs beside it.", param_hint="--all-orgs")
    wanted = TokenRequest(
        kind=kind,
        owner=owner,
        roles=None if all_orgs else _roles(org, kind) if org else msgspec.UNSET,
        pool=pool,
        jobs_of=jobs_of,
        label=label,
        expires_in_secs=None if days is None else days * DAY_SECS,
    )
    wanted.check()
    client = connected()
    made = client.call(create_token, client.asynchronous.transport, wanted)
    if as_json:
        print_json(msgspec.to_builtins(made))
        return
    say(f"token {made.id} of {made.owner} ({_where(made)}) until {made.expires_at:%Y-%m-%d %H:%M} UTC; its secret:")
    typer.echo(made.secret)


def _roles(orgs: list[str], kind: TokenKind) -> dict[str, Role]:
    roles = {}
    for one in orgs:
        org_id, equals, role = one.rpartition("=")
        if equals and role not in set(Role):
            raise typer.BadParameter(f"{role!r} is none of {', '.join(Role)}.", param_hint="--org")
        roles[org_id if equals else one] = Role(role) if equals else kind.usual_role
    return roles


@token.command("list")
def list_(as_json: options.Json = False) -> None:
    """List tokens, newest first: yours, and those of the orgs that you administer. Secrets are not kept."""
    from zbrain_nb.client.tokens import list_tokens

    client = connected()
    found = client.call(list_tokens, client.asynchronous.transport)
    if as_json:
        print_json([{k: v for k, v in msgspec.to_builtins(one).items() if k != "secret"} for one in found])
        return
    columns = ("Id", "State", "Kind", "Owner", "Orgs", "Label", "Age", "Expires", "Used")
    rows = [
        (
            one.id,
            one.state,
            one.kind,
            one.owner,
            _where(one),
            one.label,
            age(one.created_at),
            f"{one.expires_at:%Y-%m-%d}",
            age(one.last_used_at) if one.last_used_at else "never",
        )
        for one in found
    ]
    print_table(columns, rows, "no tokens; `zbrain token create` makes one")


def _where(one: Token) -> str:
    if one.roles is None:
        return "all orgs"
    return ", ".join(f"{org_id}={role}" for org_id, role in one.roles.items())


@token.command()
def revoke(
    tokens: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, as `zbrain token list` shows them.")],
) -> None:
    """Revoke tokens, and those made with them, at once; what is open with them ends. Harmless for ended ones."""
    from zbrain_nb.client.tokens import revoke_token

    client = connected()
    for token_id in tokens:
        ended = client.call(revoke_token, client.asynchronous.transport, token_id)
        say(f"{ended.id}: {ended.state}")


def audit(
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="From then on: 30min, 6h, 2d ago, or a time like 2026-01-31.")
    ] = None,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this person did.")] = None,
    verb: Annotated[str | None, typer.Option(help="Only this act, such as cancel or 'create token'.")] = None,
    org: Annotated[str | None, typer.Option(help="Only what was done in this org.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")] = 100,
    as_json: options.Json = False,
) -> None:
    """List who did what, newest first: what was allowed, what was refused, and why.

    For admins of an org its records; all, for who holds the data directory.
    """
    from zbrain_nb.client.tokens import list_audit

    begin = None if since is None else _moment(since)
    client = connected()
    found = client.call(list_audit, client.asynchronous.transport, limit, org, who, verb, begin)
    if as_json:
        print_json([msgspec.to_builtins(one) for one in found])
        return
    print_table(
        ("When", "Who", "Token", "Act", "Object", "Org", "Outcome", "Reason"),
        [_row(one) for one in found],
        ("no such records"),
    )


def _row(one: Record) -> tuple[str, ...]:
    what = f"{one.object_kind} {one.object_id}".strip()
    return (
        f"{one.ts.astimezone():%Y-%m-%d %H:%M:%S}",
        one.who or f"({one.address})",
        one.token_id,
        one.verb,
        what,
        one.org_id,
        one.outcome + (f" x {one.count:,}" if one.count > 1 else ""),
        one.reason,
    )


def _moment(text: str) -> dt.datetime:
    """Return when `text` is: so long ago, or a time, in the zone of this machine if it names none."""
    ago = _AGO.fullmatch(text.removesuffix(" ago"))
    if ago is not None:
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(ago[1]) * _UNIT_SECS[ago[2]])
    try:
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither like 2d nor like 2026-01-31T08:00.", param_hint="--since"
        ) from None
