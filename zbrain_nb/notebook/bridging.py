"""Opens bridges for the lab extension, which asks this kernel when its page's own server does not know a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zbrain_nb.client.client import Client
from zbrain_nb.client.locating import locator
from zbrain_nb.notebook.bridge import Bridge
from zbrain_nb.notebook.magic import ZBrainMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

#: The comm's target; `kernel.js` asks for it.
TARGET = "zbrain_nb"


def open_bridges(shell: InteractiveShell) -> None:
    """Answer comms of `TARGET`, if `shell` is a kernel's."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return
    own: list[Client] = []

    def client() -> Client:
        """Return the one of the magics, else one that starts no server only because an old notebook was opened."""
        magics = shell.magics_manager.registry[ZBrainMagics.__name__]
        if magics.desk_if_there is not None:
            found: Client = magics.client
            return found
        if not own:
            own.append(Client(locator(start=False)))
        return own[0]

    def open_bridge(comm: Any, _message: dict[str, Any]) -> None:
        bridge = Bridge(client, lambda content, buffers: comm.send(content, buffers=buffers))
        comm.on_msg(lambda message: bridge.take(message["content"]["data"]))
        comm.on_close(lambda _message: bridge.close())

    kernel.comm_manager.register_target(TARGET, open_bridge)
