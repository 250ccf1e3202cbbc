"""The host as a service of JupyterHub: where the Hub wants it, and its routes with the Hub's login before them.

Made by `Host` when ``zbrain serve --hub`` runs it. The same handlers answer; a mixin learns from the Hub who asks
before each of them looks. The data directory's own token goes on to open the host to its administrator.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from typing import Any, cast

from jupyterhub.services.auth import HubOAuth, HubOAuthCallbackHandler, HubOAuthenticated
from tornado import web

from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import Unauthorized, ZBrainError
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.console import PAGE_POLICY, FrameHandler, ModuleHandler, PageHandler
from zbrain_nb.server.handlers.events import EventsHandler
from zbrain_nb.server.hub.identity import HubIdentity

_UNFRAMED = PAGE_POLICY.replace("frame-ancestors 'self'", "frame-ancestors 'none'")
_NEEDED = ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL", "JUPYTERHUB_SERVICE_URL", "JUPYTERHUB_SERVICE_PREFIX")


class HubService:
    """Where the Hub wants the service, and who its callers are.

    Parameters
    ----------
    settings : Settings
        `hub_roles`: roles by Hub group; `hub_cache_secs`: how long the Hub's word holds.
    environ : mapping of str to str
        What the Hub sets for the services that it starts.

    Raises
    ------
    ZBrainError
        If the Hub did not start this process.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        missing = [name for name in _NEEDED if not environ.get(name)]
        if missing:
            raise ZBrainError(
                f"`zbrain serve --hub` is started by JupyterHub, which sets {', '.join(missing)}.",
                "The README shows what to add to jupyterhub_config.py.",
            )
        address = urllib.parse.urlsplit(environ["JUPYTERHUB_SERVICE_URL"])
        self.bind = address.hostname or "127.0.0.1"
        self.port = address.port or 0
        #: What stands before ``zbrain/`` in the addresses, with a slash at both ends.
        self.prefix = environ["JUPYTERHUB_SERVICE_PREFIX"]
        self.identity = HubIdentity(HubOAuth.instance(cache_max_age=int(settings.hub_cache_secs)), settings.hub_roles)

    def wrap(self, handler: type[ApiHandler]) -> type[ApiHandler]:
        """Return a handler that learns from the Hub who asks, before it looks at the request."""
        mixin = _MIXINS.get(handler, _OnHub)
        return type(f"{handler.__name__}OnHub", (mixin, handler), {"hub_identity": self.identity})

    async def person(self, name: str) -> Principal | None:
        """Return what the Hub says of a person by now; see `HubIdentity.person`."""
        return await self.identity.person(name)

    async def check(self) -> None:
        """See whether the Hub lets the service ask about people; see `HubIdentity.check_scopes`."""
        await self.identity.check_scopes()

    def routes(self) -> list[tuple[Any, ...]]:
        """Return what the service answers beside the host's routes: the end of a login, and its own root."""
        return [
            (f"{self.prefix}oauth_callback", _CallbackHandler),
            (self.prefix, web.RedirectHandler, {"url": f"{self.prefix}zbrain", "permanent": False}),
        ]


class _CallbackHandler(HubOAuthCallbackHandler):  # type: ignore[misc] # jupyterhub has no types
    """The end of a login; its cookies are the library's own."""


class _OnHub(HubOAuthenticated):  # type: ignore[misc] # jupyterhub has no types
    """Takes the word of the Hub where no token of the host's own is shown."""

    hub_identity: HubIdentity

    async def identify(self) -> Principal:
        """Return who sends the request; see `ApiHandler.identify`."""
        found = await self.context.identity.identify(self.request, by_session=False)
        if found is None:
            found = await self.hub_identity.identify(self)
        if found is None:
            raise Unauthorized(
                "This request carries no login and no token that JupyterHub knows.",
                "Send a Hub token as `Authorization: token ...`.",
            )
        return cast("Principal", found)


class _PageOnHub(_OnHub):
    """The console's page: it sends strangers to the Hub's login."""

    async def prepare(self) -> None:
        """Give a browser's page the XSRF token that it sends back with what it asks, and let nobody frame it.

        On the Hub's host other people's servers are the same origin, and could read it in a frame.
        """
        await super().prepare()
        if "Authorization" not in self.request.headers:
            self.xsrf_token  # noqa: B018 # sets the cookie
            self.set_header("Content-Security-Policy", _UNFRAMED)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Ask a stranger to log in."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, Unauthorized):
            self.redirect(self.get_login_url())
        else:
            super().write_error(status_code, **kwargs)


class _EventsOnHub(_OnHub):
    """The socket."""

    def check_origin(self, origin: str) -> bool:
        """Take pages of this host; `HubIdentity` has looked which."""
        return urllib.parse.urlsplit(origin).netloc.lower() == str(self.request.host).lower()


class _PublicOnHub(_OnHub):
    """What is the same for all and tells nothing: browsers load it without the XSRF token."""

    async def authenticate(self) -> None:
        """Admit everybody."""


_MIXINS: dict[type, type] = {
    PageHandler: _PageOnHub,
    EventsHandler: _EventsOnHub,
    ModuleHandler: _PublicOnHub,
    FrameHandler: _PublicOnHub,
}
