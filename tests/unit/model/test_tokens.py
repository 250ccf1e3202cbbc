"""The form of secrets: found by scanners, checked without a look-up, 256 bits of chance."""

import re
import string

import pytest

from zbrain_nb.model.access import Role
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.tokens import (
    DAY_SECS,
    TokenKind,
    TokenRequest,
    hash_secret,
    is_secret,
    new_secret,
    seal,
    shows_secret,
    unseal,
)


@pytest.mark.parametrize("kind", TokenKind)
def test_secret_has_the_form_that_is_documented_and_is_found_in_text(kind):
    secret = new_secret(kind)
    assert re.fullmatch(rf"{kind.prefix}[0-9A-Za-z]{{43}}[0-9A-Za-z]{{6}}", secret)
    assert is_secret(secret)
    assert shows_secret(f"GET /zbrain/api/jobs?token={secret}&a=b")
    assert not shows_secret(f"GET /zbrain/api/jobs/{'a' * 64}")


def test_secrets_differ_and_their_hashes_are_sha256():
    made = {new_secret(TokenKind.PERSON) for _ in range(1000)}
    assert len(made) == len({hash_secret(secret) for secret in made}) == 1000
    assert hash_secret("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


def test_every_single_typing_error_is_noticed():
    secret = new_secret(TokenKind.PERSON)
    for place in range(len(secret)):
        for letter in string.digits + string.ascii_letters:
            wrong = secret[:place] + letter + secret[place + 1 :]
            assert wrong == secret or not is_secret(wrong), place


@pytest.mark.parametrize(
    "text", ["", "zbp_", "zbj_" + "0" * 49, "ghp_" + "0" * 49, "zbp_" + "0" * 48, "zbp_" + "é" * 49, "zbp_\x00\ud800"]
)
def test_what_is_no_secret_is_none_and_raises_nothing(text):
    assert not is_secret(text)


def test_what_is_sealed_is_unsealed_and_nothing_larger():
    for content in (b"\0" * 32, b"\xff" * 32, bytes(range(32))):
        assert unseal(seal("zbp_", content), 32) == content
    letters = "z" * 43  # more than 256 bits
    too_large = seal("zbp_", b"\xff" * 32)[:4] + letters
    assert unseal(too_large + "000000", 32) is None


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"expires_in_secs": 367 * DAY_SECS}, "expires_in_secs"),
        ({"expires_in_secs": 0}, "expires_in_secs"),
        ({"expires_in_secs": float("nan")}, "expires_in_secs"),
        ({"label": "x" * 201}, "label"),
        ({"owner": ""}, "owner"),
        ({"roles": {}}, "roles"),
        ({"roles": None}, "roles"),
        ({"roles": {"a/b": Role.VIEWER}}, "roles"),
        ({"roles": {"a": Role.ADMIN}}, "roles"),
        ({"kind": TokenKind.WORKER, "roles": {"a": Role.OPERATOR}}, "roles"),
        ({"pool": "gpu"}, "pool"),
    ],
)
def test_request_that_no_token_can_meet_is_refused_by_field(wanted, field):
    with pytest.raises(InvalidSpec) as refused:
        TokenRequest(**wanted).check()
    assert refused.value.details["field"] == field
