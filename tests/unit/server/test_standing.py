"""What owners of jobs may do by now: who logs in elsewhere is looked up there, a token's jobs stand with it."""

from __future__ import annotations

import pytest

from zbrain_nb import Job, JobSpec
from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.job import TOKEN_TAG, submitted_with
from zbrain_nb.server.standing import Standing

pytestmark = pytest.mark.anyio
HOLDER = Principal(owner="root", roles=None, home="default")
PEOPLE = {
    "ann": Principal(owner="ann", roles={"~ann": Role.OPERATOR, "red": Role.ADMIN, "blue": Role.VIEWER}, home="~ann")
}


async def person(name):
    return PEOPLE.get(name)


def job_of(owner, org_id, token_id=""):
    return Job(submitted_with(JobSpec(cmd=["true"]), token_id), owner=owner, org_id=org_id)


@pytest.mark.parametrize(
    ("owner", "org_id", "role"),
    [
        ("ann", "~ann", Role.SUBMITTER),
        ("ann", "red", Role.SUBMITTER),  # a job is worth no more, whatever its owner is
        ("ann", "blue", Role.VIEWER),
        ("ann", "green", None),
        ("gone", "red", None),
        ("root", "default", Role.SUBMITTER),
    ],
)
async def test_owner_who_logs_in_elsewhere_may_what_that_says_by_now(owner, org_id, role):
    standing, job = Standing(HOLDER, person), job_of(owner, org_id)
    assert await standing.role_of(job) is role
    assert await standing.may_run(job) is (role is Role.SUBMITTER)


async def test_what_a_kept_token_submitted_stands_as_long_as_the_token():
    assert await Standing(HOLDER, person).role_of(job_of("gone", "red", "zbp_1")) is Role.SUBMITTER
    assert await Standing(HOLDER, None).role_of(job_of("gone", "red")) is Role.SUBMITTER


async def test_empty_name_of_a_token_is_none():
    """Earlier versions kept the tag if who submitted by a login had sent it so."""
    job = Job(JobSpec(cmd=["true"], tags={TOKEN_TAG: ""}), owner="gone", org_id="red")
    assert await Standing(HOLDER, person).role_of(job) is None


async def test_nobody_is_believed_a_member_while_that_cannot_be_told():
    async def silent(name):
        raise Unavailable("No answer.")

    with pytest.raises(Unavailable):
        await Standing(HOLDER, silent).may_run(job_of("ann", "red"))
