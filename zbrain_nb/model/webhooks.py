"""Who is told, outside, that jobs ended: the file that ``ZBRAIN_WEBHOOKS`` names.

::

    {
      "allow_hosts": ["hooks.example.org"],
      "orgs": {"default": {"url": "https://hooks.example.org/T0/B1", "secret": "of 16 characters or more"}}
    }

It is written by whoever runs the host, and readable by that account only, for it holds secrets. The host reads it when
it starts, and `zbrain doctor` looks at it.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import urllib.parse
from pathlib import Path

import msgspec

from zbrain_nb.model.checks import brief, check_number, check_org_id
from zbrain_nb.model.errors import InvalidSpec, ZBrainError
from zbrain_nb.model.job import JobState

MAX_FILE_BYTES = 1 << 20
MIN_SECRET = 16
MAX_AFTER_SECS = 1e8
ENDED = tuple(str(state) for state in JobState if state.ended)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one org's notices go.

    Attributes
    ----------
    url : str
        An address on one of the allowed hosts; ``http`` only to allowed networks.
    secret : str
        Signs what is sent, so that the receiver knows who sent it.
    after_secs : float
        Only jobs that ended so long after their submit, or later.
    states : tuple of str
        Only jobs that ended so.
    """

    url: str
    secret: str
    after_secs: float = 60.0
    states: tuple[str, ...] = ENDED


class Webhooks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the file says.

    Attributes
    ----------
    orgs : dict of str to Webhook
        By org; others have none.
    allow_hosts : list of str
        The names that addresses may have.
    allow_networks : list of str
        Networks that are not public and may be sent to all the same, such as ``10.1.0.0/16``.
    """

    orgs: dict[str, Webhook] = {}
    allow_hosts: list[str] = []
    allow_networks: list[str] = []

    @property
    def networks(self) -> list[Network]:
        """The allowed networks."""
        return [ipaddress.ip_network(text) for text in self.allow_networks]


def read_webhooks(path: str | os.PathLike[str]) -> Webhooks:
    """Read and check the file.

    Raises
    ------
    ZBrainError
        If it cannot be read, others may read it, or it does not hold; the message says where and what to do.
    """
    place = Path(path).expanduser()
    what = f"The webhooks file {place}"
    try:
        mode = place.stat().st_mode
        text = place.read_bytes()[: MAX_FILE_BYTES + 1]
    except OSError as error:
        raise ZBrainError(f"{what} cannot be read: {error.strerror}.", "Correct or unset ZBRAIN_WEBHOOKS.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ZBrainError(f"{what} holds secrets, and other accounts may read it.", f"Run `chmod 600 {place}`.")
    if len(text) > MAX_FILE_BYTES:
        raise ZBrainError(f"{what} is over {MAX_FILE_BYTES >> 20} MiB.")
    try:
        found = msgspec.json.decode(text, type=Webhooks)
        _check(found)
    except msgspec.ValidationError as error:
        raise ZBrainError(f"{what} does not hold: {brief(error)}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ZBrainError(f"{what} is not JSON: {error}.") from error
    except InvalidSpec as error:
        raise ZBrainError(f"{what} does not hold: {error.message}", error.hint) from error
    return found


def _check(found: Webhooks) -> None:
    for text in found.allow_networks:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidSpec(f"allow_networks: {error}.", "A network looks like 10.1.0.0/16.") from None
    hosts = {host.lower() for host in found.allow_hosts}
    for org, hook in found.orgs.items():
        check_org_id(f"orgs.{org}", org)
        where = f"orgs.{org}"
        check_number(f"{where}.after_secs", hook.after_secs, low=0, high=MAX_AFTER_SECS)
        if len(hook.secret) < MIN_SECRET:
            raise InvalidSpec(f"{where}.secret has fewer than {MIN_SECRET} characters.", "Run `openssl rand -hex 32`.")
        if not set(hook.states) <= set(ENDED) or not hook.states:
            raise InvalidSpec(f"{where}.states takes some of {', '.join(ENDED)}.")
        _check_url(where, hook.url, hosts)


def _check_url(where: str, url: str, hosts: set[str]) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidSpec(f"{where}.url cannot be read: {error}.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidSpec(f"{where}.url is no address that begins with https://.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidSpec(f"{where}.url holds a user, a password or a fragment.", "The secret signs what is sent.")
    if not url.isascii() or any(char.isspace() or not char.isprintable() for char in url):
        raise InvalidSpec(f"{where}.url holds characters that do not belong into an address.", "Encode them: %20.")
    if host not in hosts:
        raise InvalidSpec(f"{where}.url goes to {host}, which is not allowed.", "Put the host into allow_hosts.")
