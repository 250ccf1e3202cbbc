"""Errors of ours that look like what the cell raised."""

from __future__ import annotations

import pytest

from zbrain_nb.model.errors import JobFailedError
from zbrain_nb.notebook.lookalikes import lookalike


@pytest.mark.parametrize(
    ("name", "caught_by"),
    [
        ("ValueError", ValueError),
        ("KeyError", KeyError),
        ("FileNotFoundError", JobFailedError),
        ("ExceptionGroup", JobFailedError),
        ("UnicodeDecodeError", JobFailedError),
        ("SystemExit", JobFailedError),
        ("SyntaxError", JobFailedError),
        ("print", JobFailedError),
        ("OwnError", JobFailedError),
    ],
)
def test_lookalike_bears_name_and_text_and_is_caught_by_both_kinds(name: str, caught_by: type[Exception]) -> None:
    made = lookalike(JobFailedError("Job failed.", job_id="j1"), name, "the text", ["line 1", "line 2"])
    with pytest.raises(caught_by) as caught:
        raise made
    assert isinstance(made, JobFailedError) and made.details == {"job_id": "j1"}
    assert (type(made).__name__, str(caught.value), made._render_traceback_()) == (
        name,
        "the text",
        ["line 1", "line 2"],
    )
