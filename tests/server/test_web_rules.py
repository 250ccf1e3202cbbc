"""Rules of the web on all routes of the host, so that a new one cannot be forgotten."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.server.test_routes import event, leased
from zbrain_nb.model.datadir import Owner
from zbrain_nb.server.application import OWN_ROUTES, ROUTES
from zbrain_nb.server.handlers.declaration import OpenTo, operation_of

pytestmark = pytest.mark.anyio
NOBODY = "01936b1e-0000-7000-8000-000000000000"
PARTS = {
    "job_id": NOBODY,
    "worker_id": "w",
    "verb": "lookup",
    "name": "x",
    "sha256": "0" * 64,
    "cache_key": "0" * 64,
    "org": "default",
    "kind": "local",
    "token_id": f"zbp_{'0' * 16}",
}
PAGE = b"<script>top.pwned = 1</script>"
TEXTS = ("application/json", "text/plain", "application/openmetrics-text")


def closed_operations() -> Iterator[tuple[str, str]]:
    """Yield method and path of all that is not open to everybody."""
    for route, handler in ROUTES + OWN_ROUTES:
        for method in handler.SUPPORTED_METHODS:
            declared = operation_of(handler, method.lower())
            if declared is not None and declared.open_to is not OpenTo.ALL:
                yield method, re.sub(r"{(\w+)}", lambda part: PARTS[part[1]], route)


def test_nothing_is_open_to_everybody_but_what_holds_nothing() -> None:
    declared = [(route, operation_of(handler, "get")) for route, handler in ROUTES + OWN_ROUTES]
    assert [route for route, found in declared if found is not None and found.open_to is OpenTo.ALL] == ["health"]
    assert len(list(closed_operations())) > 40


async def test_every_route_wants_a_token_its_own_name_and_no_foreign_page(api: httpx.AsyncClient, owner: Owner) -> None:
    page, anew = {"Sec-Fetch-Site": "same-origin"}, httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=owner.url, headers=page, trust_env=False, limits=anew) as http:
        assert (await http.get((await api.post("sessions")).json()["login"])).status_code == 200
        async with httpx.AsyncClient(base_url=owner.url, trust_env=False, limits=anew) as stranger:
            for method, path in closed_operations():
                address = f"zbrain/api/{path}"

                async def ask(
                    client: httpx.AsyncClient, method: str = method, address: str = address, **headers: str
                ) -> int:
                    content = None if method in ("GET", "HEAD", "DELETE") else b"{}"
                    return (await client.request(method, address, content=content, headers=headers)).status_code

                assert await ask(stranger) == 401, f"{method} {path}"
                assert await ask(stranger, Authorization="token wrong") == 401, f"{method} {path}"
                assert await ask(stranger, Cookie=f"zbrain-{stranger.base_url.port}=guessed") == 401, f"{method} {path}"
                for away in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
                    assert await ask(http, **away) == 401, f"{method} {path}"
                rebound = {"Authorization": f"token {owner.token}", "Host": "evil.example"}
                assert await ask(stranger, **rebound) == 403, f"{method} {path}"


async def test_what_a_job_made_is_never_a_page_of_this_host(api: httpx.AsyncClient) -> None:
    """Each answer to GET is JSON, plain text or a stream of bytes, and browsers may not guess."""
    job = await leased(api)
    digest = hashlib.sha256(PAGE).hexdigest()
    assert (await api.put(f"blobs/{digest}", content=PAGE)).status_code in (200, 201)
    kept = [{"name": name, "sha256": digest, "size": len(PAGE)} for name in ("x", "x.html", "x.svg", "x.xhtml", "x.js")]
    variable = {"name": "x", "type": "str", "summary": PAGE.decode(), "sha256": digest, "size": len(PAGE)}
    line = ["stdout", 1.5, PAGE.decode()]
    events = [
        event(job, "started", 1, worker_id="w1"),
        event(job, "logged", 2, lines=[line]),
        event(
            job,
            "completed",
            3,
            artifacts=kept,
            variables=[variable],
            result={"name": "result", "sha256": digest, "size": len(PAGE)},
        ),
    ]
    told = (await api.post("workers/w1/events", json={"events": events})).text
    assert '"status":"ok"' in told, told
    of_job = f"jobs/{job['id']}"
    files = [f"{of_job}/artifacts/{one['name']}" for one in kept]
    files += [f"{of_job}/result", f"{of_job}/variables/x"]
    shown = [of_job, "jobs", *(f"{of_job}/{part}" for part in ("logs", "outputs", "attempts", "artifacts")), "metrics"]
    for path in [*files, *shown]:
        answer = await api.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        kind = answer.headers["Content-Type"].partition(";")[0]
        if path in files:
            assert answer.content == PAGE
            assert kind == "application/octet-stream", path
            assert answer.headers["Content-Disposition"].startswith("attachment"), path
        else:
            assert kind in TEXTS, path


async def test_audit_cannot_be_written_or_changed_by_anybody(api: httpx.AsyncClient) -> None:
    await api.post("jobs", json={"cmd": ["true"]})
    before = (await api.get("audit")).json()
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await api.request(method, "audit")).status_code == 405
    after = (await api.get("audit")).json()
    assert [one["verb"] for one in before["records"]] == ["submit"]
    assert before["records"][-1] == after["records"][-1]
