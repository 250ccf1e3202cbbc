"""What a route declares of itself, beside its code: arguments, body, answers, refusals.

`ApiHandler` reads requests by these declarations and `zbrain_nb.server.openapi` writes them down, so the document
cannot say anything else than what is checked. Nothing here knows a route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import msgspec

from zbrain_nb.model.access import Credential
from zbrain_nb.model.errors import (
    DiskFloor,
    Forbidden,
    InvalidSpec,
    Malformed,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
    ZBrainError,
)

#: People, and the code of their jobs.
PEOPLE = frozenset({Credential.PERSON, Credential.JOB})
#: Workers with a token of their own, and those that people run with theirs.
WORKERS = frozenset({Credential.PERSON, Credential.WORKER})
#: People themselves.
PERSONS = frozenset({Credential.PERSON})
#: Whoever is known.
ALL = frozenset(Credential)

F = TypeVar("F", bound=Callable[..., Any])
METHODS = ("get", "head", "post", "put", "delete", "patch")
_ATTRIBUTE = "__operation__"
#: What any route may answer, any that takes a JSON body, and any that writes.
ALWAYS: tuple[type[ZBrainError], ...] = (Malformed, Unauthorized, Forbidden, Unavailable)
WITH_BODY: tuple[type[ZBrainError], ...] = (InvalidSpec, TooLarge)
WRITING: tuple[type[ZBrainError], ...] = (DiskFloor,)


class NoArguments(msgspec.Struct):
    """The query of a route that takes none."""


class OpenTo(Enum):
    """What who asks has to show."""

    ALL = "all"
    #: Whoever shows the token, or sends it from a browser with a session.
    CALLERS = "callers"
    TOKEN = "token"  # not a browser's session


@dataclass(frozen=True)
class Header:
    """A header of a request or an answer: its name, the type of its value, and what it says."""

    name: str
    type: Any
    text: str


@dataclass(frozen=True)
class Content:
    """A body that is no JSON, or has headers that a caller wants to know.

    Attributes
    ----------
    media : str
        Its media type; empty if there is no body.
    kind : object
        The type of a JSON body.
    headers : tuple of Header
        Of an answer.
    """

    media: str = ""
    kind: Any = None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one route.

    Attributes
    ----------
    query : type of msgspec.Struct
        Its arguments; those with a default may be left out.
    body : type, Content or None
        What the JSON body holds.
    headers : tuple of Header
        Of the request, that it heeds.
    answers : dict of int to type, tuple of types, Content or None
        Status and JSON body of each success; a tuple holds alternatives.
    refuses : tuple of type of ZBrainError
        Refusals besides `ALWAYS`, `WITH_BODY` and `WRITING`.
    open_to : OpenTo
        What who asks has to show.
    admits : frozenset of Credential
        Which kinds of credentials; by default none. What their principals may do there is the queue's to say.
    act : str
        How the audit calls it; empty if it changes nothing and takes nothing away.
    """

    query: type[msgspec.Struct] = NoArguments
    body: Any = None
    headers: tuple[Header, ...] = ()
    answers: Mapping[int, Any] = field(default_factory=dict)
    refuses: tuple[type[ZBrainError], ...] = ()
    open_to: OpenTo = OpenTo.CALLERS
    admits: frozenset[Credential] = frozenset()
    act: str = ""

    def refusals(self, method: str, *, varies: bool) -> dict[int, list[type[ZBrainError]]]:
        """Return all errors that it may answer as `method`, by status; an address that `varies` may lead nowhere."""
        found: dict[int, list[type[ZBrainError]]] = {}
        taking = WITH_BODY if self.body is not None else ()
        writing = () if method in ("get", "head") else WRITING
        nowhere = (NotFound,) if varies else ()
        for kind in dict.fromkeys((*ALWAYS, *taking, *writing, *nowhere, *self.refuses)):
            if kind is not Unauthorized or self.open_to is not OpenTo.ALL:
                found.setdefault(kind.status, []).append(kind)
        return dict(sorted(found.items()))


def operation(
    *,
    answers: Mapping[int, Any],
    query: type[msgspec.Struct] = NoArguments,
    body: Any = None,
    headers: tuple[Header, ...] = (),
    refuses: tuple[type[ZBrainError], ...] = (),
    open_to: OpenTo = OpenTo.CALLERS,
    admits: frozenset[Credential] = frozenset(),
    act: str = "",
) -> Callable[[F], F]:
    """Declare what a handler's method takes and answers (see `Operation`)."""
    declared = Operation(
        query=query,
        body=body,
        headers=headers,
        answers=answers,
        refuses=refuses,
        open_to=open_to,
        admits=admits,
        act=act,
    )

    def declare(method: F) -> F:
        setattr(method, _ATTRIBUTE, declared)
        return method

    return declare


def operation_of(handler: type, method: str) -> Operation | None:
    """Return what a handler declares of a method, or None.

    Looks at all classes above it, for some put themselves before the one that declares.
    """
    for above in handler.__mro__:
        declared: Operation | None = getattr(vars(above).get(method), _ATTRIBUTE, None)
        if declared is not None:
            return declared
    return None
