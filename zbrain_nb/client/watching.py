"""Waiting in the background, where nobody sees it fail: it outlives a server that is away for a long time.

Used by handles and groups for their callbacks. Whoever is held up by a wait is told of the server's absence instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from zbrain_nb.model.errors import OverQuota, ServerUnreachable, Unavailable

T = TypeVar("T")
#: The pause after a wait that had no more patience with the server.
RETURN_SECS = 5.0


async def outlast(wait: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Return what a coroutine function returns, called again as long as the server is away or takes no more sockets.

    Raises
    ------
    ZBrainError
        If the server says something else: that the job is not known any more, or the token not good.
    """
    while True:
        try:
            return await wait(*args)
        except (ServerUnreachable, Unavailable, OverQuota):
            await asyncio.sleep(RETURN_SECS)
