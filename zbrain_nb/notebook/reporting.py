"""Says under a cell that what should happen at a job's end did not: that runs in the background, where nobody asks."""

from __future__ import annotations

import concurrent.futures
import sys


def report_failure(future: concurrent.futures.Future[None], what: str) -> None:
    """Say what was not done, and why, once `future` ends with an error.

    Parameters
    ----------
    future : concurrent.futures.Future
        Of what runs in the background.
    what : str
        What is not so if it fails, as a sentence without its end.
    """

    def say(ended: concurrent.futures.Future[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            sys.stderr.write(f"zbrain: {what}: {error}\n")

    future.add_done_callback(say)
