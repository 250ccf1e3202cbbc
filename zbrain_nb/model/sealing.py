"""Sealing the values of secrets: for one who alone can open them, and for oneself.

For another: a fresh X25519 key and the receiver's public one make a key (HKDF-SHA-256, RFC 5869) for one message under
AES-256-GCM, as in HPKE's base mode (RFC 9180). So whoever forwards a request, or keeps a copy of it, reads nothing. It
does not tell who sealed: that is the token's part. For oneself, on disk: AES-256-GCM under a key derived from a secret.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from zbrain_nb.model.errors import Malformed

_KEY_BYTES, _NONCE_BYTES = 32, 12
_PURPOSE = b"zbrain secrets, 1"
_values = msgspec.json.Decoder(dict[str, str])


class SealingKey:
    """A private key, to open what was sealed for it.

    Parameters
    ----------
    secret : str, optional
        The key is derived from it, the same each time; without one it is random.
    """

    def __init__(self, secret: str | None = None) -> None:
        content = os.urandom(_KEY_BYTES) if secret is None else _derive(secret.encode(), b"key of a host")
        self._key = X25519PrivateKey.from_private_bytes(content)
        self._own = self._key.public_key().public_bytes_raw()
        #: The public key, in Base64.
        self.public = base64.b64encode(self._own).decode()

    def open(self, sealed: str) -> dict[str, str]:
        """Return the values in `sealed`.

        Raises
        ------
        Malformed
            If they were not sealed for this key, or were changed.
        """
        try:
            content = base64.b64decode(sealed, validate=True)
            sender, body = content[:_KEY_BYTES], content[_KEY_BYTES:]
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(sender))
            plain = AESGCM(_derive(shared, sender + self._own)).decrypt(bytes(_NONCE_BYTES), body, None)
            return _values.decode(plain)
        except (ValueError, InvalidTag, msgspec.DecodeError) as error:
            raise Malformed(
                "The secrets were not sealed for this host.", "Ask `GET health` for its key, and seal them anew."
            ) from error

    def prove(self, challenge: str, port: int) -> str:
        """Return what shows who sent `challenge`, a fresh public key, that one has this key (see `model.proving`).

        Parameters
        ----------
        port : int
            Where one listens: it shows nothing to who asked at another.

        Raises
        ------
        Malformed
            If it is no public key.
        """
        try:
            sender = base64.b64decode(challenge, validate=True)
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(sender))
        except ValueError as error:
            raise Malformed("This is no key to prove anything to.") from error
        return proof_of(shared, sender, self._own, port)


def proof_of(shared: bytes, sender: bytes, receiver: bytes, port: int) -> str:
    """Return what the owners of two keys alone can say: nothing that was sealed can be opened with it."""
    return _derive(shared, b"proof of a key" + sender + receiver + port.to_bytes(2)).hex()


def seal(public: str, values: Mapping[str, str]) -> str:
    """Return values so that only who has the private key of `public` can read them.

    Raises
    ------
    Malformed
        If `public` is no public key.
    """
    try:
        receiver = base64.b64decode(public, validate=True)
        fresh = X25519PrivateKey.generate()
        shared = fresh.exchange(X25519PublicKey.from_public_bytes(receiver))
    except ValueError as error:
        raise Malformed("This is no key to seal secrets for.") from error
    sender = fresh.public_key().public_bytes_raw()
    # the key is for this message alone, so the nonce need not differ
    body = AESGCM(_derive(shared, sender + receiver)).encrypt(bytes(_NONCE_BYTES), msgspec.json.encode(values), None)
    return base64.b64encode(sender + body).decode()


class Vault:
    """Encrypts for oneself.

    Parameters
    ----------
    secret : str
        The key is derived from it.
    """

    def __init__(self, secret: str) -> None:
        self._cipher = AESGCM(_derive(secret.encode(), b"at rest"))

    def lock(self, about: str, plain: bytes) -> bytes:
        """Return bytes encrypted; they open only for the same `about`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, about.encode())

    def unlock(self, about: str, locked: bytes) -> bytes | None:
        """Return the bytes, or None if this is none of this key's making for `about`."""
        try:
            return self._cipher.decrypt(locked[:_NONCE_BYTES], locked[_NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            return None


def _derive(material: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE + b"\0" + purpose).derive(material)
