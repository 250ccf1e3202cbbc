"""Who sends a request: the one place where a principal is made of what a request carries.

The handlers' base asks it, and asks again for sockets that stay open. It tells who somebody is, and never what they
may do: `zbrain_nb.model.access` does.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from tornado import httputil

from zbrain_nb.model.access import Principal
from zbrain_nb.server.sessions import Sessions

#: Returns whose secret it is, or None if it is nobody's.
Find = Callable[[str], Awaitable[Principal | None]]


class Identity:
    """Finds the principal of a request.

    Parameters
    ----------
    token : str
        The data directory's.
    holder : Principal
        Who shows that.
    sessions : Sessions
        Of browsers.

    Attributes
    ----------
    finders : list of callable
        Asked in order about each secret that is not the data directory's; the first that knows it is believed.
    """

    def __init__(self, token: str, holder: Principal, sessions: Sessions) -> None:
        self.holder = holder
        self.finders: list[Find] = []
        self._token = token.encode()
        self._sessions = sessions

    async def identify(self, request: httputil.HTTPServerRequest, *, by_session: bool = True) -> Principal | None:
        """Return who sends a request, or None if it carries nothing that is known here.

        Parameters
        ----------
        by_session : bool
            Whether the session in its cookie counts; a secret in its header always goes before.
        """
        if "Authorization" in request.headers:
            return await self.of_secret(secret_of(request))
        return self._sessions.find(session_of(request)) if by_session else None

    async def of_secret(self, secret: str) -> Principal | None:
        """Return whose secret it is."""
        if hmac.compare_digest(secret.encode(), self._token):
            return self.holder
        for find in self.finders:
            found = await find(secret)
            if found is not None:
                return found
        return None


def secret_of(request: httputil.HTTPServerRequest) -> str:
    """Return the secret in the ``Authorization`` header; empty if there is none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() in ("token", "bearer") else ""


def session_of(request: httputil.HTTPServerRequest) -> str:
    """Return the session in the cookie of this host; empty if there is none."""
    cookie = request.cookies.get(cookie_name(request))
    return "" if cookie is None else cookie.value


def cookie_name(request: httputil.HTTPServerRequest) -> str:
    """Return what the session's cookie is called: hosts on other ports of this machine share its cookies."""
    return f"zbrain-{httputil.split_host_and_port(request.host)[1] or 80}"
