"""Requests made up from ``openapi.json`` by schemathesis, valid and not, sent to a real host as each principal.

No answer may be a failure of the host, or have a status, a type, a header or a shape that the document does not name.
Made up at random, nearly all would be refused at the first look; so about half of the cases name jobs, blobs and
workers that there are, and about half of the bodies are valid ones with one field made up. Whoever is not of the org
sees nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from zbrain_nb.model.access import Credential, Principal, Role, WorkerBinding
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.application import OWN_ROUTES, PARTS, ROUTES
from zbrain_nb.server.host import Host
from zbrain_nb.server.openapi import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(document(ROUTES + OWN_ROUTES, PARTS))
SCHEMA.config.generation.with_security_parameters = False  # the principals have their own
OPERATIONS = {
    found.ok().label: found.ok()
    for found in SCHEMA.get_all_operations()
    if found.ok().path != "/events"  # a WebSocket
}
SHORT, LONG = 12, 20_000
#: Operations of which new cases can be made without end; of one that takes nothing there are few.
MANY = 30
#: So many cases at most of what copies all that there is.
MOST_BACKUPS = 20
#: Stands in all that the org has.
MARK = "for-members-only"
TEXT = MARK.encode() * 1000
#: Bodies that are taken, by operation.
VALID: dict[str, dict[str, Any]] = {
    "POST /jobs": {"cmd": ["true"]},
    "POST /workers": {"id": "w"},
    "POST /workers/{worker_id}/leases": {"request_id": "r"},
}


@dataclass
class Served:
    """A host that runs, with something of everything in it.

    Attributes
    ----------
    principals : dict of str to dict of str to str
        The headers that each sends; more kinds of callers come here.
    known : dict of str to list of str
        By the name of a part of addresses: values that lead somewhere.
    """

    url: str
    folder: Path
    principals: dict[str, dict[str, str]]
    known: dict[str, list[str]] = field(default_factory=dict)
    http: requests.Session = field(default_factory=requests.Session)
    sent: int = 0

    def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self.http.request(method, f"{self.url}/{path}", headers=self.principals["directory"], **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()


ORG = "default"
#: Who comes with a token; a role in the org is its name. To these come who holds the directory's token, its session in
#: a browser, and who has nothing.
TOKENS = {
    **{role.value: Principal(owner=role.value, roles={ORG: role}, home=ORG) for role in Role},
    "outsider": Principal(owner="outsider", roles={"elsewhere": Role.ADMIN}, home="elsewhere"),
    "worker": Principal(
        owner="admin",
        roles={},
        home=ORG,
        credential=Credential.WORKER,
        worker=WorkerBinding(orgs=frozenset({ORG})),
    ),
    "job": Principal(owner="submitter", roles={ORG: Role.SUBMITTER}, home=ORG, credential=Credential.JOB),
}
PRINCIPALS = ("directory", "session", *TOKENS, "stranger")
OUTSIDE = ("outsider", "stranger")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    data = DataDir(folder / "data")
    host = Host(data, Settings(data=str(data.root), worker_mode="none"))
    with start_blocking_portal() as portal:
        owner = portal.call(host.start)
        served = Served(f"{owner.url}zbrain/api", folder, _principals(portal, host, owner.url))
        served.http.trust_env = False
        _fill(served)
        yield served
        served.http.close()
        portal.call(host.stop)


def _principals(portal: BlockingPortal, host: Host, url: str) -> dict[str, dict[str, str]]:
    """Return the headers of each kind of caller."""
    assert host.context is not None
    identity, sessions, port = host.context.identity, host.context.sessions, url.rstrip("/").rpartition(":")[2]

    async def find(secret: str) -> Principal | None:
        return TOKENS.get(secret)

    identity.finders.append(find)
    session = portal.call(lambda: sessions.begin(sessions.offer(identity.holder)))
    return {
        **{name: {"Authorization": f"bearer {name}"} for name in TOKENS},
        "directory": {"Authorization": f"token {host.context.token}"},
        "session": {"Cookie": f"zbrain-{port}={session}", "Origin": url.rstrip("/"), "Sec-Fetch-Site": "same-origin"},
        "stranger": {},
    }


def _fill(served: Served) -> None:
    """Submit jobs and run one of each way to end, with outputs, a result, a variable and an artifact."""
    digest = hashlib.sha256(TEXT).hexdigest()
    served.ask("PUT", f"blobs/{digest}", data=TEXT)
    served.ask("POST", "workers", json={"id": "w", "slots": 4})
    spec = {"code": f"'{MARK}'", "name": MARK, "env": {MARK: MARK}, "tags": {"t": MARK}, "inputs": {"x": digest}}
    specs = [spec for _ in range(4)]
    ids = [job["id"] for job in served.ask("POST", "jobs", json=specs)]
    leased = served.ask("POST", "workers/w/leases", json={"request_id": "r", "limit": 3, "wait_secs": 5})["leases"]
    kept = {"name": "x", "sha256": digest, "size": len(TEXT)}
    head = [{"job_id": lease["job"]["id"], "attempt": 1, "after": 0, "seq": 1} for lease in leased]
    error = {"ename": "ValueError", "evalue": MARK, "traceback": [MARK]}
    events = [
        head[0]
        | {"type": "completed", "output": MARK, "artifacts": [kept], "result": kept}
        | {"variables": [kept | {"type": "int", "summary": "1"}]},
        head[1] | {"type": "failed", "error": error},
        head[2] | {"type": "logged", "lines": [["stdout", 1.0, MARK]]},
    ]
    results = served.ask("POST", "workers/w/events", json={"events": events})["results"]
    assert [result["status"] for result in results] == ["ok"] * 3, results
    tokens = [served.ask("POST", "tokens", json={})["id"] for _ in range(4)]
    served.known |= {
        "token_id": tokens,
        "job_id": ids,
        "name": ["x"] * 4,
        "worker_id": ["w"] * 4,
        "sha256": [digest] * 4,
    }


def _aim(case: Case, picks: list[int], known: dict[str, list[str]]) -> None:
    """Let a case reach what there is, as `picks` say."""
    for pick, name in zip(picks, case.path_parameters or {}, strict=False):
        if pick >= 0 and name in known:
            case.path_parameters[name] = known[name][pick]
    if isinstance(case.body, dict) and case.operation.label in VALID and picks[-1] >= 0:
        made_up = list(case.body.items())[picks[-1] : picks[-1] + 1]
        case.body = VALID[case.operation.label] | dict(made_up)
    if case.operation.label == "PUT /blobs/{sha256}":
        case.body = repr(case.body).encode()
        if picks[-1] >= 0:
            case.path_parameters["sha256"] = hashlib.sha256(case.body).hexdigest()


def _tame(case: Case, folder: Path) -> None:
    """Keep a case from waiting, and from writing anywhere but in `folder`."""
    if not isinstance(case.body, dict):
        return
    if case.operation.path.endswith("/leases"):
        wait_secs = case.body.get("wait_secs", 0)
        case.body["wait_secs"] = min(wait_secs, 0) if isinstance(wait_secs, int | float) else wait_secs
    if case.operation.path == "/backup" and isinstance(case.body.get("to"), str):
        case.body["to"] = str(folder / hashlib.sha256(case.body["to"].encode(errors="replace")).hexdigest())


def _cases(label: str) -> st.SearchStrategy[tuple[Case, list[int]]]:
    made = [OPERATIONS[label].as_strategy(generation_mode=mode) for mode in GenerationMode]
    return st.tuples(st.one_of(made), st.lists(st.integers(-3, 3), min_size=3, max_size=3))


def check(served: Served, label: str, principals: Sequence[str], count: int) -> None:
    """Send `count` cases of an operation, each as one of the principals, and look at their answers."""
    if label == "POST /backup":
        count = min(count, MOST_BACKUPS)

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=count == SHORT,
        suppress_health_check=list(HealthCheck),
    )
    @given(_cases(label), st.sampled_from(principals))
    def run(drawn: tuple[Case, list[int]], principal: str) -> None:
        case, picks = drawn
        _aim(case, picks, served.known)
        _tame(case, served.folder)
        served.sent += 1
        answer = case.call(base_url=served.url, session=served.http, headers=served.principals[principal])
        case.validate_response(answer, checks=CHECKS)
        assert principal != "stranger" or answer.status_code == 401 or case.operation.path == "/health"
        assert principal not in OUTSIDE or MARK.encode() not in answer.content

    run()


@pytest.mark.parametrize("label", OPERATIONS)
def test_answers_to_generated_requests_are_those_of_the_document(served: Served, label: str) -> None:
    check(served, label, PRINCIPALS, SHORT)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("principal", PRINCIPALS)
def test_answers_to_many_generated_requests_are_those_of_the_document(served: Served, principal: str) -> None:
    """Together they are `LONG`."""
    share, before = -(-LONG // len(PRINCIPALS)), served.sent
    for label in OPERATIONS:
        check(served, label, [principal], -(-share // MANY))
    assert served.sent - before >= share
