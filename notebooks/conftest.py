"""The notebooks are tests too (nbval): they run on the data directory of the test session."""

from tests.conftest import pytest_unconfigure

__all__ = ["pytest_unconfigure"]
