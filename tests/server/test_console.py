"""The console's pages: who may see them, and what they may do, straight from the host and through the relay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.jupyter import Lab
from zbrain_nb.model.datadir import DataDir, Owner
from zbrain_nb.server.handlers import console

pytestmark = pytest.mark.anyio
NOBODY = "01936b1e-0000-7000-8000-000000000000"
PAGES = (
    "zbrain",
    "zbrain/",
    f"zbrain/jobs/{NOBODY}",
    "zbrain/jobs/no%20such",
    "zbrain/frame",
    "zbrain/static/console/console.js",
)


def policy(answer: httpx.Response) -> dict[str, str]:
    """Return the page's content security policy by directive."""
    parts = answer.headers["Content-Security-Policy"].split("; ")
    return dict(part.partition(" ")[::2] for part in parts)


@pytest.fixture
async def browser(owner: Owner) -> AsyncIterator[httpx.AsyncClient]:
    """What a browser sends that has no session yet."""
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(base_url=owner.url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
async def known(browser: httpx.AsyncClient, api: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser that came by a code."""
    made = await api.post("sessions")
    assert made.status_code == 201
    entered = await browser.get(made.json()["login"])
    assert entered.headers["Refresh"] == "0; url=/zbrain"
    return browser


# ---- the host itself


@pytest.mark.parametrize("path", PAGES)
async def test_page_is_for_browsers_with_a_session_only(browser: httpx.AsyncClient, path: str) -> None:
    refused = await browser.get(path)
    assert refused.status_code == 401
    assert ("zbrain dashboard" in refused.text) == (path in PAGES[:4])


async def test_session_opens_pages_and_api(known: httpx.AsyncClient) -> None:
    for path in PAGES:
        assert (await known.get(path)).status_code == 200, path
    assert (await known.get("zbrain/api/overview")).json()["org_id"] == "default"
    made = await known.post(
        "zbrain/api/jobs", json={"cmd": ["true"]}, headers={"Origin": str(known.base_url).rstrip("/")}
    )
    assert made.status_code == 201, made.text
    assert (await known.get(f"zbrain/api/jobs/{made.json()['id']}")).status_code == 200


async def test_session_cookie_is_kept_from_scripts_and_other_sites(
    browser: httpx.AsyncClient, api: httpx.AsyncClient, owner: Owner
) -> None:
    entered = await browser.get((await api.post("sessions")).json()["login"])
    cookie = entered.headers["Set-Cookie"]
    assert cookie.startswith(f"zbrain-{urlsplit(owner.url).port}=")
    for word in ("HttpOnly", "SameSite=Strict", "Path=/zbrain"):
        assert word in cookie
    assert owner.token not in cookie


async def test_code_opens_once(browser: httpx.AsyncClient, api: httpx.AsyncClient, owner: Owner) -> None:
    login = (await api.post("sessions")).json()["login"]
    assert (await browser.get(login)).status_code == 200
    async with httpx.AsyncClient(base_url=owner.url, trust_env=False) as thief:
        assert (await thief.get(login)).status_code == 401
        assert (await thief.get("zbrain/login")).status_code == 401
        assert (await thief.get("zbrain")).status_code == 401


async def test_session_makes_no_other(known: httpx.AsyncClient) -> None:
    assert (await known.post("zbrain/api/sessions")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
    ],
)
async def test_request_of_another_page_is_refused_whatever_cookie_it_carries(
    known: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await known.post("zbrain/api/jobs", json={"cmd": ["true"]}, headers=headers)).status_code == 401
    assert (await known.get("zbrain/api/jobs", headers=headers)).status_code == 401
    assert (await known.get("zbrain/api/jobs")).json()["jobs"] == []


async def test_post_that_tells_no_origin_is_refused(known: httpx.AsyncClient) -> None:
    del known.headers["Sec-Fetch-Site"]
    assert (await known.post("zbrain/api/jobs", json={"cmd": ["true"]})).status_code == 401


async def test_foreign_host_name_is_refused_with_a_session_too(known: httpx.AsyncClient) -> None:
    assert (await known.get("zbrain", headers={"Host": "evil.example"})).status_code == 403


async def test_socket_opens_for_pages_of_the_host_alone(known: httpx.AsyncClient, owner: Owner) -> None:
    url = f"{owner.url.replace('http', 'ws')}zbrain/api/events?topics=orgs/default"
    cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in known.cookies.items())}
    own = owner.url.rstrip("/")
    async with connect(url, additional_headers=cookie, origin=own):  # type: ignore[arg-type]
        pass
    for headers, origin in ((cookie, "http://127.0.0.1:1"), ({}, own)):
        with pytest.raises(InvalidStatus):
            await connect(url, additional_headers=headers, origin=origin)  # type: ignore[arg-type]


async def test_page_has_a_strict_policy_and_nothing_inline(known: httpx.AsyncClient) -> None:
    answer = await known.get("zbrain")
    rules = policy(answer)
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == rules["frame-src"] == "'self'"
    assert rules["frame-ancestors"] == "'self'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    for word in ("<style", "onload", "unsafe"):
        assert word not in answer.text
    assert answer.text.count("<script") == answer.text.count('<script type="module" src=')


async def test_frame_has_no_origin_and_no_network(known: httpx.AsyncClient) -> None:
    rules = policy(await known.get("zbrain/frame"))
    assert rules["sandbox"] == "allow-scripts"
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules  # so the default holds
    assert not any("'self'" in rule for name, rule in rules.items() if name != "frame-ancestors")
    assert not any("http" in rule or "*" in rule for rule in rules.values())


@pytest.mark.parametrize(
    "path", ["../bundle.py", "..%2fbundle.py", "%2e%2e/%2e%2e/server/host.py", "console", "", "/etc/passwd", "a%00.js"]
)
async def test_static_files_are_modules_and_styles_of_the_view_only(known: httpx.AsyncClient, path: str) -> None:
    assert (await known.get(f"zbrain/static/{path}")).status_code in (400, 403, 404)


async def test_static_files_of_other_kinds_and_links_out_are_not_served(
    known: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = tmp_path / "view"
    view.mkdir()
    for file in (view / "a.js", view / "notes.txt", view / "page.html", tmp_path / "outside.js"):
        file.write_text("x")
    (view / "link.js").symlink_to(tmp_path / "outside.js")
    monkeypatch.setattr(console, "VIEW", view)
    assert (await known.get("zbrain/static/a.js")).status_code == 200
    for name in ("notes.txt", "page.html", "link.js"):
        assert (await known.get(f"zbrain/static/{name}")).status_code == 404


async def test_modules_are_found_whole_from_the_page(known: httpx.AsyncClient) -> None:
    """Every module that the console loads is served, as JavaScript."""
    wanted, seen = ["console/console.js"], set[str]()
    while wanted:
        path = wanted.pop()
        answer = await known.get(f"zbrain/static/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["Content-Type"].startswith("text/javascript")
        seen.add(path)
        for line in answer.text.splitlines():
            if line.startswith("import ") and " from '" in line:
                found = httpx.URL(f"http://h/{path}").join(line.split("'")[1]).path.lstrip("/")
                if found not in seen:
                    wanted.append(found)
    assert "dashboard/table.js" in seen
    first = await known.get("zbrain/static/zbrain.css")
    assert first.headers["Content-Type"].startswith("text/css")
    again = await known.get("zbrain/static/zbrain.css", headers={"If-None-Match": first.headers["Etag"]})
    assert again.status_code == 304


async def test_overview_and_attempts_answer_what_tables_show(api: httpx.AsyncClient) -> None:
    spec = {"cmd": ["true"], "name": "a", "env": {"SECRET": "value"}, "tags": {"lr": "1"}}
    job = (await api.post("jobs", json=spec)).json()
    (row,) = (await api.get("jobs?brief=1")).json()["jobs"]
    assert (row["id"], row["name"], row["state"], row["spec"]["tags"]) == (job["id"], "a", "pending", {"lr": "1"})
    assert "env" not in row["spec"]
    overview = (await api.get("overview")).json()
    assert overview["states"]["pending"] == 1
    assert overview["storage"]["free_bytes"] > 0
    assert (await api.get("overview?org=lab")).json()["states"]["pending"] == 0
    found = (await api.get(f"jobs/{job['id']}/attempts")).json()
    assert found["attempts"] == []
    assert [each["id"] for each in found["chain"]] == [job["id"]]
    assert (await api.get(f"jobs/{NOBODY}/attempts")).status_code == 404


@pytest.mark.parametrize("org", ["%00", "%ff", "x" * 5000, "'; drop table jobs --", "\u202eorg"])
async def test_overview_of_an_odd_org_is_empty_or_malformed(api: httpx.AsyncClient, org: str) -> None:
    answer = await api.get(f"overview?org={org}")
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        assert sum(answer.json()["states"].values()) == 0


# ---- through Jupyter


async def test_relay_shows_pages_to_who_is_logged_in(jupyter: Lab) -> None:
    headers = {"Authorization": f"token {jupyter.token}"}
    async with httpx.AsyncClient(base_url=jupyter.url, headers=headers, trust_env=False, timeout=30) as person:
        for path in PAGES:
            answer = await person.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        page = await person.get("zbrain")
        assert policy(page)["script-src"] == "'self'"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert "_xsrf" in person.cookies
        assert policy(await person.get("zbrain/frame"))["sandbox"] == "allow-scripts"
        assert (await person.get("zbrain/api/overview")).status_code == 200


async def test_relay_sends_strangers_to_the_login(jupyter: Lab) -> None:
    kernel = {"Authorization": f"token {DataDir(jupyter.data).token()}"}
    for headers in ({}, kernel, {"Authorization": "token wrong"}):
        async with httpx.AsyncClient(base_url=jupyter.url, headers=headers, trust_env=False) as stranger:
            for path in PAGES:
                refused = await stranger.get(path)
                assert refused.status_code == 302, path
                assert "/base/login?next=" in refused.headers["Location"]


async def test_relay_opens_no_door_of_the_host_itself(jupyter: Lab) -> None:
    headers = {"Authorization": f"token {jupyter.token}"}
    async with httpx.AsyncClient(base_url=jupyter.url, headers=headers, trust_env=False) as person:
        assert (await person.post("zbrain/api/sessions")).status_code == 404
        assert (await person.get("zbrain/login?code=x")).status_code == 404
        assert (await person.get("zbrain/nowhere")).status_code == 404
        assert (await person.post("zbrain")).status_code in (403, 405)
