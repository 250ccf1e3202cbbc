"""Who asks the service, by the word of the Hub: a person's token, or the cookie of a browser that logged in there.

The Hub's word is kept for a while (``ZBRAIN_HUB_CACHE_SECS``); no longer hold a revoked token, and a membership that
ended. Asked before each request, and again for open sockets (see `service`), and of owners of jobs who do not ask
themselves (see `Standing`); it decides nothing: `Principal` does.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from typing import Any

from jupyterhub.services.auth import HubOAuth, HubOAuthenticated
from tornado import web, websocket

from zbrain_nb.model.access import GroupRole, Principal, Role
from zbrain_nb.model.checks import check_org_id
from zbrain_nb.model.errors import Forbidden, InvalidSpec, Unavailable
from zbrain_nb.server.hub.people import People
from zbrain_nb.server.identity import secret_of

log = logging.getLogger(__name__)


class HubIdentity:
    """Makes a `Principal` of whoever the Hub knows.

    Parameters
    ----------
    auth : HubOAuth
        Asks the Hub.
    roles : mapping of str to GroupRole
        Which role the members of a Hub group have (see `principal_of`).
    """

    def __init__(self, auth: HubOAuth, roles: Mapping[str, GroupRole]) -> None:
        self._auth = auth
        self._roles = roles
        self._people = People(auth)

    async def identify(self, handler: HubOAuthenticated) -> Principal | None:
        """Return who sends a request, or None if the Hub knows nobody by what it carries.

        Raises
        ------
        Forbidden
            If the token does not open this service, or another page's script uses a browser's cookie.
        Unavailable
            If the Hub does not answer.
        """
        secret = secret_of(handler.request)
        if not secret and "Authorization" not in handler.request.headers:
            secret = (handler.get_secure_cookie(self._auth.cookie_name) or b"").decode()
            if secret:
                self._check_page(handler)
        if not secret:
            return None
        session_id = self._auth.get_session_id(handler)
        try:
            model = await self._auth.user_for_token(secret, session_id=session_id, sync=False)
        except web.HTTPError as error:
            log.warning("the Hub does not say who asks", extra={"why": error.log_message})
            raise Unavailable("JupyterHub does not answer, so it is not known who asks.", "Try again soon.") from error
        if model is None:
            return None
        if not self._auth.check_scopes(self._auth.access_scopes, model):
            raise Forbidden(
                "This Hub token does not open zbrain.",
                f"It needs the scope {' or '.join(sorted(self._auth.access_scopes))}.",
            )
        return principal_of(model, self._roles)

    async def person(self, name: str) -> Principal | None:
        """Return what a person may do by now who does not ask, or None if the Hub has no such account.

        Raises
        ------
        Unavailable
            If the Hub does not answer, or does not let the service ask.
        """
        model = await self._people.find(name)
        try:
            return None if model is None else principal_of(model, self._roles)
        except Forbidden:  # nobody who may log in
            return None

    async def check_scopes(self) -> None:
        """See whether the Hub lets the service ask who is in which group; raises as `person` does if not."""
        await self._people.check_scopes()

    def _check_page(self, handler: HubOAuthenticated) -> None:
        """Refuse scripts of other pages: on the Hub's host other people's servers are the same origin.

        Only the XSRF token tells them apart. A socket carries it in its address, for want of headers.
        """
        try:
            self._auth.check_xsrf_cookie(handler)
        except web.HTTPError as error:
            raise Forbidden("This page may not speak for you here.", "Open the console anew.") from error
        if isinstance(handler, websocket.WebSocketHandler):
            given, token = handler.get_query_argument("_xsrf", ""), handler.xsrf_token
            if not hmac.compare_digest(given.encode(), token if isinstance(token, bytes) else token.encode()):
                raise Forbidden("This page may not listen for you here.", "Open the console anew.")


def principal_of(model: Mapping[str, Any], roles: Mapping[str, GroupRole]) -> Principal:
    """Return what a Hub user may do where.

    Everybody is operator of the own org ``~NAME``. A Hub group is an org of that name, and its members submit there.
    A group in `roles` is no org: its members have that role in all their groups, or in the one that is named, the
    highest if they have several there; and so a viewer of all submits in the own org alone.

    Parameters
    ----------
    model : mapping
        What the Hub says of the user: ``kind``, ``name``, ``groups``.
    roles : mapping of str to GroupRole
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
    # "~" begins the own orgs of people: a group may not pass for one
    orgs = {group for group in groups - roles.keys() if not group.startswith("~") and _can_be_org(group)}
    given = [roles[group] for group in groups & roles.keys()]
    has = {home: Role.OPERATOR}
    for org in orgs:
        there = {each.role for each in given if each.org in (None, org)} or {Role.SUBMITTER}
        has[org] = next(role for role in reversed(Role) if role in there)
    return Principal(owner=name, roles=has, home=home)


def _can_be_org(name: str) -> bool:
    try:
        check_org_id("org", name)
    except InvalidSpec:
        return False
    return True
