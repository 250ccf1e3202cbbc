"""Values of jobs are loaded if the jobs are one's own, by what the server says of who one is; else if one says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import zbrain_nb
from zbrain_nb import Client, Job, JobHandle, JobSpec, JobState, UntrustedResult

PACKAGE = Path(zbrain_nb.__file__).parent
CELL = "model = {'a': 1}\nmodel"


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    """Let the host's worker run the jobs of bob too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZWORKER_RUNS_OTHERS", "1")
        yield


@pytest.fixture(scope="module")
def bob(client: Client) -> Iterator[Client]:
    """A client of somebody else in the same org."""
    wanted = {"owner": "bob", "roles": {"default": "submitter"}}
    made = client.call(client.asynchronous.transport.post, "tokens", wanted, dict)
    endpoint = client.call(client.asynchronous.transport.endpoint)
    bob = zbrain_nb.connect(endpoint.url, token=made["secret"])
    yield bob
    bob.close()


@pytest.fixture(scope="module")
def jobs(client: Client, bob: Client) -> dict[str, JobHandle]:
    """A cell's job of each, ended."""
    return {who: of.submit(code=CELL, keep=["model"]).wait() for who, of in (("me", client), ("bob", bob))}


def test_value_of_own_job_is_loaded(jobs: dict[str, JobHandle]) -> None:
    for handle in jobs.values():
        assert handle.result() == {"a": 1}
        assert handle.vars["model"] == {"a": 1}


@pytest.mark.parametrize("theirs", ["me", "bob"])
def test_value_of_anothers_job_is_loaded_only_if_trusted(
    client: Client, bob: Client, jobs: dict[str, JobHandle], theirs: str
) -> None:
    of, other = jobs[theirs], bob if theirs == "me" else client
    handle = other.job(of.id)
    with pytest.raises(UntrustedResult) as caught:
        handle.result()
    assert repr(of.job.owner) in caught.value.message
    assert f"run by the worker {of.job.worker_id}" in caught.value.message
    assert "result(trust=True)" in caught.value.hint
    with pytest.raises(UntrustedResult, match="The variable 'model'"):
        handle.vars["model"]
    assert handle.result(trust=True) == {"a": 1}
    assert handle.vars.load("model", trust=True) == {"a": 1}


def test_group_with_anothers_job_gives_results_only_if_trusted(client: Client, jobs: dict[str, JobHandle]) -> None:
    group = zbrain_nb.JobGroup(client, [jobs["me"], client.job(jobs["bob"].id)])
    with pytest.raises(UntrustedResult):
        group.results()
    assert group.results(trust=True) == [{"a": 1}, {"a": 1}]
    assert list(group.df()["result"]) == [{"a": 1}, None]


def test_output_of_anothers_command_is_no_pickle_and_needs_no_trust(client: Client, bob: Client) -> None:
    handle = client.submit(["true"]).wait()
    assert bob.job(handle.id).result() is None


def test_who_one_is_says_the_server_and_not_the_account(bob: Client) -> None:
    assert bob.call(bob.asynchronous.whoami).owner == "bob"


def test_what_a_pool_made_is_loaded_only_if_it_is_trusted(
    client: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who operates the pool may have forged it, though the job is one's own."""
    made = Job(JobSpec(code="1", worker="crew:big"), owner="bob", state=JobState.SUCCEEDED)
    with pytest.raises(UntrustedResult, match="the pool 'crew' made") as caught:
        bob.check_trusted([made], "The value", "`.result(trust=True)`.")
    assert "ZBRAIN_TRUST_POOLS=crew" in caught.value.hint
    with pytest.raises(UntrustedResult, match="the pool 'crew' made"):
        bob.executor(worker="crew")
    monkeypatch.setenv("ZBRAIN_TRUST_POOLS", "big, crew")
    bob.check_trusted([made], "The value", "")
    bob.executor(worker="crew").shutdown()
    monkeypatch.delenv("ZBRAIN_TRUST_POOLS")
    me = client.call(client.asynchronous.whoami).owner
    client.check_trusted([msgspec.structs.replace(made, owner=me)], "The value", "")  # it decides who is an admin


@pytest.mark.parametrize("room", ["server", "queue", "store"])
def test_room_knows_nothing_that_unpickles(room: str) -> None:
    """Nor does anything of the package that it imports."""
    loaders = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
    waiting, seen = sorted((PACKAGE / room).rglob("*.py")), set[Path]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                assert name.split(".")[0] not in loaders, f"{path} imports {name}"
                module = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
                if name.startswith("zbrain_nb.") and module.is_file() and module not in seen:
                    waiting.append(module)
