"""A host without a worker, in this process, with an HTTP client that knows its token, or behind a Jupyter server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.jupyter import Lab
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


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("jupyter")
    config = {"ServerApp": {"identity_provider_class": "tests.server.configured.Ann"}}
    (folder / "jupyter_server_config.json").write_text(json.dumps(config))
    where = {"JUPYTER_CONFIG_PATH": str(folder), "PYTHONPATH": str(Path(__file__).parents[2]), "ZWORKER_MODE": "none"}
    with Lab(folder / "root", folder / "relayed data", app="server", **where) as lab:
        yield lab
