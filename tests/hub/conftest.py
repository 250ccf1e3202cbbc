"""One Hub for all tests of this folder: they are in one file, so that one process runs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.conftest import browser, page  # noqa: F401 # fixtures
from tests.hub.hub import Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    try:
        hub.start()
        yield hub
    finally:
        hub.stop()
