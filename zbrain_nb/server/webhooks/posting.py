"""One POST to an address that a person wrote: it must reach that receiver, and nobody inside.

The name is resolved here, once; every address it has must be public or in an allowed network, and the connection goes
to the very address that was checked, so a name that points elsewhere a moment later changes nothing. Proxies of the
environment are not used, redirects are not followed, and the answer's body is not read. The certificate has to be the
name's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.webhooks import Network

#: For all of it: resolving, connecting, sending, and the head of the answer, however slowly it drips.
TOTAL_SECS = 10.0
#: Statuses that mean "later"; any other but 2xx will be the same next time.
_LATER = frozenset({408, 425, 429})
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_UNICAST = ipaddress.ip_network("2000::/3")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Undelivered(ZBrainError):
    """A notice did not reach its receiver; with `final` there is no use in trying again."""

    code = "undelivered"
    status = 502

    def __init__(self, message: str, hint: str = "", *, final: bool = False) -> None:
        super().__init__(message, hint)
        self.final = final


class Poster:
    """Sends notices.

    Parameters
    ----------
    allowed : sequence of networks
        Not public, and may be sent to all the same.
    """

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)
        # A resolver that hangs shall not take threads from the queue.
        self._resolver = ThreadPoolExecutor(2, thread_name_prefix="webhook-resolver")
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections."""
        self._resolver.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        """Send `body`; returns when the receiver said that it has it.

        Raises
        ------
        Undelivered
            If it did not.
        """
        try:
            async with asyncio.timeout(TOTAL_SECS):
                status = await self._send(url, body, headers)
        except TimeoutError as error:
            raise Undelivered(f"The receiver did not answer within {TOTAL_SECS:g} s.") from error
        except httpx.InvalidURL as error:
            raise Undelivered(f"That is no address: {error}.", final=True) from error
        except (httpx.HTTPError, OSError) as error:
            raise Undelivered(f"The receiver cannot be reached: {type(error).__name__}: {error}.") from error
        if not 200 <= status < 300:
            later = status in _LATER or status >= 500
            redirects = " Redirects are not followed." if 300 <= status < 400 else ""
            raise Undelivered(f"The receiver answered {status}.{redirects}", final=not later)

    async def _send(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        address = await self._address(host, port, parts.scheme)
        netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        pinned = parts._replace(netloc=netloc).geturl()
        if self._client is None:
            context = await asyncio.to_thread(ssl.create_default_context)  # reads some hundred certificates
            # No connection is kept: one to this address may have been made for another name.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._client = httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, limits=limits)
        request = self._client.build_request(
            "POST",
            pinned,
            content=body,
            headers={**headers, "Host": parts.netloc, "Connection": "close"},
            timeout=TOTAL_SECS,
            extensions={"sni_hostname": host},
        )
        answer = await self._client.send(request, stream=True)
        await answer.aclose()  # unread, however much it would be
        return answer.status_code

    async def _address(self, host: str, port: int, scheme: str) -> str:
        """Resolve a name, and return an address of it that may be sent to."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._resolver, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise Undelivered(f"The name {host} cannot be resolved: {error}.") from error
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            if not self._may_reach(address, scheme):
                raise Undelivered(
                    f"{host} is {address}, where nothing is sent to.",
                    "Public addresses are reached by https, others only if they are in allow_networks.",
                    final=True,
                )
        return addresses[0]

    def _may_reach(self, text: str, scheme: str) -> bool:
        address = ipaddress.ip_address(text)
        inner = list(embedded(address))
        if any(one in network for one in (address, *inner) for network in self._allowed):
            return True
        return scheme == "https" and all(map(is_public, (address, *inner)))


def is_public(address: Address) -> bool:
    """Whether an address, by itself, belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return address in _NAT64[0]  # then what it holds counts
    return address.is_global and not address.is_multicast and not address.is_reserved


def embedded(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """Yield the IPv4 addresses to which an IPv6 address may be translated on its way."""
    if not isinstance(address, ipaddress.IPv6Address):
        return
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
