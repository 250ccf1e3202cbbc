"""Whose code runs when a job of somebody else is tried again over HTTP."""

from __future__ import annotations

import httpx
import pytest

from tests.server.tokens import make, with_token

pytestmark = pytest.mark.anyio


async def test_job_of_another_runs_as_nobody_who_did_not_ask_for_it(api: httpx.AsyncClient) -> None:
    roles = {"lab": "submitter"}
    bob, eve = [with_token((await make(api, owner=name, roles=roles))["secret"]) for name in ("bob", "eve")]
    theirs = (await api.post("jobs", json={"cmd": ["true"]}, headers=eve)).json()["id"]
    own = (await api.post("jobs", json={"cmd": ["true"]}, headers=bob)).json()["id"]
    for job_id, headers in ((theirs, eve), (own, bob)):
        await api.post(f"jobs/{job_id}/cancel", headers=headers)
    refused = await api.post(f"jobs/{theirs}/retry", headers=bob)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert refused.json()["error"]["message"] == "This is the code of eve; it would run as bob."
    many = (await api.post("jobs/retry", json={"ids": [theirs, own]}, headers=bob)).json()
    assert ([job["retry_of"] for job in many["jobs"]], many["others"]) == ([own], [theirs])
    meant = await api.post(f"jobs/{theirs}/retry?others=1", headers=bob)
    assert meant.status_code == 201
    assert (meant.json()["owner"], meant.json()["retry_of"]) == ("bob", theirs)
