"""What the Hub says of people who do not ask themselves: whether there is such an account, and in which groups.

`HubIdentity` makes principals of it. Each question has a deadline of its own, for jobs wait for the answer; who is
asked about already is not asked about again, and a Hub that failed is let alone for a while. That the Hub shows no
account means that there is none only if the service may read all of them.
"""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from http import HTTPStatus
from typing import Any

import msgspec
from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse

from zbrain_nb.model.errors import Unavailable

#: The Hub has so long to answer, and is not asked the same again for so long after it failed.
ANSWER_SECS = 3.0
FAILURE_SECS = 3.0
#: Without a filter: a scope of some people alone lets the Hub deny that there are others.
SCOPES = ("read:users:name", "read:users:groups")

_Model = dict[str, Any]


class People:
    """Asks the Hub about people, and keeps its word as long as that of tokens (``ZBRAIN_HUB_CACHE_SECS``).

    Parameters
    ----------
    auth : HubOAuth
        Where the Hub is, and what the service shows it.
    """

    def __init__(self, auth: HubOAuth) -> None:
        self._auth = auth
        self._asking: dict[str, asyncio.Task[_Model | None]] = {}
        self._failed: dict[str, tuple[float, Unavailable]] = {}

    async def find(self, name: str) -> _Model | None:
        """Return what the Hub says of a person, or None if it has no such account.

        Raises
        ------
        Unavailable
            If the Hub does not answer in time, or does not let the service ask.
        """
        model = await self._once(f"users/{urllib.parse.quote(name, safe='')}")
        return None if model is None else {"name": name, **model}

    async def check_scopes(self) -> None:
        """See whether the service may ask about everybody.

        Raises
        ------
        Unavailable
            If not, or if that cannot be told now.
        """
        model = await self._once("user")  # whose token this is, and what it may
        missing = [scope for scope in SCOPES if scope not in (model or {}).get("scopes", ())]
        if missing:
            raise _refused(missing)

    async def _once(self, what: str) -> _Model | None:
        cache, key = self._auth.cache, f"people:{what}"  # beside the Hub's words of tokens
        try:
            known: _Model | None = cache[key]
        except KeyError:
            pass
        else:
            return known
        until, failure = self._failed.get(what, (0.0, None))
        if failure is not None and time.monotonic() < until:
            raise Unavailable(failure.message, failure.hint)
        task = self._asking.get(what)
        if task is None:
            task = self._asking[what] = asyncio.ensure_future(self._ask(what))
            task.add_done_callback(lambda done: self._keep(what, done))
        return await asyncio.shield(task)  # who gives up leaves the others their answer

    def _keep(self, what: str, done: asyncio.Task[_Model | None]) -> None:
        del self._asking[what]
        self._failed.pop(what, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._auth.cache[f"people:{what}"] = done.result()
        elif isinstance(error, Unavailable):
            now = time.monotonic()
            self._failed = {other: failed for other, failed in self._failed.items() if failed[0] > now}
            self._failed[what] = now + FAILURE_SECS, error

    async def _ask(self, what: str) -> _Model | None:
        answer = await self._fetch(what)
        if answer.code == HTTPStatus.NOT_FOUND:
            await self.check_scopes()
            return None
        if answer.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"JupyterHub does not answer, but fails with {answer.code}.", "Try again soon.")
        try:
            model = msgspec.json.decode(answer.body, type=_Model) if answer.code == HTTPStatus.OK else {}
        except msgspec.DecodeError as error:
            raise Unavailable("Something else than JupyterHub answers at its address.", "Try again soon.") from error
        if what != "user" and "groups" not in model:
            raise _refused(SCOPES)
        return model

    async def _fetch(self, what: str) -> HTTPResponse:
        auth = self._auth
        try:
            return await AsyncHTTPClient().fetch(
                f"{auth.api_url}/{what}",
                headers={"Authorization": f"token {auth.api_token}"},
                raise_error=False,
                follow_redirects=False,
                connect_timeout=ANSWER_SECS,
                request_timeout=ANSWER_SECS,
                client_key=auth.keyfile or None,
                client_cert=auth.certfile or None,
                ca_certs=auth.client_ca or None,
            )
        except (OSError, HTTPClientError) as error:
            raise Unavailable("JupyterHub does not answer.", "Try again soon.") from error


def _refused(missing: list[str] | tuple[str, ...]) -> Unavailable:
    return Unavailable(
        "JupyterHub does not tell the service who is in which group.",
        f"For all users it needs the scopes {' and '.join(missing)}: the README shows how it gets them.",
    )
