"""Many people, one queue: a real JupyterHub, its login in a browser, and the servers of its users."""

from __future__ import annotations

import httpx

from tests.hub.hub import Hub


def test_service_admits_tokens_of_the_hub_that_open_it_and_no_others(hub: Hub) -> None:
    def status(token: str) -> int:
        headers = {"Authorization": f"token {token}"} if token else {}
        url = f"{hub.url}services/zbrain/zbrain/api/jobs"
        return httpx.get(url, headers=headers, trust_env=False, timeout=30).status_code

    alice = hub.token_of("alice")
    narrow = hub.token_of("alice", "read:users!user=alice")
    assert [status(token) for token in ("", "0" * 32, narrow, hub.token, alice)] == [401, 401, 403, 403, 200]
