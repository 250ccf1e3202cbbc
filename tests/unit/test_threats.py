"""What the README says of threats, and what is promised of who may do what: each has tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
README = TESTS.parent / "README.md"
TITLE = "## Threats, and what holds against them\n"
NAMED = re.compile(r"([\w/]+)::(test_\w+)")

#: Sentence by sentence, who may do what, and the tests that try to do otherwise.
PROMISES = {
    "A job belongs to who submits it, and to an org; a person's own org is home": [
        "unit/queue/test_scopes::test_submit_without_an_org_goes_home_and_belongs_to_who_submits",
        "unit/queue/test_scopes::test_submit_into_an_org_that_is_not_open_is_refused_and_names_the_place",
        "unit/test_hub_identity::test_hub_user_operates_the_own_org_and_submits_in_the_groups",
    ],
    "A Hub group is an org of that name": [
        "unit/test_hub_identity::test_hub_group_that_would_pass_for_another_org_is_none",
        "hub/test_hub::test_an_org_sees_its_jobs_and_for_others_nothing_is_there",
    ],
    "Members see an org's jobs; the owner or an operator cancels": [
        "unit/queue/test_scopes::test_lists_hold_the_orgs_of_who_asks",
        "unit/queue/test_scopes::test_owner_or_operator_cancels_and_others_of_the_org_do_not",
        "unit/queue/test_scopes::test_owner_who_was_made_a_viewer_cancels_no_more",
    ],
    "Viewer, submitter, operator and admin may what the table says": [
        "unit/queue/test_scopes::test_role_allows_what_the_table_says",
        "unit/queue/test_scopes::test_operators_of_an_org_pause_its_queues_and_others_do_not",
        "unit/server/test_tokens::test_who_is_no_admin_makes_no_token",
        "unit/queue/test_quotas::test_admins_lower_limits_and_the_holder_raises_them",
        "hub/test_hub::test_members_and_operators_do_what_their_roles_allow",
    ],
    "Membership is checked again at lease and on open sockets": [
        "unit/queue/test_scopes::test_person_leases_own_jobs_in_own_orgs_alone",
        "unit/queue/test_scopes::test_member_who_is_removed_gets_nothing_more_on_an_open_socket",
        "unit/queue/test_scopes::test_owner_who_left_the_org_loses_the_running_job",
        "unit/queue/test_pools::test_pool_gets_no_job_of_who_may_not_submit_in_its_org_any_more",
    ],
    "Another org's id answers like an unknown one, in process too": [
        "server/test_isolation::test_stranger_cannot_tell_what_another_org_has_from_what_nobody_has",
        "server/test_isolation::test_stranger_finds_nothing_of_another_org_where_nothing_is_named",
        "unit/queue/test_scopes::test_parent_of_another_org_is_refused_like_one_that_does_not_exist",
        "unit/queue/test_scopes::test_store_itself_reads_events_of_the_orgs_that_are_seen",
    ],
    "The Hub's service runs no jobs; a user's own worker leases that owner's alone": [
        "hub/test_hub::test_jobs_run_beside_the_server_of_their_owner_and_nobody_elses",
        "unit/test_hub_identity::test_worker_of_a_hub_user_takes_own_jobs_in_own_orgs_only",
        "unit/queue/test_scopes::test_persons_worker_that_waits_is_woken_by_own_jobs_alone",
        "unit/queue/test_scopes::test_worker_gets_no_jobs_of_an_org_where_its_person_may_only_look",
    ],
    "Pools get jobs of their kind and orgs, and nobody speaks for another's worker": [
        "unit/queue/test_pools::test_worker_whose_token_says_that_it_isolates_gets_jobs_of_its_kind_and_orgs_of_everybody",
        "unit/queue/test_scopes::test_worker_of_another_principal_cannot_be_used",
    ],
    "Pools run each person's jobs apart, or refuse": [
        "unit/queue/test_pools::test_worker_of_who_holds_the_data_directory_gets_their_own_jobs_alone",
        "unit/queue/test_pools::test_worker_that_does_not_isolate_gets_jobs_of_its_tokens_owner_alone",
        "unit/queue/test_pools::test_worker_goes_on_with_a_job_of_another_once_it_runs_no_others_and_gets_no_more_of_them",
        "server/test_pools::test_pool_in_one_account_runs_jobs_of_its_owner_and_refuses_those_of_others",
    ],
    "Blobs are granted by org and owner; knowing a hash gives nothing": [
        "unit/queue/test_grants::test_blob_of_another_is_asked_for_like_an_absent_one",
        "unit/queue/test_grants::test_blob_granted_in_one_org_is_to_be_sent_again_for_another",
        "server/test_blob_access::test_bytes_that_another_sent_have_to_be_sent_whole",
        "server/test_blob_access::test_part_that_arrived_of_anothers_upload_is_not_told",
    ],
    "Inputs go to the leased attempt alone": [
        "server/test_blob_access::test_input_goes_to_who_runs_the_attempt_while_it_runs",
        "server/test_blob_access::test_input_goes_to_the_pool_that_runs_the_job_and_to_no_other_worker",
    ],
    "Server, relay and console never unpickle": ["unit/client/test_trust::test_room_knows_nothing_that_unpickles"],
    "Values are loaded of own jobs, or if trusted": [
        "unit/client/test_trust::test_what_a_pool_made_is_loaded_only_if_it_is_trusted",
        "unit/client/test_trust::test_value_of_anothers_job_is_loaded_only_if_trusted",
        "unit/client/test_trust::test_group_with_anothers_job_gives_results_only_if_trusted",
    ],
    "Cache and idempotency are per owner": [
        "unit/queue/test_cached::test_only_what_succeeded_is_found_and_the_newest_of_that",
        "unit/queue/test_scopes::test_idempotency_keys_are_per_owner",
    ],
    "Outputs of others, and all on the console, are shown in a frame without origin": [
        "browser/test_others::test_others_outputs_are_shown_in_a_frame_of_no_origin_and_own_ones_natively",
        "browser/test_others::test_outputs_that_the_notebook_took_for_own_are_caged_once_the_server_says_otherwise",
        "server/test_console::test_frame_has_no_origin_and_no_network",
    ],
    "No path of an artifact escapes": [
        "unit/worker/test_files::test_artifacts_that_escape_are_refused_and_said",
        "unit/worker/test_files::test_link_in_place_of_the_folder_of_artifacts_leads_nowhere",
        "unit/worker/test_files::test_open_beneath_reads_nothing_outside_whenever_a_link_takes_a_parts_place",
    ],
    "Artifacts are attachments, logs are text": [
        "server/test_web_rules::test_what_a_job_made_is_never_a_page_of_this_host",
        "browser/test_hostile::test_hostile_words_are_words_in_every_state",
    ],
    "The console has a strict policy": ["server/test_console::test_page_has_a_strict_policy_and_nothing_inline"],
    "The command line strips escapes": [
        "unit/cli/test_looking::test_words_that_others_choose_cannot_steer_the_terminal"
    ],
    "Tokens are stored hashed, scoped, expiring and revocable": [
        "unit/server/test_tokens::test_token_is_found_by_its_secret_and_by_nothing_else",
        "server/test_tokens::test_each_kind_of_token_opens_its_own_routes",
        "server/test_tokens::test_token_that_expires_ends_the_socket_that_is_open_with_it",
        "server/test_tokens::test_revoked_token_ends_its_sockets_its_leases_and_its_browsers_at_once",
    ],
    "Only admins of an org make tokens of workers": [
        "unit/server/test_tokens::test_nobody_makes_a_token_with_more_rights_than_their_own",
        "unit/server/test_tokens::test_who_is_no_admin_makes_no_token",
    ],
    "A job gets a token of its own for its attempt": [
        "unit/server/test_job_tokens::test_token_speaks_for_the_owner_in_the_jobs_org_while_its_attempt_runs",
        "unit/client/test_within_jobs::test_token_opens_nothing_else_and_nothing_after_the_end",
    ],
    "Jobs inherit neither kernel nor Hub nor cloud credentials": [
        "unit/worker/test_environment_leak::test_no_job_sees_credentials_of_its_worker",
        "unit/worker/test_environment_leak::test_host_and_worker_carry_none",
    ],
    "Secrets travel sealed, reach the lease alone, and are gone at the end": [
        "unit/client/test_secrets::test_secret_reaches_the_job_and_is_masked_and_gone",
        "unit/client/test_secrets::test_retry_keeps_the_secret_and_a_persons_retry_has_none",
    ],
    "Secrets are masked in logs, values of env in every read": [
        "unit/worker/test_masking::test_all_that_is_told_of_an_attempt_is_masked",
        "server/test_routes::test_values_of_env_are_shown_to_no_reader",
    ],
    "Tokens stand in no URL and no log": [
        "server/test_tokens::test_secret_in_an_address_is_refused_even_beside_a_valid_header",
        "server/test_tokens::test_no_secret_is_in_the_log_whatever_is_done_with_it",
        "server/test_relay_attacks::test_relay_refuses_tokens_in_addresses_and_logs_none",
    ],
    "Each route wants a token, its own name, and no foreign page": [
        "server/test_web_rules::test_every_route_wants_a_token_its_own_name_and_no_foreign_page",
        "server/test_web_rules::test_nothing_is_open_to_everybody_but_what_holds_nothing",
        "server/test_relay_attacks::test_relay_takes_no_act_on_a_cookie_alone",
        "server/test_relay_attacks::test_relay_opens_sockets_for_its_own_pages_alone",
    ],
    "The relay has one upstream and a list of routes, strips cookies, follows no redirect": [
        "server/test_relay_attacks::test_relay_reaches_no_route_that_it_does_not_list",
        "server/test_relay_upstream::test_relay_follows_no_redirect_and_passes_on_no_cookie_either_way",
    ],
    "The owner file may lie, and the host proves itself before it is told a token": [
        "unit/model/test_datadir::test_files_that_another_account_made_are_not_believed",
        "unit/model/test_datadir::test_owner_of_another_boot_is_nobody",
        "server/test_taken_port::test_token_is_not_told_by_a_worker_that_found_the_host_before",
    ],
    "Webhooks go to public addresses that were checked, and nowhere else": [
        "server/test_webhooks::test_name_of_a_private_address_is_refused_and_never_tried_again",
        "server/test_webhooks::test_rebinding_name_is_resolved_once_and_reached_where_it_was_checked",
        "server/test_webhooks::test_redirect_is_not_followed",
    ],
    "The audit says who, by which token, did what to what, and how it went; nobody changes it": [
        "server/test_audit::test_acts_are_told_with_who_token_object_org_and_outcome",
        "server/test_web_rules::test_audit_cannot_be_written_or_changed_by_anybody",
    ],
}


def rows() -> list[list[str]]:
    """Return the cells of the README's table, without its head."""
    section = README.read_text().partition(TITLE)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@cache
def names_in(file: str) -> set[str]:
    """Return the names of a file's tests."""
    tree = ast.parse((TESTS / f"{file}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def missing(text: str) -> list[str]:
    """Return what `text` names as tests and is none."""
    return [f"{file}::{name}" for file, name in NAMED.findall(text) if name not in names_in(file)]


def test_readme_names_threats() -> None:
    assert len(rows()) >= 20


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_threat_has_a_rule_and_tests_that_exist(row: list[str]) -> None:
    _, rule, tests = row
    assert rule
    assert len(NAMED.findall(tests)) == tests.count("`") // 2 > 0
    assert missing(tests) == []


@pytest.mark.parametrize("sentence", PROMISES)
def test_promise_has_tests_that_exist(sentence: str) -> None:
    assert PROMISES[sentence]
    assert missing(" ".join(PROMISES[sentence])) == []
