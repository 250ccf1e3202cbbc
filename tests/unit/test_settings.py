"""Settings: read in one place, and refused with the variable's name."""

from __future__ import annotations

import pytest

from zbrain_nb.model.access import GroupRole, Role
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.settings import Lifetimes, read_settings


def test_settings_defaults_are_the_seeds() -> None:
    settings = read_settings({"ZDB_DATA": "/d"})
    assert (settings.lease_ttl_secs, settings.poll_interval_secs, settings.max_retries) == (300, 5, 3)
    assert (settings.default_timeout_secs, settings.worker_mode, settings.worker_concurrency) == (300, "local", 4)
    assert (settings.default_org_id, settings.wait, settings.warm_pool) == ("default", None, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ZBRAIN_LEASE_TTL", "soon"),
        ("ZBRAIN_LEASE_TTL", "0"),
        ("ZBRAIN_LEASE_TTL", "nan"),
        ("ZBRAIN_LEASE_TTL", "inf"),
        ("ZWORKER_CONCURRENCY", "0"),
        ("ZWORKER_CONCURRENCY", "2.5"),
        ("ZBRAIN_MAX_RETRIES", "-1"),
        ("ZBRAIN_WAIT", "maybe"),
        ("ZBRAIN_WARM_POOL", "maybe"),
        ("ZWORKER_MODE", "foo"),
        ("ZDEFAULT_ORG_ID", "a/b"),
        ("ZBRAIN_KEEP_JOBS_DAYS", "0"),
        ("ZBRAIN_KEEP_EVENTS_DAYS", "a month"),
        ("ZBRAIN_KEEP_LOGS_DAYS", "-1"),
        ("ZBRAIN_KEEP_BLOBS_HOURS", "0.5"),
        ("ZBRAIN_KEEP_KEYS_HOURS", "nan"),
        ("ZBRAIN_HUB_URL", "hub:8000"),
        ("ZBRAIN_HUB_CACHE_SECS", "0"),
        ("ZBRAIN_HUB_ROLES", "leads"),
        ("ZBRAIN_HUB_ROLES", "leads=king"),
    ],
)
def test_settings_bad_value_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(ZBrainError, match=f"{name}='{value}' does not hold: it takes"):
        read_settings({name: value})


def test_settings_empty_value_counts_as_absent() -> None:
    assert read_settings({"ZBRAIN_LEASE_TTL": "", "ZBRAIN_URL": ""}).lease_ttl_secs == 300


@pytest.mark.parametrize("mode", ["local", "none"])
def test_settings_worker_mode_takes_those_that_exist(mode: str) -> None:
    assert read_settings({"ZWORKER_MODE": mode}).worker_mode == mode


def test_settings_hub_address_ends_in_a_slash_and_roles_go_by_group() -> None:
    given = read_settings(
        {"ZBRAIN_HUB_URL": "http://hub/services/zbrain", "ZBRAIN_HUB_ROLES": "leads=operator, a=b=phys-1:admin"}
    )
    assert given.hub_url == "http://hub/services/zbrain/"
    assert given.hub_roles == {"leads": GroupRole(Role.OPERATOR), "a=b": GroupRole(Role.ADMIN, "phys-1")}


def test_settings_life_times_have_defaults_and_units() -> None:
    assert read_settings({}).keep == Lifetimes()
    given = read_settings(
        {
            "ZBRAIN_KEEP_JOBS_DAYS": "2",
            "ZBRAIN_KEEP_EVENTS_DAYS": "1.5",
            "ZBRAIN_KEEP_LOGS_DAYS": "1",
            "ZBRAIN_KEEP_BLOBS_HOURS": "3",
            "ZBRAIN_KEEP_KEYS_HOURS": "4",
        }
    ).keep
    assert (given.of("jobs"), given.of("transitions"), given.of("logs")) == (172_800, 129_600, 86_400)
    assert (given.blobs_secs, given.keys_secs) == (10_800, 14_400)


def test_limits_of_stored_bytes_are_given_in_mib() -> None:
    quotas = read_settings({"ZBRAIN_MAX_STORED_MB": "5", "ZBRAIN_MAX_STORED_MB_PER_OWNER": "2"}).quotas
    assert (quotas.org.stored_bytes, quotas.owner.stored_bytes) == (5 << 20, 2 << 20)
