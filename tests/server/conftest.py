"""A host in this process, without a worker, and an HTTP client that knows its token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from zbrain_nb.model.datadir import DataDir, Owner
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.host import Host


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    data = DataDir(tmp_path / "data")
    host = Host(data, Settings(data=str(data.root), worker_mode="none"))
    await host.start()
    yield host
    await host.stop()


@pytest.fixture
def owner(host: Host) -> Owner:
    owner = host.data.read_owner()
    assert owner is not None
    return owner


@pytest.fixture
async def api(owner: Owner) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"{owner.url}zbrain/api/", headers={"Authorization": f"token {owner.token}"}, trust_env=False
    ) as client:
        yield client
