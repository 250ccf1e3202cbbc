"""The host's routes, asked as any HTTP client would."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from zbrain_nb.model.datadir import Owner
from zbrain_nb.server.handlers import jobs

pytestmark = pytest.mark.anyio
NOBODY = "01936b1e-0000-7000-8000-000000000000"


async def submit(api: httpx.AsyncClient, **spec: Any) -> dict[str, Any]:
    answer = await api.post("jobs", json={"cmd": ["true"], **spec})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def leased(api: httpx.AsyncClient, **spec: Any) -> dict[str, Any]:
    """Submit a job and lease it for worker w1."""
    await submit(api, **spec)
    await api.post("workers", json={"id": "w1", "slots": 2})
    answer = await api.post("workers/w1/leases", json={"request_id": spec.get("name", "r"), "wait_secs": 5})
    job: dict[str, Any] = answer.json()["leases"][0]["job"]
    return job


def event(job: dict[str, Any], kind: str, number: int, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "job_id": job["id"], "attempt": job["attempt"], "after": number - 1, "seq": number, **fields}


def assert_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert error["message"].endswith(".")
    return error


async def test_submit_answers_201_with_the_job(api: httpx.AsyncClient) -> None:
    body = await submit(api, name="train", env={"SECRET_NAME": "value"})
    assert (body["state"], body["attempt"], body["name"]) == ("pending", 0, "train")
    assert body["spec"]["env"] == {"SECRET_NAME": "***"}
    assert (await api.get(f"jobs/{body['id']}")).json()["id"] == body["id"]


async def test_submit_raw_command_fills_omitted_defaults_only(api: httpx.AsyncClient) -> None:
    assert (await submit(api))["spec"]["timeout_secs"] == 300
    given = (await submit(api, timeout_secs=None, max_retries=0))["spec"]
    assert (given["timeout_secs"], given["max_retries"]) == (None, 0)
    cell = (await api.post("jobs", json={"code": "1"})).json()["spec"]
    assert (cell["timeout_secs"], cell["max_retries"]) == (None, 0)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"cmd": ["a"], "code": "b"}, "code"),
        ({}, "cmd"),
        ({"cmd": "ls"}, "cmd"),
        ({"cmd": ["a"], "timeout_secs": -1}, "timeout_secs"),
        ({"cmd": ["a"], "name": "a\u0000b"}, "name"),
        ({"cmd": ["a"], "resources": {"cpus": -1}}, "resources.cpus"),
    ],
)
async def test_submit_bad_spec_is_422_naming_the_field(api: httpx.AsyncClient, spec: Any, field: str) -> None:
    error = assert_error(await api.post("jobs", json=spec), 422, "invalid_spec")
    assert error["field"] == field
    assert (await api.get("jobs")).json()["jobs"] == []


async def test_submit_unknown_field_is_422_naming_it(api: httpx.AsyncClient) -> None:
    error = assert_error(await api.post("jobs", json={"cmd": ["a"], "retrys": 3}), 422, "invalid_spec")
    assert "retrys" in error["message"]


async def test_submit_batch_with_one_bad_spec_takes_none_and_names_it(api: httpx.AsyncClient) -> None:
    error = assert_error(await api.post("jobs", json=[{"cmd": ["a"]}, {"cmd": []}]), 422, "invalid_spec")
    assert "Spec 1" in error["message"]
    assert (await api.get("jobs")).json()["jobs"] == []


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
async def test_submit_rubbish_is_400_or_422_never_500(api: httpx.AsyncClient, body: bytes) -> None:
    assert (await api.post("jobs", content=body)).status_code in (400, 422)


async def test_submit_same_key_twice_is_one_job(api: httpx.AsyncClient) -> None:
    first = await api.post("jobs", json={"cmd": ["a"]}, headers={"Idempotency-Key": "k"})
    second = await api.post("jobs", json={"cmd": ["a"]}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["deduplicated"] is True
    assert second.json()["id"] == first.json()["id"]
    other = await api.post("jobs", json={"cmd": ["b"]}, headers={"Idempotency-Key": "k"})
    assert_error(other, 409, "key_conflict")


async def test_submit_same_batch_twice_under_one_key_is_one_batch(api: httpx.AsyncClient) -> None:
    batch, key = [{"cmd": ["a", str(n)]} for n in range(5)], {"Idempotency-Key": "k"}
    first = await api.post("jobs", json=batch, headers=key)
    second = await api.post("jobs", json=batch, headers=key)
    assert (first.status_code, second.status_code) == (201, 200)
    assert [job["id"] for job in second.json()] == [job["id"] for job in first.json()]
    assert all(job["deduplicated"] for job in second.json())
    assert_error(await api.post("jobs", json=batch[:4], headers=key), 409, "key_conflict")
    assert len((await api.get("jobs")).json()["jobs"]) == 5


async def test_header_fills_a_key_that_is_null(api: httpx.AsyncClient) -> None:
    spec, key = {"cmd": ["a"], "idempotency_key": None}, {"Idempotency-Key": "k"}
    first = await api.post("jobs", json=spec, headers=key)
    assert (await api.post("jobs", json=spec, headers=key)).json()["id"] == first.json()["id"]


async def test_submit_absent_blob_is_409_listing_it(api: httpx.AsyncClient) -> None:
    digest = hashlib.sha256(b"data").hexdigest()
    answer = await api.post("jobs", json={"cmd": ["a"], "inputs": {"x": digest}})
    assert assert_error(answer, 409, "missing_blobs")["blobs"] == [digest]


async def test_list_pages_newest_first(api: httpx.AsyncClient) -> None:
    made = [(await submit(api, name=f"n{i}"))["id"] for i in range(5)]
    first = (await api.get("jobs", params={"limit": 3})).json()
    rest = (await api.get("jobs", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == made[::-1]
    assert rest["next_cursor"] is None
    assert [j["name"] for j in (await api.get("jobs", params={"name": "n2"})).json()["jobs"]] == ["n2"]
    for owner, count in ((first["jobs"][0]["owner"], 5), ("nobody", 0)):
        assert len((await api.get("jobs", params={"owner": owner})).json()["jobs"]) == count


async def test_unknown_job_is_404_everywhere(api: httpx.AsyncClient) -> None:
    for path in ("", "/logs", "/outputs", "/result", "/artifacts", "/artifacts/x", "/variables/x"):
        assert_error(await api.get(f"jobs/{NOBODY}{path}"), 404, "job_not_found")
    for act in ("cancel", "retry"):
        assert_error(await api.post(f"jobs/{NOBODY}/{act}"), 404, "job_not_found")


async def test_wrong_token_is_401(owner: Owner) -> None:
    async with httpx.AsyncClient(base_url=f"{owner.url}zbrain/api/", trust_env=False) as stranger:
        assert_error(await stranger.get("jobs"), 401, "unauthorized")
        assert_error(await stranger.get("jobs", headers={"Authorization": "token x"}), 401, "unauthorized")
        assert_error(await stranger.get("nothing"), 401, "unauthorized")


async def test_foreign_host_name_is_403(api: httpx.AsyncClient) -> None:
    assert_error(await api.get("jobs", headers={"Host": "evil.example"}), 403, "forbidden")


async def test_unknown_route_is_404(api: httpx.AsyncClient) -> None:
    assert_error(await api.get("nothing"), 404, "not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "state=odd"])
async def test_bad_query_is_400(api: httpx.AsyncClient, query: str) -> None:
    assert_error(await api.get(f"jobs?{query}"), 400, "malformed")


async def test_cancel_twice_gets_the_same_answer(api: httpx.AsyncClient) -> None:
    job = await submit(api)
    first = (await api.post(f"jobs/{job['id']}/cancel")).json()
    assert (first["result"], first["job"]["state"]) == ("canceled", "canceled")
    assert (await api.post(f"jobs/{job['id']}/cancel")).json()["result"] == "canceled"


async def test_cancel_ended_job_is_200_and_says_so(api: httpx.AsyncClient) -> None:
    job = await leased(api)
    await api.post("workers/w1/events", json={"events": [event(job, "completed", 1)]})
    answer = await api.post(f"jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["result"]) == (200, "already_finished")


async def test_retry_makes_a_new_job_and_refuses_an_active_one(api: httpx.AsyncClient) -> None:
    job = await submit(api)
    assert_error(await api.post(f"jobs/{job['id']}/retry"), 409, "wrong_state")
    await api.post(f"jobs/{job['id']}/cancel")
    again = await api.post(f"jobs/{job['id']}/retry")
    assert again.status_code == 201
    assert again.json()["retry_of"] == job["id"]


async def test_paused_queue_waits_and_says_so_until_it_is_resumed(api: httpx.AsyncClient) -> None:
    job = await submit(api, org_id="the lab")
    paused = (await api.post("queues/the%20lab/local/pause")).json()
    assert (paused["org_id"], paused["waiting"]) == ("the lab", 1)
    assert (await api.get("queues")).json() == {"queues": [paused]}
    assert (await api.get(f"jobs/{job['id']}")).json()["reason"] == paused["paused"]
    assert (await api.post("queues/the%20lab/local/resume")).json()["paused"] is None


async def test_impossible_queue_is_422(api: httpx.AsyncClient) -> None:
    assert_error(await api.post("queues/a%2Fb/local/pause"), 422, "invalid_spec")


async def test_limit_of_an_org_refuses_with_its_figures_and_a_time_to_come_again(api: httpx.AsyncClient) -> None:
    limited = await api.post("orgs/the%20lab/limits", json={"pending": 1})
    assert (limited.json()["limits"]["pending"], limited.json()["used"][0]["used"]) == (1, 0)
    job = await submit(api, org_id="the lab")
    refused = await api.post("jobs", json={"org_id": "the lab", "cmd": ["true"]})
    error = assert_error(refused, 429, "over_quota")
    assert (error["quota"], error["limit"], error["used"]) == ("org_pending", 1, 1)
    assert refused.headers["Retry-After"] == str(error["retry_after_secs"])
    (use,) = (await api.get("overview?org=the%20lab")).json()["quotas"]
    assert use == {"quota": "pending", "of": "org", "name": "the lab", "limit": 1, "used": 1}
    await api.post(f"jobs/{job['id']}/cancel")
    await submit(api, org_id="the lab")
    assert_error(await api.post("orgs/the%20lab/limits", json={"pending": 0}), 422, "invalid_spec")
    assert_error(await api.post("orgs/the%20lab/limits", json={"cores": 1}), 422, "invalid_spec")
    assert (await api.post("orgs/the%20lab/limits", json={})).json()["used"] == []


async def test_blob_is_kept_only_under_its_own_hash(api: httpx.AsyncClient) -> None:
    data = b"x" * 300_000
    digest = hashlib.sha256(data).hexdigest()
    assert (await api.head(f"blobs/{digest}")).status_code == 404
    assert_error(await api.put(f"blobs/{digest}", content=data + b"y"), 422, "blob_mismatch")
    assert (await api.head(f"blobs/{digest}")).status_code == 404
    assert (await api.put(f"blobs/{digest}", content=data)).status_code == 201
    head = await api.head(f"blobs/{digest}")
    assert (head.status_code, head.headers["Content-Length"]) == (200, "300000")


async def test_life_of_a_job_over_the_worker_routes(api: httpx.AsyncClient) -> None:
    job = await leased(api)
    assert (job["state"], job["attempt"]) == ("running", 1)
    content = b"0123456789"
    digest = hashlib.sha256(content).hexdigest()
    await api.put(f"blobs/{digest}", content=content)
    events = [
        event(job, "started", 1, worker_id="w1"),
        event(job, "logged", 2, lines=[["stdout", 1.5, "hi"], ["stderr", 1.6, "oh"]]),
        event(
            job, "displayed", 3, outputs=[{"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}}]
        ),
        event(job, "completed", 4, output={"a": 1}, artifacts=[{"name": "d/o.bin", "sha256": digest, "size": 10}]),
    ]
    answer = await api.post("workers/w1/events", json={"events": events})
    assert answer.json()["results"] == [
        {"job_id": job["id"], "attempt": 1, "status": "ok", "high": 4, "message": "", "wait_secs": 0.0},
    ]
    ended = (await api.get(f"jobs/{job['id']}")).json()
    assert (ended["state"], ended["output"], ended["exit_code"], ended["log_lines"]) == ("succeeded", {"a": 1}, 0, 2)
    page = (await api.get(f"jobs/{job['id']}/logs")).json()
    assert [(e["seq"], e["stream"], e["line"]) for e in page["entries"]] == [(0, "stdout", "hi"), (1, "stderr", "oh")]
    assert page["next_seq"] == 2
    assert (await api.get(f"jobs/{job['id']}/logs?from_seq=2")).json() == {"entries": [], "next_seq": 2}
    found = (await api.get(f"jobs/{job['id']}/logs", params={"q": "OH"})).json()
    assert ([entry["seq"] for entry in found["entries"]], found["next_seq"]) == ([1], 2)
    assert (await api.get(f"jobs/{job['id']}/logs?q=x")).json() == {"entries": [], "next_seq": 2}
    assert_error(await api.get(f"jobs/{job['id']}/logs?q={'x' * 1_001}"), 400, "malformed")
    assert (await api.get(f"jobs/{job['id']}/outputs")).json()["outputs"][0]["data"] == {"text/plain": "x"}
    part = await api.get(f"jobs/{job['id']}/artifacts/d/o.bin", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["Etag"]) == (206, b"234", f'"{digest}"')
    assert part.headers["Content-Disposition"] == 'attachment; filename="o.bin"'
    assert_error(await api.get(f"jobs/{job['id']}/artifacts/none"), 404, "not_found")


async def test_events_of_a_stale_attempt_are_409(api: httpx.AsyncClient) -> None:
    job = await leased(api, name="a")
    await api.post("workers/w1/events", json={"events": [event(job, "completed", 1)]})
    answer = await api.post("workers/w1/events", json={"events": [event(job, "logged", 2, lines=[["stdout", 1, "x"]])]})
    assert assert_error(answer, 409, "stale_attempt")["results"][0]["status"] == "stale"
    assert (await api.get(f"jobs/{job['id']}/logs")).json()["entries"] == []


async def test_unknown_worker_is_404_so_that_it_registers_again(api: httpx.AsyncClient) -> None:
    answer = await api.post("workers/nobody/leases", json={"request_id": "r"})
    assert_error(answer, 404, "worker_not_found")


async def test_events_socket_resumes_after_a_seq_without_gap_or_repeat(api: httpx.AsyncClient, owner: Owner) -> None:
    job = await leased(api)
    url = f"ws{owner.url.removeprefix('http')}zbrain/api/events?topics=jobs/{job['id']}"
    headers = {"Authorization": f"token {owner.token}"}
    await api.post("workers/w1/events", json={"events": [event(job, "started", 1, worker_id="w1")]})
    async with connect(f"{url}&after=0", additional_headers=headers, proxy=None) as socket:
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["kind"] != "job_started":
            seen += json.loads(await socket.recv())
    assert [e["kind"] for e in seen] == ["job_submitted", "job_leased", "job_started"]
    async with connect(f"{url}&after={seen[1]['seq']}", additional_headers=headers, proxy=None) as socket:
        line = event(job, "logged", 2, lines=[["stdout", 1, "x"]])
        await api.post("workers/w1/events", json={"events": [line]})
        rest: list[dict[str, Any]] = []
        while len(rest) < 2:
            rest += json.loads(await socket.recv())
    assert [e["kind"] for e in rest] == ["job_started", "job_logged"]
    assert rest[0]["seq"] == seen[2]["seq"]
    assert set(rest[1]) >= {"seq", "topic", "kind", "job_id", "attempt", "ts", "data"}


async def test_events_socket_refuses_browsers_and_odd_topics(api: httpx.AsyncClient, owner: Owner) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert (await api.get("events", headers=upgrade | {"Origin": "http://evil.example"})).status_code == 403
    assert_error(await api.get("events", headers=upgrade | {"Origin": "http://evil.example"}), 403, "forbidden")
    for topics in ("everything", "jobs/x", "jobs/", "orgs/"):
        assert_error(await api.get(f"events?topics={topics}", headers=upgrade), 400, "malformed")
    for name in upgrade:
        fewer = {key: value for key, value in upgrade.items() if key != name}
        assert_error(await api.get("events", headers=fewer), 400, "malformed")


async def test_values_of_env_are_shown_to_no_reader(api: httpx.AsyncClient, owner: Owner) -> None:
    url = f"ws{owner.url.removeprefix('http')}zbrain/api/events"
    headers = {"Authorization": f"token {owner.token}"}
    env = {"SECRET_NAME": "hunter2"}
    ready = asyncio.Event()

    async def follow(query: str) -> str:
        said = ""
        async with connect(f"{url}?{query}", additional_headers=headers, proxy=None) as socket:
            ready.set()
            while "job_canceled" not in said:
                said += str(await socket.recv())
        return said

    live = asyncio.create_task(follow("topics=orgs/default"))
    await ready.wait()
    answers = [await api.post("jobs", json={"cmd": ["true"], "env": env})]
    job_id = answers[0].json()["id"]
    answers += [await api.get(f"jobs/{job_id}"), await api.get("jobs"), await api.post(f"jobs/{job_id}/cancel")]
    answers.append(await api.post(f"jobs/{job_id}/retry"))
    texts = [answer.text for answer in answers]
    texts.append(await asyncio.wait_for(live, 10))
    texts += [await asyncio.wait_for(follow(f"topics={t}&after=0"), 10) for t in (f"jobs/{job_id}", "orgs/default")]
    for text in texts:
        assert "SECRET_NAME" in text
        assert "hunter2" not in text


async def test_method_that_a_route_does_not_take_is_405(api: httpx.AsyncClient) -> None:
    assert_error(await api.delete("jobs"), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["jobs", "workers", "workers/w1/events", "nothing"])
async def test_body_over_the_limit_is_413_before_it_is_read(owner: Owner, path: str) -> None:
    async def ask(token: str) -> tuple[bytes, dict[str, Any]]:
        address = httpx.URL(owner.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /zbrain/api/{path} HTTP/1.1\r\nHost: {address.host}\r\nAuthorization: token {token}\r\n"
        writer.write(f"{head}Content-Length: {300 << 20}\r\n\r\n[".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        top, _, body = answer.partition(b"\r\n\r\n")
        return top.splitlines()[0], json.loads(body)

    status, body = await ask(owner.token)
    refusal = (b"404", "not_found") if path == "nothing" else (b"413", "too_large")
    assert (status.split()[1], body["error"]["code"]) == refusal
    status, body = await ask("x")
    assert (status.split()[1], body["error"]["code"]) == (b"401", "unauthorized")


async def test_submit_spec_over_its_limit_is_413_even_among_small_ones(api: httpx.AsyncClient) -> None:
    large = {"cmd": ["true"], "input": "x" * (10 << 20)}
    assert_error(await api.post("jobs", json=large), 413, "too_large")
    error = assert_error(await api.post("jobs", json=[{"cmd": ["true"]}, large, {"cmd": ["true"]}]), 413, "too_large")
    assert error["index"] == 1
    assert (await api.get("jobs")).json()["jobs"] == []
    half = {"cmd": ["true"], "input": "x" * (6 << 20)}
    assert (await api.post("jobs", json=[half, half])).status_code == 201


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "a/b c"),
        ("id", ".."),
        ("id", "x" * 201),
        ("id", "é"),
        ("pid", 2**63),
        ("pid", -1),
        ("slots", 2**63),
        ("org_id", "a,b"),
        ("kind", ""),
    ],
)
async def test_registration_of_a_worker_that_cannot_be_is_422(api: httpx.AsyncClient, field: str, value: Any) -> None:
    error = assert_error(await api.post("workers", json={"id": "w1", field: value}), 422, "invalid_spec")
    assert error["field"] == field
    assert (await api.get("workers")).json() == {"workers": []}


async def test_events_that_do_not_hold_are_answered_each(api: httpx.AsyncClient) -> None:
    job = await leased(api)
    for fields in (
        {"artifacts": [5]},
        {"artifacts": [{"name": "x", "sha256": "odd", "size": 1}]},
        {"exit_code": 1180591620717411303424},
        {"seq": 2**63},
        {"seq": -5},
    ):
        answer = await api.post("workers/w1/events", json={"events": [event(job, "completed", 1) | fields]})
        assert answer.status_code == 200, answer.text
        (result,) = answer.json()["results"]
        assert (result["status"], result["high"]) == ("invalid", 0)
        assert result["message"].endswith(".")
    assert (await api.get(f"jobs/{job['id']}")).json()["state"] == "running"


@pytest.mark.parametrize("verb", ["lookup", "cancel", "retry"])
async def test_jobs_that_are_too_large_together_are_413_and_nothing_is_done(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("zbrain_nb.server.handlers.jobs.MAX_MANY_BYTES", 100 * 1024)
    ids = [(await submit(api, cmd=["true"], input="x" * 60_000))["id"] for _ in range(2)]
    answer = await api.post(f"jobs/{verb}", json={"ids": ids})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    for job_id in ids:
        assert (await api.get(f"jobs/{job_id}")).json()["state"] == "pending"
        assert (await api.post(f"jobs/{verb}", json={"ids": [job_id]})).status_code == 200


async def test_lookup_answers_in_the_order_asked_and_passes_over_what_is_unknown(api: httpx.AsyncClient) -> None:
    jobs = [await submit(api, name=name) for name in "abc"]
    ids = [jobs[2]["id"], NOBODY, jobs[0]["id"].upper(), "no id"]
    answer = (await api.post("jobs/lookup", json={"ids": ids})).json()
    assert [job["name"] for job in answer["jobs"]] == ["c", "a"]
    assert answer["event_seq"] == jobs[2]["event_seq"]


async def test_lookup_of_too_many_is_too_large(api: httpx.AsyncClient) -> None:
    assert_error(await api.post("jobs/lookup", json={"ids": [NOBODY] * 10_001}), 413, "too_large")


async def test_cancel_many_ends_those_that_wait_and_retry_many_submits_them_again(api: httpx.AsyncClient) -> None:
    ids = [(await submit(api, name=f"n{n}"))["id"] for n in range(3)]
    answer = (await api.post("jobs/cancel", json={"ids": ids[:2]})).json()
    assert [job["state"] for job in answer["jobs"]] == ["canceled"] * 2
    again = (await api.post("jobs/retry", json={"ids": ids})).json()["jobs"]
    assert [(job["retry_of"], job["state"]) for job in again] == [(ids[0], "pending"), (ids[1], "pending")]


async def test_cancel_if_waiting_leaves_a_running_job_alone(api: httpx.AsyncClient) -> None:
    job = await leased(api)
    assert_error(await api.post(f"jobs/{job['id']}/cancel?if_waiting=1"), 409, "wrong_state")
    assert (await api.get(f"jobs/{job['id']}")).json()["cancel_requested_at"] is None
    waiting = await submit(api)
    assert (await api.post(f"jobs/{waiting['id']}/cancel?if_waiting=1")).json()["result"] == "canceled"


async def test_list_by_tag_finds_the_very_tag_only(api: httpx.AsyncClient) -> None:
    await submit(api, name="right", tags={'run "1"': "a=b"})
    await submit(api, name="other", tags={'run "1"': "a=bc"})
    await submit(api, name="elsewhere", input={'run "1"': "a=b"})
    answer = await api.get("jobs", params={"tag": 'run "1"=a=b'})
    assert [job["name"] for job in answer.json()["jobs"]] == ["right"]
    assert_error(await api.get("jobs", params={"tag": "alone"}), 400, "malformed")


async def test_small_result_is_served_as_a_blob_would_be(api: httpx.AsyncClient) -> None:
    job = await leased(api)
    data = b"a pickled value"
    digest = hashlib.sha256(data).hexdigest()
    kept = {"name": "result", "sha256": digest, "size": len(data), "data": base64.b64encode(data).decode()}
    events = [event(job, "started", 1), event(job, "completed", 2, result=kept)]
    assert (await api.post("workers/w1/events", json={"events": events})).status_code == 200
    answer = await api.get(f"jobs/{job['id']}/result")
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "attachment" in answer.headers["content-disposition"]
    assert "sandbox" in answer.headers["content-security-policy"]
    again = await api.get(f"jobs/{job['id']}/result", headers={"If-None-Match": f'"{digest}"'})
    assert (again.status_code, again.content) == (304, b"")
    head = await api.head(f"jobs/{job['id']}/result")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))


async def test_list_ends_at_its_size_and_goes_on_behind_it(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_PAGE_BYTES", 5_000)
    large = [{"cmd": ["true"], "input": "x" * 2_000}] * 5
    ids = [job["id"] for job in (await api.post("jobs", json=large)).json()]
    await api.post("jobs/cancel", json={"ids": ids})  # which the memory alone knows now
    for more in ("", "&brief=1", "&state=canceled"):
        found: list[str] = []
        cursor = ""
        while cursor is not None:
            page = (await api.get(f"jobs?limit=100{more}&cursor={cursor}")).json()
            assert 1 <= len(page["jobs"]) <= 3
            found += [job["id"] for job in page["jobs"]]
            cursor = page["next_cursor"]
        assert found == ids[::-1]
