"""`zbrain token` and `zbrain audit` as a shell sees them."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from typer.testing import CliRunner

from tests.unit.cli.conftest import zbrain
from zbrain_nb.cli.admitting import _moment
from zbrain_nb.cli.app import app
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.tokens import is_secret


def test_token_is_made_used_listed_and_revoked(data: DataDir) -> None:
    made = zbrain(data, "token", "create", "--owner", "bob", "--org", "lab=viewer", "--label", "ci", "--days", "2")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.removesuffix("\n")
    assert is_secret(secret) and secret not in made.stderr
    assert " of bob (lab=viewer) until " in made.stderr
    url = data.read_owner().url
    assert zbrain(data, "ls", "--json", ZBRAIN_URL=url, ZBRAIN_TOKEN=secret).stdout == "[]\n"
    (one,) = json.loads(zbrain(data, "token", "list", "--json").stdout)
    assert (one["owner"], one["roles"], one["state"], one["label"]) == ("bob", {"lab": "viewer"}, "live", "ci")
    assert "secret" not in one
    table = zbrain(data, "token", "list").stdout
    assert all(word in table for word in (one["id"], "live", "person", "bob", "lab=viewer", "ci"))
    refused = zbrain(data, "token", "create", ZBRAIN_URL=url, ZBRAIN_TOKEN=secret)
    assert (refused.returncode, refused.stdout) == (1, "") and "bob is viewer in the org lab" in refused.stderr
    ended = zbrain(data, "token", "revoke", one["id"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", f"zbrain: {one['id']}: revoked\n")
    assert zbrain(data, "token", "revoke", "zbp_0123456789abcdef").returncode == 3
    acts = json.loads(zbrain(data, "audit", "--org", "lab", "--json").stdout)
    assert [(act["verb"], act.get("outcome", "allowed")) for act in acts] == [
        ("revoke token", "allowed"), ("create token", "refused"), ("create token", "allowed"),
    ]  # fmt: skip
    assert {act["who"] for act in acts[1:2]} == {"bob"}
    table = zbrain(data, "audit", "--who", "bob", "--since", "1h").stdout
    assert "refused" in table and "create token" in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("token create --all-orgs", "names its orgs"),
        ("token create --all-orgs --org a", "names no orgs beside it"),
        ("token create --org lab=boss", "'boss' is none of viewer"),
        ("token create --org lab=admin", "is no admin's"),
        ("token create --pool gpu", "Only a worker's token has pool"),
        ("token create --days 9999", "--days"),
        ("audit --since yesterday", "neither like 2d"),
    ],
)
def test_what_no_token_and_no_time_can_be_is_refused_before_a_server_is_asked(words: str, said: str) -> None:
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code != 0
    text = str(done.exception) if isinstance(done.exception, ZBrainError) else done.output
    assert said in " ".join(text.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2d", dt.timedelta(days=2)),
        ("90 min ago", dt.timedelta(minutes=90)),
        ("2026-01-31T08:00+02:00", dt.datetime(2026, 1, 31, 6, tzinfo=dt.UTC)),
        ("2026-01-31", dt.datetime(2026, 1, 31).astimezone()),
    ],
)
def test_moment_is_so_long_ago_or_a_time_of_this_machine(text: str, when: dt.timedelta | dt.datetime) -> None:
    found = _moment(text)
    if isinstance(when, dt.timedelta):
        assert abs(dt.datetime.now(dt.UTC) - found - when) < dt.timedelta(minutes=1)
    else:
        assert found == when
