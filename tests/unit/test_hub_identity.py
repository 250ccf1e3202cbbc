"""What a Hub user may do where: the Hub's word made a principal."""

from __future__ import annotations

from typing import Any

import pytest

from zbrain_nb.model.access import GroupRole, Role, Verb
from zbrain_nb.model.errors import Forbidden
from zbrain_nb.server.hub.identity import principal_of


def user(*groups: str, name: str = "alice", kind: str = "user") -> dict[str, Any]:
    return {"kind": kind, "name": name, "groups": list(groups)}


def test_hub_user_operates_the_own_org_and_submits_in_the_groups() -> None:
    alice = principal_of(user("physics", "chemistry"), {})
    assert (alice.owner, alice.home) == ("alice", "~alice")
    assert alice.roles == {"~alice": Role.OPERATOR, "physics": Role.SUBMITTER, "chemistry": Role.SUBMITTER}
    assert not alice.is_holder


@pytest.mark.parametrize("group", ["~bob", "a,b", "a/b", "", "a\nb"])
def test_hub_group_that_would_pass_for_another_org_is_none(group: str) -> None:
    assert principal_of(user(group), {}).orgs == {"~alice"}


def test_hub_group_with_a_role_gives_it_in_all_orgs_and_is_none_itself() -> None:
    given = {"leads": Role.OPERATOR, "auditors": Role.VIEWER, "admins": Role.ADMIN}
    roles = {group: GroupRole(role) for group, role in given.items()}
    assert principal_of(user("physics", "leads"), roles).roles == {"~alice": Role.OPERATOR, "physics": Role.OPERATOR}
    assert principal_of(user("physics", "admins", "leads"), roles).role_in("physics") is Role.ADMIN
    # who is to look on alone does so, but in the own org; of several roles the highest counts
    auditor = principal_of(user("physics", "auditors"), roles)
    assert auditor.roles == {"~alice": Role.OPERATOR, "physics": Role.VIEWER}
    assert not auditor.may(Verb.SUBMIT, "physics")
    assert principal_of(user("physics", "auditors", "leads"), roles).role_in("physics") is Role.OPERATOR
    # no role reaches into orgs of others
    admin = principal_of(user("admins"), roles)
    assert admin.orgs == {"~alice"}
    assert not admin.is_holder


def test_hub_group_whose_role_names_an_org_gives_it_there_alone() -> None:
    roles = {"physics leads": GroupRole(Role.ADMIN, "physics"), "auditors": GroupRole(Role.VIEWER)}
    lead = principal_of(user("physics", "chemistry", "physics leads"), roles)
    assert lead.roles == {"~alice": Role.OPERATOR, "physics": Role.ADMIN, "chemistry": Role.SUBMITTER}
    both = principal_of(user("physics", "chemistry", "physics leads", "auditors"), roles)
    assert (both.role_in("physics"), both.role_in("chemistry")) == (Role.ADMIN, Role.VIEWER)
    assert principal_of(user("chemistry", "physics leads"), roles).orgs == {"~alice", "chemistry"}


@pytest.mark.parametrize("model", [user(kind="service"), user(name="a,b"), user(name="a/b")])
def test_hub_service_and_name_that_is_no_org_are_refused(model: dict[str, Any]) -> None:
    with pytest.raises(Forbidden):
        principal_of(model, {})


def test_worker_of_a_hub_user_takes_own_jobs_in_own_orgs_only() -> None:
    binding = principal_of(user("physics"), {"leads": GroupRole(Role.ADMIN)}).binding
    assert binding.admits("physics", "alice", "local")
    assert binding.admits("~alice", "alice", "local")
    assert not binding.admits("physics", "bob", "local")
    assert not binding.admits("chemistry", "alice", "local")
