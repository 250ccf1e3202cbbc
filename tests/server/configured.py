"""What a Jupyter server's administrator may configure: who logs in, and an authorizer that lets everybody only read."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth import Authorizer, User
from jupyter_server.auth.identity import PasswordIdentityProvider


class Ann(PasswordIdentityProvider):
    """Knows whoever comes with the server's token as one person."""

    def generate_anonymous_user(self, handler: Any) -> User:
        return User(username="ann \u2013 of the lab")


class ReadOnly(Authorizer):
    """Allows to read."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return action == "read" or resource != "zbrain"
