"""The name under which the jobs of a data directory's holder are kept: it stays with the directory."""

from __future__ import annotations

import datetime as dt
import logging
import os
import pwd

import httpx
import pytest

from tests.unit.queue.stage import TRUE
from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.account import account_name
from zbrain_nb.model.audit import Record
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.settings import Settings
from zbrain_nb.model.tokens import TokenRequest
from zbrain_nb.server.holder import holder_name
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
OURS = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
async def of_before(storage, tmp_path):
    """The queue of a directory of before holders' names were kept, by when LOGNAME was alice."""
    async with JobQueue(storage, tmp_path / "artifacts", owner="alice") as queue:
        yield queue


async def test_host_goes_on_with_its_own_jobs_when_it_is_started_under_another_name(tmp_path, monkeypatch):
    """By sudo -E, cron or a service file: the account is the same."""
    data, held = DataDir(tmp_path / "data"), []
    for name in ("alice", "bob"):
        for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.setenv(variable, name)
        host = Host(data, Settings(data=str(data.root), worker_mode="none"))
        owner = await host.start()
        try:
            async with httpx.AsyncClient(
                base_url=f"{owner.url}zbrain/api/", headers={"Authorization": f"token {owner.token}"}, trust_env=False
            ) as api:
                if name == "alice":
                    held = [(await api.post("jobs", json={"cmd": ["true"]})).json()["id"] for _ in range(2)]
                answer = (await api.post("workers", json={"id": "w"})).json()
                assert [one["job_id"] for one in answer["attempts"]] == ([] if name == "alice" else held[:1])
                body = {"request_id": name, "wait_secs": 5}
                (lease,) = (await api.post("workers/w/leases", json=body)).json()["leases"]
                assert (lease["job"]["id"], lease["job"]["owner"]) == (held[name == "bob"], OURS)
        finally:
            await host.stop()


async def test_name_is_kept_with_the_directory_wherever_it_is_served_from_later(storage, tmp_path, monkeypatch):
    assert await holder_name(storage, has_logins=False) == OURS
    monkeypatch.setattr("zbrain_nb.server.holder.account_name", lambda: "else")
    await storage.close()
    again = Storage(tmp_path / "data")
    assert [await holder_name(again, has_logins=logins) for logins in (False, True)] == [OURS, OURS]
    await again.close()


async def test_directory_of_before_names_were_kept_goes_on_with_the_last_of_its_jobs_that_is_its_accounts(
    storage, of_before, tokens, holder, caplog, monkeypatch
):
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setenv("USER", "bob")
    record = Record(ts=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), who="alice", verb="create token", object_kind="token")
    await tokens.mint(TokenRequest(owner="bob"), holder, record)
    for owner in (OURS, "alice", "eve"):
        await of_before.submit(TRUE, owner=owner)
    carl = Principal(owner="carl", roles={"default": Role.SUBMITTER}, home="default", token_id="p1")
    await of_before.submit(JobSpec(cmd=["true"], tags={"a": "b"}), scope=carl)
    await of_before.submit(TRUE, owner="bob")  # of before jobs were given their token's tag
    with caplog.at_level(logging.WARNING):
        assert await holder_name(storage, has_logins=False) == "alice"
    (said,) = [one for one in caplog.records if one.name == "zbrain_nb.server.holder"]
    assert (said.holder, said.others) == ("alice", ["eve", OURS])
    await of_before.submit(TRUE, owner=OURS)
    assert await holder_name(storage, has_logins=False) == "alice"


@pytest.mark.parametrize("org_id", ["default", "lab"])
async def test_job_whose_owner_is_not_the_account_names_nobody(storage, of_before, org_id):
    """It may be of who logged in by another system, when that is not there just now."""
    await of_before.submit(JobSpec(cmd=["true"], org_id=org_id), owner="mallory")
    assert await holder_name(storage, has_logins=False) == OURS


@pytest.mark.parametrize(("has_logins", "org_id"), [(True, "default"), (False, "~bob")])
async def test_where_people_log_in_or_did_the_last_job_names_nobody_but_that_is_said(
    storage, of_before, has_logins, org_id, monkeypatch, caplog
):
    monkeypatch.setenv("LOGNAME", "alice")
    await of_before.submit(TRUE)
    await of_before.submit(JobSpec(cmd=["true"], org_id=org_id), owner="bob")
    with caplog.at_level(logging.WARNING):
        assert await holder_name(storage, has_logins=has_logins) == OURS
    (said,) = [one for one in caplog.records if one.name == "zbrain_nb.server.holder"]
    assert (said.holder, said.others) == (OURS, ["alice"] if has_logins else ["bob", "alice"])


def test_account_without_a_name_has_its_number(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1_234_567)
    assert account_name() == "1234567"
