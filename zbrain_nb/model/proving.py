"""How a server proves who it is before it is told a token: by a key that the caller was given beforehand.

Whoever shares a data directory with the host asks for the proof of `zbrain_nb.model.hosting.probe`. Users of a Hub
share none with its service, and anybody may listen on its port while it is down; so they know its public key. The
proof (X25519, and HKDF-SHA-256 of the shared secret, RFC 7748 and 5869) is asked for on the very connection that
carries the token: the next may come out at somebody else. It holds for one port alone, so that nobody who took the
port where the service was before can have it from where the service is now. Who sits on the way to the right port can
pass it on: an ``https`` address is proved by its certificate.
"""

from __future__ import annotations

import base64
import hmac
import urllib.parse
from typing import Any

import h11
import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.sealing import SealingKey, proof_of

CHALLENGE_HEADER = "X-ZBrain-Challenge"
MAX_ANSWER_BYTES = 65536
PROVE_SECS = 10.0


class Unproven(ConnectionRefusedError):
    """Who answers does not have the key; nothing but a challenge was sent."""


class Challenge:
    """One question, for one connection, on which nothing else was sent before.

    Parameters
    ----------
    url : str
        Root of the server, ending in ``/``.
    key : str
        Its public key, in Base64.

    Attributes
    ----------
    request : bytes
        What to send.

    Raises
    ------
    ZBrainError
        If `key` is none.
    """

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        try:
            self._key = base64.b64decode(key, validate=True)
            self._receiver = X25519PublicKey.from_public_bytes(self._key)
        except ValueError as error:
            raise ZBrainError(
                f"{key[:100]!r} is no key of a service.", "Set ZBRAIN_HUB_KEY to what `service_key` returns."
            ) from error
        self._own = X25519PrivateKey.generate()
        self._sent = self._own.public_key().public_bytes_raw()
        self._http = h11.Connection(our_role=h11.CLIENT)
        self._content = b""
        parts = urllib.parse.urlsplit(url)
        self._port = port_of(url)
        headers = [("Host", parts.netloc), (CHALLENGE_HEADER, base64.b64encode(self._sent).decode())]
        asking = h11.Request(method="GET", target=f"{parts.path}zbrain/api/health", headers=headers)
        self.request = (self._http.send(asking) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    def take(self, piece: bytes) -> bool:
        """Take a piece of the answer; return whether it is whole, and so the server is who it should be.

        Raises
        ------
        Unproven
            If it is not.
        """
        try:
            self._http.receive_data(piece)
            while (event := self._http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Data):
                    self._content += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self._check()
                    return True
                if isinstance(event, h11.ConnectionClosed) or len(self._content) > MAX_ANSWER_BYTES:
                    raise self._unproven("it does not say so")
        except (h11.RemoteProtocolError, msgspec.DecodeError) as error:
            raise self._unproven("it is no zbrain service") from error
        return False

    def _check(self) -> None:
        said = msgspec.json.decode(self._content, type=dict[str, Any]).get("key_proof")
        expected = proof_of(self._own.exchange(self._receiver), self._sent, self._key, self._port)
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), expected.encode()):
            raise self._unproven(f"it does not have the service's key, or not for port {self._port}")
        if self._http.their_state is not h11.DONE:
            raise self._unproven("it does not keep the connection on which it proves it")

    def _unproven(self, why: str) -> Unproven:
        return Unproven(f"who answers at {self._url} does not prove to be the service: {why}; nothing was told it")


def needs_proof(url: str, key: str) -> bool:
    """Whether a server is to be asked before it is told anything: where its key is known, and TLS proves nothing."""
    return bool(key) and url.startswith("http://")


def port_of(url: str) -> int:
    """Return the port of an ``http`` address, which its proof is for."""
    return urllib.parse.urlsplit(url).port or 80


def key_of(secret: str) -> str:
    """Return the public key of the host whose data directory has this secret."""
    return SealingKey(secret).public
