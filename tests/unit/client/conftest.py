"""A client of a host with a worker, shared by the tests of this folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zbrain_nb
from tests.conftest import end_everything
from zbrain_nb import Client


def until(condition: Callable[[], object]) -> None:
    """Poll for something that has no event to wait for."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("client") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZDB_DATA", str(root))
        patch.setenv("ZBRAIN_PRELOAD", "")
        client = zbrain_nb.connect()
    yield client
    client.close()
    end_everything(root)


@pytest.fixture
def requests(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that the client sends from now on, as ``"GET jobs"``."""
    sent: list[str] = []
    request = client.asynchronous.transport.request

    async def note(method: str, path: str, **options: object) -> object:
        sent.append(f"{method} {path}")
        return await request(method, path, **options)

    monkeypatch.setattr(client.asynchronous.transport, "request", note)
    return sent


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that jobs may wait for."""
    return tmp_path / "gate"
