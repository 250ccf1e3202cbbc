"""A login before the routes that does not tell what absent people may do: the log and the doctor say so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from zbrain_nb.client.diagnosis import Level
from zbrain_nb.client.diagnosis.service import Service, check_service
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio


class Silent:
    prefix = "/"
    troubles = True

    def wrap(self, handler):
        return handler

    def routes(self):
        return []

    async def person(self, name):
        await self.check()

    async def check(self):
        if self.troubles:
            raise Unavailable("The Hub tells nothing.", "Give it the scope.")


async def test_login_that_does_not_tell_who_is_a_member_is_told_at_the_start_and_by_the_doctor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data, gate = DataDir(tmp_path / "data"), Silent()
    host = Host(data, Settings(data=str(data.root), worker_mode="none"), gate=gate)
    owner = await host.start()
    try:
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert (record.why, record.hint) == ("The Hub tells nothing.", "Give it the scope.")

        async def examine():
            given = Settings(data=str(data.root), url=owner.url, token=owner.token)
            # in a thread as a whole: it looks who serves `data`, which is this host, on this loop
            found = await asyncio.to_thread(lambda: list(check_service(Service.find(given), given, data)))
            return [(one.level, one.text, one.hint) for one in found if one.subject == "login"]

        assert await examine() == [(Level.PROBLEM, "The Hub tells nothing.", "Give it the scope.")]
        async with httpx.AsyncClient(trust_env=False) as stranger:
            assert "trouble" not in (await stranger.get(f"{owner.url}zbrain/api/health")).json()
        gate.troubles = False
        assert await examine() == []
    finally:
        await host.stop()
