"""The audit's table: its rows, and how they are read in pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any

import msgspec

from zbrain_nb.model.audit import Outcome, Record
from zbrain_nb.store.queries import Cursor
from zbrain_nb.store.rows import micros

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class AuditQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which records.

    Attributes
    ----------
    orgs : collection of str or None
        Only of these orgs; None is all, and what belongs to none.
    who, verb : str or None
        Only of this owner, and of this act.
    since : datetime or None
        Only from then on.
    before : int or None
        Only with a lesser `seq`: the next page.
    limit : int
        At most so many.
    """

    orgs: Collection[str] | None = None
    who: str | None = None
    verb: str | None = None
    since: dt.datetime | None = None
    before: int | None = None
    limit: int = 100


def audit_row(record: Record) -> tuple[Any, ...]:
    """Return the row of a record, in the order of `rows.AUDIT`."""
    return (
        record.seq,
        micros(record.ts),
        record.who,
        record.credential,
        record.token_id,
        record.address,
        record.verb,
        record.object_kind,
        record.object_id,
        record.org_id,
        record.outcome.value,
        record.reason,
        record.count,
    )


def last_audit_seq(cursor: Cursor) -> int:
    """Return the `seq` of the newest record, 0 if there is none."""
    row = cursor.execute("SELECT max(seq) FROM audit").fetchone()
    return (row and row[0]) or 0


def audit_records(cursor: Cursor, wanted: AuditQuery) -> list[Record]:
    """Return records, newest first."""
    conditions, values = ["true"], list[Any]()
    for condition, value in (
        ("org_id IN (SELECT unnest(?::VARCHAR[]))", None if wanted.orgs is None else list(wanted.orgs)),
        ("who = ?", wanted.who),
        ("verb = ?", wanted.verb),
        ("ts >= make_timestamp(?)", micros(wanted.since)),
        ("seq < ?", wanted.before),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    rows = cursor.execute(
        "SELECT seq, epoch_us(ts), who, credential, token_id, address, verb, object_kind, object_id, org_id, outcome, "
        f"reason, count FROM audit WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT ?",
        [*values, wanted.limit],
    ).fetchall()
    return [_record(row) for row in rows]


def _record(row: tuple[Any, ...]) -> Record:
    seq, ts, who, credential, token_id, address, verb, object_kind, object_id, org_id, outcome, reason, count = row
    return Record(
        seq=seq,
        ts=_EPOCH + dt.timedelta(microseconds=ts),
        who=who,
        credential=credential,
        token_id=token_id,
        address=address,
        verb=verb,
        object_kind=object_kind,
        object_id=object_id,
        org_id=org_id,
        outcome=Outcome(outcome),
        reason=reason,
        count=count,
    )
