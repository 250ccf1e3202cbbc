"""`Viewed`: what a job's and a group's handle have in common that a notebook shows live.

`zbrain_nb.notebook` sets who presents them, for this room knows no notebook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from zbrain_nb.model.errors import ZBrainError

if TYPE_CHECKING:
    from zbrain_nb.client.group import JobGroup


class Presenter(Protocol):
    """How a notebook shows jobs, or groups of them."""

    def bundle(self, viewed: Any, /) -> dict[str, Any]:
        """Return the display bundle."""

    def display(self, viewed: Any, /) -> None:
        """Show the live view."""

    def widget(self, viewed: Any, /) -> Any:
        """Return the view as a widget."""


class Viewed:
    """Has one live view in a notebook.

    Attributes
    ----------
    presenter : Presenter or None
        Of this class; None where there is no notebook.
    earlier : JobGroup or None
        The jobs of the same cell that went on when this was submitted, oldest first; None if no cell submitted it. The
        view offers to cancel them.
    """

    presenter: ClassVar[Presenter | None] = None
    earlier: JobGroup | None = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        if self.presenter is None:
            return {"text/plain": repr(self)}
        return self.presenter.bundle(self)

    def display(self) -> None:
        """Show the live view here.

        Raises
        ------
        ZBrainError
            If this is no notebook.
        """
        self._presenter().display(self)

    def widget(self) -> Any:
        """Return the live view as an ipywidget.

        Raises
        ------
        ZBrainError
            If this is no notebook.
        """
        return self._presenter().widget(self)

    def _presenter(self) -> Presenter:
        if self.presenter is None:
            raise ZBrainError("Views need a notebook.", "Run `%load_ext zbrain_nb` in one.")
        return self.presenter
