"""Attacks on the relay in a real Jupyter: pages of strangers, tokens in addresses, and a host that means harm."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.jupyter import Lab
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.tokens import TokenKind, new_secret

pytestmark = pytest.mark.anyio
NOBODY = "01936b1e-0000-7000-8000-000000000000"
EVIL = "http://evil.example"


@pytest.fixture
def victim(jupyter: Lab) -> Iterator[httpx.Client]:
    """The browser of somebody who is logged in, and what it sends by itself: cookies."""
    anew = httpx.Limits(max_keepalive_connections=0)  # Jupyter hangs up after some refusals
    with httpx.Client(base_url=f"{jupyter.url}zbrain/", trust_env=False, timeout=30, limits=anew) as client:
        client.get(jupyter.url, params={"token": jupyter.token})
        assert client.get("").status_code == 200  # the console sets the XSRF cookie
        yield client


@pytest.fixture
def kernel(jupyter: Lab) -> dict[str, str]:
    return {"Authorization": f"token {DataDir(jupyter.data).token()}"}


def test_relay_takes_no_act_on_a_cookie_alone(victim: httpx.Client) -> None:
    def submit(**headers: str) -> int:
        return victim.post("api/jobs", json={"cmd": ["true"]}, headers=headers).status_code

    shown = {"X-XSRFToken": victim.cookies["_xsrf"]}
    assert submit(**shown) == 201
    assert submit(**shown, Origin=EVIL) in (403, 404)
    for headers in ({}, {"X-XSRFToken": "guessed"}, {"Content-Type": "text/plain"}, {"Origin": EVIL}):
        assert submit(**headers) in (403, 404), headers
    assert victim.put(f"api/blobs/{'0' * 64}", content=b"x").status_code == 403
    assert victim.delete(f"api/tokens/zbp_{'0' * 16}").status_code == 403
    assert len(victim.get("api/jobs").json()["jobs"]) == 1


def test_relay_lets_no_other_page_read(victim: httpx.Client) -> None:
    read = victim.get("api/jobs", headers={"Origin": EVIL})
    asked = victim.options("api/jobs", headers={"Origin": EVIL, "Access-Control-Request-Method": "POST"})
    for answer in (read, asked):
        assert not [name for name in answer.headers if name.startswith("access-control-allow")]
    assert (read.headers["Content-Type"], read.headers["X-Content-Type-Options"]) == ("application/json", "nosniff")


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"])
def test_relay_answers_to_no_name_of_a_stranger(victim: httpx.Client, kernel: dict[str, str], name: str) -> None:
    for path in ("", "api/jobs", "api/health", f"api/jobs/{NOBODY}/result"):
        for headers in ({}, kernel):
            assert victim.get(path, headers={"Host": name, **headers}).status_code == 403, path


async def test_relay_opens_sockets_for_its_own_pages_alone(
    jupyter: Lab, victim: httpx.Client, kernel: dict[str, str]
) -> None:
    url = f"ws{jupyter.url.removeprefix('http')}zbrain/api/events"
    cookie = {"Cookie": "; ".join(f"{one.name}={one.value}" for one in victim.cookies.jar)}
    own = f"http://127.0.0.1:{jupyter.port}"
    async with connect(url, additional_headers=cookie, origin=own, proxy=None):  # type: ignore[arg-type]
        pass
    for headers in (cookie, kernel):
        for origin in (EVIL, "null", "http://127.0.0.1:1", f"{own}.evil.example"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, additional_headers=headers, origin=origin, proxy=None)  # type: ignore[arg-type]
            assert refused.value.response.status_code == 403, origin


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "api/sessions"),
        ("POST", "api/backup"),
        ("GET", "login?code=x"),
        ("POST", "api/sessions/"),
        ("POST", "api//sessions"),
        ("POST", "api/%73essions"),
        ("POST", "api/sessions#/jobs"),
        ("POST", "api/jobs/../sessions"),
        ("POST", "api/jobs/%2e%2e/sessions"),
        ("POST", f"api/jobs/{NOBODY}/artifacts/../../../sessions"),
        ("POST", f"api/jobs/{NOBODY}/artifacts/..%2f..%2f..%2fsessions"),
        ("GET", f"api/jobs/{NOBODY}/artifacts/x%0d%0aHost:%20evil.example"),
        ("GET", "api/jobs@evil.example/"),
    ],
)
def test_relay_reaches_no_route_that_it_does_not_list(
    jupyter: Lab, kernel: dict[str, str], method: str, path: str
) -> None:
    """Sent as it stands: clients would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=30)
    connection.request(method, f"/base/zbrain/{path}", body=b"{}" if method == "POST" else None, headers=kernel)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    assert answer.status in (302, 404, 405), said
    assert answer.status != 302 or "login?next=" in answer.headers["Location"]  # Jupyter's own


def test_relay_takes_no_page_with_dot_segments(jupyter: Lab) -> None:
    """On a Hub some pages need no login, and go upstream with a token of the server's user."""

    def get(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=30)
        connection.request("GET", f"/base/zbrain/{path}")
        answer = connection.getresponse()
        said = answer.status, answer.read()
        connection.close()
        return said

    for path in (
        "static/../../../user/bob/zbrain/api/jobs",
        "static/./x.js",
        "static/x/..",
        "static/%2e%2e/api/jobs",
        "static/.%2E/api/jobs",
        "static%2f..%2fapi/jobs",
        "static/..%5capi",
        "static/..\\api",
        "frame/..",
    ):
        status, said = get(path)
        assert (status, b"dot segments" in said) == (404, True), path
    assert get("static/a..b/.../..x")[0] == 302  # no dot segments: Jupyter's login


def test_relay_refuses_tokens_in_addresses_and_logs_none(
    jupyter: Lab, victim: httpx.Client, kernel: dict[str, str]
) -> None:
    secret = new_secret(TokenKind.PERSON)
    for path in (f"api/jobs?token={secret}", f"api/jobs?q={secret}", f"api/{secret}", f"static/{secret}"):
        for headers in ({}, kernel):
            assert victim.get(path, headers=headers).status_code == 400, path
    said = (jupyter.folder / "server.log").read_text() + DataDir(jupyter.data).log.read_text()
    assert "400 GET /base/zbrain/api/jobs?q=zbp_" in said
    for token in (secret, kernel["Authorization"].removeprefix("token "), jupyter.token):
        assert token[4:] not in said
