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


async def test_repeat_asked_for_again_under_its_key_is_the_same_job(api: httpx.AsyncClient) -> None:
    headers = with_token((await make(api, owner="bob", roles={"lab": "submitter"}))["secret"])
    first, second = [(await api.post("jobs", json={"cmd": ["true"]}, headers=headers)).json()["id"] for _ in range(2)]
    await api.post("jobs/cancel", json={"ids": [first, second]}, headers=headers)
    keyed = headers | {"Idempotency-Key": "a key"}
    made, there = [await api.post(f"jobs/{first}/retry", headers=keyed) for _ in range(2)]
    one = made.json()["id"]
    assert there.json()["id"] == one
    assert (made.status_code, there.status_code) == (201, 200)
    assert "deduplicated" not in made.json()
    assert there.json()["deduplicated"]
    many = [(await api.post("jobs/retry", json={"ids": ids}, headers=keyed)).json() for ids in ([first, second],) * 2]
    ids = [[job["id"] for job in answer["jobs"]] for answer in many]
    assert ids[0] == ids[1]
    assert ids[0][0] == one
    marked = [[job.get("deduplicated", False) for job in answer["jobs"]] for answer in many]
    assert marked == [[True, False], [True, True]]
    assert [job["retry_of"] for job in many[0]["jobs"]] == [first, second]
    for more in (headers, headers | {"Idempotency-Key": "another"}):
        assert (await api.post(f"jobs/{first}/retry", headers=more)).json()["id"] not in ids[0]
