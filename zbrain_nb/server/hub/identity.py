"""Who asks the service, by the word of the Hub: a person's token, or the cookie of a browser that logged in there.

The Hub's answer is kept for `CACHE_SECS`, so that a revoked token and a membership that ended hold no longer than that.
Called before each request (see `service`); it decides nothing: `Principal` does.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from typing import Any

from jupyterhub.services.auth import HubOAuth, HubOAuthenticated
from tornado import web, websocket

from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.checks import check_org_id
from zbrain_nb.model.errors import Forbidden, InvalidSpec, Unauthorized, Unavailable, ZBrainError

log = logging.getLogger(__name__)
#: How long the Hub's word holds.
CACHE_SECS = 20


class HubIdentity:
    """Makes a `Principal` of whoever the Hub knows.

    Parameters
    ----------
    auth : HubOAuth
        Asks the Hub.
    roles : mapping of str to Role
        Which role the members of a Hub group have (see `principal_of`).
    """

    def __init__(self, auth: HubOAuth, roles: Mapping[str, Role]) -> None:
        self.auth = auth
        self._roles = roles

    async def still_is(self, handler: HubOAuthenticated, principal: Principal) -> bool:
        """Whether the sender of an earlier request still is who it was; yes while the Hub does not say."""
        token = self.auth.get_token(handler)
        try:
            model = await self.auth.user_for_token(token, session_id=self.auth.get_session_id(handler), sync=False)
        except web.HTTPError as error:
            log.warning("the Hub does not say who listens", extra={"why": error.log_message})
            return True
        if model is None or not self.auth.check_scopes(self.auth.access_scopes, model):
            return False
        return principal_of(model, self._roles) == principal

    async def resolve(self, handler: HubOAuthenticated) -> Principal | ZBrainError:
        """Return who sends a request, or why it is refused."""
        try:
            model = await self.auth.get_user(handler, sync=False)
        except web.HTTPError as error:
            log.warning("the Hub does not say who asks", extra={"why": error.log_message})
            return Unavailable("JupyterHub does not answer, so nobody can be told apart.", "Try again in a moment.")
        if model is None:
            return Unauthorized(
                "This request carries no login and no token that JupyterHub knows.",
                "Send a Hub token as `Authorization: token ...`.",
            )
        if not self.auth.check_scopes(self.auth.access_scopes, model):
            return Forbidden(
                "This Hub token does not open zbrain.",
                f"It needs the scope {' or '.join(sorted(self.auth.access_scopes))}.",
            )
        if isinstance(handler, websocket.WebSocketHandler) and not self._is_meant(handler):
            return Forbidden("This page may not open events here.", "Open the console from the Hub's services.")
        try:
            return principal_of(model, self._roles)
        except ZBrainError as error:
            return error

    def _is_meant(self, handler: HubOAuthenticated) -> bool:
        """Whether a page of the service itself opens a socket, where a cookie speaks for the caller.

        On the Hub's host other people's servers are the same origin; only the XSRF token tells them apart.
        """
        if getattr(handler, "_token_authenticated", False):
            return "Origin" not in handler.request.headers
        given = handler.get_query_argument("_xsrf", "")
        token = handler.xsrf_token
        return hmac.compare_digest(given.encode(), token if isinstance(token, bytes) else token.encode())


def principal_of(model: Mapping[str, Any], roles: Mapping[str, Role]) -> Principal:
    """Return what a Hub user may do where.

    Everybody is operator of the own org ``~NAME``. A Hub group is an org of that name, and its members submit there.
    A group in `roles` is no org: its members have that role in all their orgs.

    Parameters
    ----------
    model : mapping
        What the Hub says of the user: ``kind``, ``name``, ``groups``.
    roles : mapping of str to Role
        By Hub group.

    Raises
    ------
    Forbidden
        If it is no person, or one whose name cannot name an org.
    """
    name = model["name"]
    if model.get("kind", "user") != "user":
        raise Forbidden(f"{name} is a service of the Hub, not a person.", "Use the token of a user.")
    home = f"~{name}"
    if not _can_be_org(home):
        raise Forbidden(f"The user name {name!r} cannot be the name of an org.", "Commas and slashes are not taken.")
    groups = set(model.get("groups") or ())
    given = [roles[group] for group in groups & roles.keys()]
    # "~" begins the own orgs of people: a group may not pass for one
    orgs = {group for group in groups - roles.keys() if not group.startswith("~") and _can_be_org(group)}
    role = max([Role.SUBMITTER, *given], key=lambda role: role.rank)
    return Principal(owner=name, roles={home: Role.OPERATOR} | dict.fromkeys(orgs, role), home=home)


def _can_be_org(name: str) -> bool:
    try:
        check_org_id("org", name)
    except InvalidSpec:
        return False
    return True
