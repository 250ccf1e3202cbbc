from collections.abc import AsyncIterator

import pytest

from tests.unit.queue.stage import FakeClock
from zbrain_nb.model.access import Principal, Role
from zbrain_nb.server.audit import AuditLog
from zbrain_nb.server.tokens import Tokens


class SetClock(FakeClock):
    """A clock whose hands somebody may turn: `monotonic` does not follow."""

    shift = 0.0

    def time(self) -> float:
        return self.now + self.shift


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def audit(storage, clock) -> AsyncIterator[AuditLog]:
    audit = AuditLog(storage, clock)
    await audit.start()
    yield audit
    await audit.stop()


@pytest.fixture
def ended() -> list[str]:
    """Ids of tokens, as they end."""
    return []


@pytest.fixture
async def tokens(storage, audit, ended, clock) -> AsyncIterator[Tokens]:
    tokens = Tokens(storage, audit, ended.extend, home="default", clock=clock)
    await tokens.start()
    yield tokens
    await tokens.stop()


@pytest.fixture
def holder() -> Principal:
    """Who holds the data directory."""
    return Principal(owner="root", roles=None, home="default")


@pytest.fixture
def admin() -> Principal:
    """An admin of one org, and a submitter in another."""
    return Principal(owner="ada", roles={"lab": Role.ADMIN, "other": Role.SUBMITTER}, home="lab")
