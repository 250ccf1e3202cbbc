"""`Employer`: what a session of calls asks of the crew that it is of; the session knows nothing else of it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from zbrain_nb.worker.finishing import Ending
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.run import Run
from zbrain_nb.worker.spool import End

if TYPE_CHECKING:
    from zbrain_nb.worker.session import Session


class Employer(Protocol):
    """What a session asks of the crew that it is of."""

    def launch(self, run: Run, /) -> Awaitable[None]:
        """Have the spawner start what `run` requests; return when there is a spool."""
        ...

    def finish(self, run: Run, request: RunRequest, end: End, /) -> Awaitable[Ending]:
        """Gather what a call left, and return its ending."""
        ...

    def see_gone(self, run: Run, /) -> Awaitable[None]:
        """Return when nothing runs any more of what `run` has started, whose foreman was killed."""
        ...

    def withdrawn(self, runs: list[Run]) -> None:
        """Hear of calls that were not begun."""
        ...

    def learn(self, secs: float) -> None:
        """Hear how long a call took."""
        ...

    def told(self) -> None:
        """Hear that a run has events to send, or has ended."""
        ...

    def over(self, run: Run, /) -> None:
        """Hear that nothing is to be done for a run any more."""
        ...

    def ended(self, session: Session) -> None:
        """Hear that nothing is to be done for a session any more."""
        ...
