"""What tests of routes do with tokens."""

from __future__ import annotations

from typing import Any

import httpx


def with_token(secret: str) -> dict[str, str]:
    return {"Authorization": f"token {secret}"}


async def make(api: httpx.AsyncClient, headers: dict[str, str] | None = None, **wanted: object) -> dict[str, Any]:
    answer = await api.post("tokens", json=wanted, headers=headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made
