"""``@function``: the same call here and as a job."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import zbrain_nb
from zbrain_nb import Client
from zbrain_nb.client.function import Function


@pytest.fixture(autouse=True)
def connected(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Function, "_client", client)
    yield


def test_function_runs_here_when_called_and_as_a_job_when_submitted() -> None:
    @zbrain_nb.function(priority=3, max_retries=1)
    def add(a: int, name: int = 0) -> int:
        """Add."""
        return a + name

    assert add(1, 2) == 3
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    job = add.submit(1, name=41)  # `name` is a field of a spec too: here it is the function's
    assert job.result(60) == 42
    assert (job.name, job.job.spec.priority, job.job.spec.max_retries) == ("add", 3, 1)


def test_map_submits_a_job_for_each_item_and_recursion_stays_in_the_job() -> None:
    @zbrain_nb.function
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial.map([1, 3, 5], max_parallel=2).results(timeout=60) == [1, 6, 120]
