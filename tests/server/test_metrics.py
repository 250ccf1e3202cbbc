"""``GET metrics`` as Prometheus reads it."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from zbrain_nb.model.events import JobCompleted
from zbrain_nb.model.protocol import LeaseRequest, WorkerInfo

pytestmark = pytest.mark.anyio


async def scrape(api, parse=text_string_to_metric_families, **headers):
    answer = await api.get("metrics", headers=headers)
    assert answer.status_code == 200
    families = {family.name: family for family in parse(answer.text)}
    samples = {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples}
    return answer, families, samples


async def test_metrics_show_what_the_queue_did(host, api):
    queue = host.context.queue
    jobs = [(await api.post("jobs", json={"cmd": ["true"], "name": "secret-name"})).json() for _ in range(3)]
    await queue.register_worker(WorkerInfo(id="secret-worker", slots=4))
    leased = (await queue.lease("secret-worker", LeaseRequest(request_id="r", limit=2, wait_secs=5))).leases
    await queue.handle_worker_event(JobCompleted(leased[0].job.id))
    answer, families, samples = await scrape(api)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    state = {"pending": ("reason", "worker"), "running": ("reason", "")}
    for name, count in (("pending", 1), ("running", 1)):
        assert samples["zbrain_jobs", state[name], ("state", name)] == count
    assert samples["zbrain_jobs_ended_total", ("state", "succeeded")] == 1
    assert samples["zbrain_job_wait_seconds_count",] == 2
    assert samples["zbrain_job_wait_seconds_bucket", ("le", "+Inf")] == 2
    assert samples["zbrain_attempt_run_seconds_count",] == 1
    assert samples["zbrain_commit_commands_sum",] >= 5
    assert samples["zbrain_store_database_bytes",] > 0
    assert samples["zbrain_store_wal_bytes",] > 0
    assert (samples["zbrain_workers",], samples["zbrain_worker_slots",]) == (1, 4)
    assert samples["process_resident_memory_bytes",] > 0
    assert families["zbrain_job_wait_seconds"].type == "histogram"
    for secret in ("secret", jobs[0]["id"], jobs[0]["owner"], jobs[0]["org_id"]):
        assert secret not in answer.text
    assert {name for family in families.values() for s in family.samples for name in s.labels} == {
        "state",
        "reason",
        "le",
    }


async def test_metrics_speak_openmetrics_to_who_asks(api):
    answer, families, _ = await scrape(api, parse_openmetrics, Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "zbrain_jobs" in families


async def test_metrics_ask_for_the_token_and_keep_no_idle_host_alive(host, api):
    assert (await api.get("metrics", headers={"Authorization": ""})).status_code == 401
    before = host.context.requests
    await scrape(api)
    assert host.context.requests == before


async def test_each_host_has_numbers_of_its_own(host, api):
    await api.post("jobs", json={"cmd": ["true"]})
    _, _, first = await scrape(api)
    _, _, again = await scrape(api)
    assert first["zbrain_commit_commands_count",] == again["zbrain_commit_commands_count",] == 1
