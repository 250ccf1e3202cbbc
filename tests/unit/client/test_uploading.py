"""Inputs travel by their content: each once, and by file where client and server share a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zbrain_nb import Client
from zbrain_nb.client.locating import Endpoint

LARGE = 200_000  # of float64: 1.6 MB


def uploads(requests: list[str]) -> list[str]:
    return [request for request in requests if request.startswith("PUT")]


def store_of(client: Client) -> Path:
    endpoint = client.call(client.asynchronous.transport.endpoint)
    assert endpoint.artifacts
    return Path(endpoint.artifacts)


def test_same_array_in_two_calls_travels_once_and_by_file(client: Client, requests: list[str]) -> None:
    array = np.random.default_rng(2).random(LARGE)
    first = client.submit(lambda x: float(x.sum()), array)
    sent = uploads(requests)
    assert len(sent) == 2 and sum("?file=upload-" in request for request in sent) == 1
    requests.clear()
    second = client.submit(lambda x, y: float(x.sum()) + y, array, 1)
    assert len(uploads(requests)) == 1  # the call itself
    assert first.result(60) == array.sum()
    assert second.result(60) == array.sum() + 1
    assert not list((store_of(client) / "incoming").iterdir())


def test_map_of_the_same_array_brings_it_once(client: Client, requests: list[str]) -> None:
    array = np.random.default_rng(3).random(LARGE)
    group = client.map(lambda x, n: float(x[n]), [array] * 3, range(3))
    assert sum("?file=" in request for request in requests) == 1
    assert group.results(timeout=60) == [array[n] for n in range(3)]


def test_executor_sends_what_an_array_held_at_the_submit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.ones(LARGE)
    with client.executor() as executor:
        pump, held = executor._dispatch.pump, []
        monkeypatch.setattr(executor._client, "start", held.append)
        future = executor.submit(lambda x: float(x.sum()), array)
        array[:] = 0.0
        monkeypatch.undo()
        client.start(pump)
        assert future.result(60) == LARGE


def test_input_is_read_where_the_server_keeps_it(client: Client) -> None:
    def where(array: Any) -> list[str]:
        return [line for line in Path("/proc/self/maps").read_text().splitlines() if "artifacts" in line]

    array = np.random.default_rng(4).random(LARGE)
    mapped = client.submit(where, array).result(60)
    assert any(str(store_of(client)) in line for line in mapped)


def test_job_that_writes_into_its_input_changes_nothing_stored(client: Client) -> None:
    def change(array: Any) -> float:
        array[:] = 0.0
        return float(array.sum())

    array = np.random.default_rng(5).random(LARGE)
    assert client.submit(change, array).result(60) == 0.0
    assert client.submit(lambda x: float(x.sum()), array).result(60) == array.sum()


@pytest.mark.parametrize("folder", ["", "/proc/nowhere", "another"])
def test_without_a_common_folder_the_bytes_travel_in_the_request(
    client: Client, requests: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    transport = client.asynchronous.transport
    found = client.call(transport.endpoint)
    here = str(tmp_path / folder) if folder == "another" else folder
    elsewhere = Endpoint(found.url, found.token, found.found, here)
    monkeypatch.setattr(transport, "_endpoint", elsewhere)
    array = np.random.default_rng(len(folder) + 6).random(LARGE)
    job = client.submit(lambda x: float(x.sum()), array)
    assert len([request for request in uploads(requests) if "?file=" not in request]) == 2
    assert job.result(60) == array.sum()
    monkeypatch.setattr(transport, "_endpoint", found)
