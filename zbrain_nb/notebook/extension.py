"""What ``%load_ext zbrain_nb`` does: registers magics and their completion, teaches handles to show themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zbrain_nb.client.client import Client
from zbrain_nb.client.group import JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.notebook.bridging import open_bridges
from zbrain_nb.notebook.completion import complete_magics
from zbrain_nb.notebook.dashboards import Dashboard
from zbrain_nb.notebook.defaults import preferences_of
from zbrain_nb.notebook.groups import GroupView
from zbrain_nb.notebook.magic import ZBrainMagics, explain
from zbrain_nb.notebook.presenting import NotebookPresenter

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load(shell: InteractiveShell) -> None:
    """Register with `shell`; loading twice is harmless."""
    JobHandle.presenter = NotebookPresenter()
    JobGroup.presenter = GroupView()
    Client.present = Dashboard
    if not isinstance(shell.magics_manager.registry.get(ZBrainMagics.__name__), ZBrainMagics):
        magics = ZBrainMagics(shell)
        shell.register_magics(magics)
        shell.events.register("pre_run_cell", magics.before_cell)
    explain(preferences_of(shell))
    complete_magics(shell)
    open_bridges(shell)
