"""The relay asks Jupyter's authorizer, in its terms: read, write and execute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.jupyter import Lab
from zbrain_nb.model.datadir import DataDir


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("authorizer")
    config = {"ServerApp": {"authorizer_class": "tests.server.configured.ReadOnly"}}
    (folder / "jupyter_server_config.json").write_text(json.dumps(config))
    root = str(Path(__file__).parents[2])
    where = {"JUPYTER_CONFIG_PATH": str(folder), "PYTHONPATH": root, "ZWORKER_MODE": "none"}
    with Lab(folder / "root", folder / "data", app="server", **where) as lab:
        yield lab


def test_relay_does_for_a_login_what_jupyters_authorizer_allows(jupyter: Lab) -> None:
    login = {"Authorization": f"token {jupyter.token}"}
    with httpx.Client(base_url=f"{jupyter.url}zbrain/api/", trust_env=False, timeout=30) as http:
        assert http.get("jobs", headers=login).status_code == 200
        for method, path, action in (
            ("POST", "jobs", "execute"),
            ("POST", "jobs/retry", "execute"),
            ("POST", "tokens", "execute"),  # one made here would submit past the authorizer
            ("POST", "workers", "execute"),  # a lease carries a token of its job
            ("POST", "workers/w/leases", "execute"),
            ("POST", "workers/w/heartbeat", "execute"),
            ("POST", "workers/w/events", "execute"),
            ("POST", "queues/lab/local/resume", "execute"),
            ("POST", "queues/lab/local/pause", "write"),
            ("POST", "jobs/cancel", "write"),
            ("DELETE", f"tokens/zbp_{'0' * 16}", "write"),
            ("PUT", f"blobs/{'0' * 64}", "write"),
        ):
            refused = http.request(method, path, headers=login, json={"cmd": ["true"]})
            assert refused.status_code == 403
            assert f"is not authorized to {action} zbrain" in refused.json()["error"]["message"]
        # a kernel is no login: it already is the server owner's code
        kernel = {"Authorization": f"token {DataDir(jupyter.data).token()}"}
        assert http.post("jobs", headers=kernel, json={"cmd": ["true"]}).status_code == 201
