"""Tokens: what they may be made for, and the form of their secrets.

A secret is ``zb``, a letter for its kind, ``_``, 256 random bits in base 62 and a checksum (CRC-32 of what stands
before it, in base 62): scanners of repositories and logs find it by its form, and a mistyped one is known without a
look-up. The checksum protects nothing. The server keeps the SHA-256 of a secret, without salt or stretching: those
slow down guessing what people choose, and 256 random bits are not guessed. Who holds the table of hashes holds no
secret.

::

    zbp_   a person, a kernel or a script of theirs         zbw_   a worker
    zba_   an admin                                         zbj_   one attempt of a job (`zbrain_nb.server.job_tokens`)
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
import string
import zlib
from enum import StrEnum
from functools import cache

import msgspec

from zbrain_nb.model.access import Role
from zbrain_nb.model.checks import check_number, check_org_id, check_text
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.protocol import MAX_KIND

DAY_SECS = 86_400.0
DEFAULT_LIFE_SECS = 90 * DAY_SECS
MAX_LIFE_SECS = 366 * DAY_SECS
#: A token may be made for less, but not for less than a caller needs to use it.
MIN_LIFE_SECS = 1.0
MAX_LABEL, MAX_OWNER = 200, 200
#: Orgs that one token names at most.
MAX_ORGS = 1000
SECRET_BYTES = 32
#: Whose jobs workers get that keep people apart.
EVERYBODY = "*"
JOB_PREFIX = "zbj_"
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_SUM_LETTERS = 6
#: What looks like a secret of ours, wherever it stands: prefix, at least 256 bits, checksum.
SECRET_FORM = re.compile(r"(?<![0-9A-Za-z])zb[pwaj]_[0-9A-Za-z]{49,}")


class TokenKind(StrEnum):
    """What a token is for."""

    PERSON = "person"
    WORKER = "worker"
    ADMIN = "admin"

    @property
    def prefix(self) -> str:
        """How its secrets begin."""
        return f"zb{self.value[0]}_"

    @property
    def usual_role(self) -> Role:
        """The role it has where none is named."""
        return {TokenKind.PERSON: Role.SUBMITTER, TokenKind.WORKER: Role.VIEWER, TokenKind.ADMIN: Role.ADMIN}[self]


class TokenRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to make a token for: the body of ``POST tokens``.

    Attributes
    ----------
    kind : TokenKind
        What for.
    owner : str or None
        Who it acts as; None is who makes it.
    roles : dict of str to Role, or None
        Role by org. Omitted: the kind's usual role in the home org of who makes it. None: all orgs, for workers and
        admins only.
    pool : str or None
        Of a worker: the kind of jobs that it leases, and no other (`WorkerBinding.pool`).
    jobs_of : str or None
        Of a worker: the person whose jobs it leases, and no others'; None is who it acts as. `EVERYBODY` says that it
        keeps people apart, each in an account or a container of their own.
    label : str
        What it is for, in the words of who makes it.
    expires_in_secs : float or None
        From now on; at most `MAX_LIFE_SECS`. None is `DEFAULT_LIFE_SECS`, or as long as the token that makes it.
    """

    kind: TokenKind = TokenKind.PERSON
    owner: str | None = None
    roles: dict[str, Role] | msgspec.UnsetType | None = msgspec.UNSET
    pool: str | None = None
    jobs_of: str | None = None
    label: str = ""
    expires_in_secs: float | None = None

    def check(self) -> None:
        """Refuse what no token can be.

        Raises
        ------
        InvalidSpec
            Names the field.
        """
        if self.expires_in_secs is not None:
            check_number("expires_in_secs", self.expires_in_secs, low=MIN_LIFE_SECS, high=MAX_LIFE_SECS)
        check_text("label", self.label, MAX_LABEL, empty=True)
        if self.owner is not None:
            check_text("owner", self.owner, MAX_OWNER)
        for name, value, most in (("pool", self.pool, MAX_KIND), ("jobs_of", self.jobs_of, MAX_OWNER)):
            if value is not None:
                check_text(name, value, most)
                if self.kind is not TokenKind.WORKER:
                    raise InvalidSpec(f"Only a worker's token has {name}.", field=name)
        if self.roles is None:
            if self.kind is TokenKind.PERSON:
                raise InvalidSpec("A person's token names its orgs.", field="roles")
        elif self.roles is not msgspec.UNSET:
            self._check_roles(self.roles)

    def _check_roles(self, roles: dict[str, Role]) -> None:
        if not 0 < len(roles) <= MAX_ORGS:
            raise InvalidSpec(f"A token names 1 to {MAX_ORGS} orgs.", field="roles")
        for org_id, role in roles.items():
            check_org_id("roles", org_id)
            if self.kind is TokenKind.PERSON and role is Role.ADMIN:
                raise InvalidSpec("A person's token is no admin's.", "Make one of the kind admin.", field="roles")
            if self.kind is TokenKind.WORKER and role is not Role.VIEWER:
                raise InvalidSpec("A worker's token has the role viewer in its orgs.", field="roles")


class Token(msgspec.Struct, kw_only=True):
    """A token as it is listed; its secret is not in it.

    Attributes
    ----------
    id : str
        Names it, in lists and in the audit.
    kind, owner, roles, pool, jobs_of, label
        As in `TokenRequest`.
    created_by, created_with : str
        Who made it, and with which token; empty for a login or the data directory's own.
    created_at, expires_at, revoked_at : datetime
        In UTC; the last is None unless somebody revoked it.
    revoked_by : str or None
        Who did.
    last_used_at : datetime or None
        Coarse: minutes.
    """

    id: str
    kind: TokenKind
    owner: str
    roles: dict[str, Role] | None
    pool: str | None = None
    jobs_of: str | None = None
    label: str = ""
    created_by: str
    created_with: str = ""
    created_at: dt.datetime
    expires_at: dt.datetime
    revoked_at: dt.datetime | None = None
    revoked_by: str | None = None
    last_used_at: dt.datetime | None = None

    def state_at(self, now: dt.datetime) -> str:
        """Return ``live``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "live" if now < self.expires_at else "expired"


def new_secret(kind: TokenKind) -> str:
    """Return a new secret: 256 bits from the system's source."""
    return seal(kind.prefix, secrets.token_bytes(SECRET_BYTES))


def hash_secret(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def seal(prefix: str, content: bytes) -> str:
    """Return `content` in a secret's form, which `unseal` reads."""
    text = prefix + _digits(int.from_bytes(content, "big"), _letters(len(content)))
    return text + _digits(zlib.crc32(text.encode()), _SUM_LETTERS)


def unseal(secret: str, size: int) -> bytes | None:
    """Return the `size` bytes in a secret, or None if its form or its checksum does not hold."""
    if not _is_whole(secret, size):
        return None
    value = 0
    for letter in secret[4:-_SUM_LETTERS]:
        value = value * 62 + _VALUES[letter]
    return value.to_bytes(size, "big") if value < 1 << (8 * size) else None


def is_secret(text: str) -> bool:
    """Whether `text` is, whole, a secret of a stored token: of its form, and with the right checksum."""
    return text[:4] in PREFIXES and _is_whole(text, SECRET_BYTES)


def has_secret_form(text: str) -> bool:
    """Whether `text` is, whole, of the form of our secrets, a job's too: whether it is one only a server can tell."""
    return SECRET_FORM.fullmatch(text) is not None


def shows_secret(text: str) -> bool:
    """Whether a secret stands somewhere in `text`."""
    return SECRET_FORM.search(text) is not None


def hide_secrets(text: str) -> str:
    """Return `text` with no more of the secrets in it than how they begin."""
    return SECRET_FORM.sub(lambda found: f"{found[0][:4]}...", text)


#: How the secrets of stored tokens begin.
PREFIXES = tuple(kind.prefix for kind in TokenKind)


def _is_whole(secret: str, size: int) -> bool:
    """Whether it has the letters that `size` bytes take, and its checksum holds."""
    text, check = secret[:-_SUM_LETTERS], secret[-_SUM_LETTERS:]
    if len(secret) != 4 + _letters(size) + _SUM_LETTERS or not (secret[4:].isalnum() and secret.isascii()):
        return False
    return _digits(zlib.crc32(text.encode()), _SUM_LETTERS) == check


@cache
def _letters(size: int) -> int:
    """Return how many letters `size` bytes take."""
    letters = 0
    while 62**letters < 1 << (8 * size):
        letters += 1
    return letters


def _digits(value: int, width: int) -> str:
    letters = []
    for _ in range(width):
        value, digit = divmod(value, 62)
        letters.append(_ALPHABET[digit])
    return "".join(reversed(letters))
