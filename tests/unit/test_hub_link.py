"""What says where it belongs when it is started outside JupyterHub."""

from __future__ import annotations

from pathlib import Path

import pytest

from zbrain_nb.model.datadir import DataDir, HubUpstream, read_upstream, write_upstream
from zbrain_nb.model.errors import ServerUnreachable, ZBrainError
from zbrain_nb.model.sealing import SealingKey
from zbrain_nb.model.settings import Settings, read_settings
from zbrain_nb.server.hub.link import HubLink
from zbrain_nb.server.hub.service import HubService
from zbrain_nb.worker.link import follow_hub

URL = "http://127.0.0.1:1/services/zbrain/"
KEY = SealingKey().public


def test_relay_to_a_hub_wants_a_server_that_the_hub_started(tmp_path: Path) -> None:
    with pytest.raises(ZBrainError, match="ZBRAIN_HUB_URL is set, but JUPYTERHUB_API_TOKEN"):
        HubLink(DataDir(tmp_path), Settings(data=str(tmp_path), hub_url=URL))


def test_service_wants_to_be_started_by_the_hub() -> None:
    with pytest.raises(ZBrainError, match="is started by JupyterHub"):
        HubService(read_settings({}), {})


def test_worker_follows_the_service_that_the_last_server_named(tmp_path: Path) -> None:
    folder = tmp_path / "hub-worker"
    with pytest.raises(ServerUnreachable, match=r"hub\.json names no service"):
        follow_hub(folder)()
    for token in ("first", "second"):
        write_upstream(folder, HubUpstream(URL, token))
        endpoint = follow_hub(folder)()
        assert (endpoint.url, endpoint.token) == (URL, token)
    assert (folder / "hub.json").stat().st_mode & 0o777 == 0o600
    assert read_upstream(folder) == HubUpstream(URL, "second")


def test_named_servers_of_a_person_have_a_worker_each(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    folders = {data.hub_worker(name) for name in ("", "gpu", "../gpu")}
    assert len(folders) == 3
    assert all(folder.parent == data.root for folder in folders)


@pytest.mark.parametrize(
    ("url", "key", "warns"),
    [(URL, "", True), (URL, KEY, False), ("https://h/", "", False)],
    ids=["neither", "key", "https"],
)
def test_server_that_cannot_tell_the_service_from_a_squatter_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str, key: str, warns: bool
) -> None:
    person = {"hub_token": "t", "hub_user": "ann", "worker_mode": "none"}
    HubLink(DataDir(tmp_path), Settings(data=str(tmp_path), hub_url=url, hub_key=key, **person)).start()
    assert ("ZBRAIN_HUB_KEY is not set" in caplog.text) == warns
