"""The audit: one record for each act, or for several refusals of one kind."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What became of an act."""

    ALLOWED = "allowed"
    REFUSED = "refused"  # for want of a valid token (401), or of the right (403)
    FAILED = "failed"  # allowed, but it could not be done: `reason` is the error


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Who did what.

    Attributes
    ----------
    seq : int
        Its place in the audit.
    ts : datetime
        When; of several refusals, the first.
    who : str
        The owner that the request acted as; empty if nobody was known.
    credential : str
        Kind of the token or login (`zbrain_nb.model.access.Credential`).
    token_id : str
        Which token; empty for a login, and for the data directory's own secret.
    address : str
        Where the request came from: behind Jupyter's relay that is the relay.
    verb : str
        What was asked for, as the routes name it: ``submit``, ``cancel``, ``create token``.
    object_kind, object_id : str
        Of what: ``job`` and its id; of a request about many the first one's.
    org_id : str
        Whose admins see the record; empty is only who holds the data directory.
    outcome : Outcome
        What became of it.
    reason : str
        Why it was refused or failed, or what else is to be known.
    count : int
        Objects of an allowed act; of a refusal, how often it was repeated within a minute.
    """

    seq: int = 0
    ts: dt.datetime
    who: str
    credential: str = ""
    token_id: str = ""
    address: str = ""
    verb: str
    object_kind: str = ""
    object_id: str = ""
    org_id: str = ""
    outcome: Outcome = Outcome.ALLOWED
    reason: str = ""
    count: int = 1
