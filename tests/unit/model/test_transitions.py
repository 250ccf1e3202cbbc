import itertools

import msgspec
import pytest

from zbrain_nb import Job, JobSpec, JobState
from zbrain_nb.model.errors import WrongState
from zbrain_nb.model.transitions import ALLOWED, advance, read_patch
from zbrain_nb.queue.clock import as_datetime

EXPECTED = {
    ("pending", "running"),
    ("pending", "canceled"),
    ("pending", "failed"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "retrying"),
    ("running", "canceled"),
    ("retrying", "running"),
    ("retrying", "canceled"),
    ("retrying", "failed"),
}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(JobState, JobState)))
def test_advance_every_pair_follows_the_table(source, target):
    job = msgspec.structs.replace(Job(JobSpec(cmd=["true"])), state=source)
    if (source, target) in EXPECTED or source == target:
        assert advance(job, {"state": target}).state is target
        assert job.state is source
    else:
        with pytest.raises(WrongState):
            advance(job, {"state": target})


def test_table_ended_states_lead_nowhere():
    assert {state for state, following in ALLOWED.items() if not following} == {s for s in JobState if s.ended}


def test_read_patch_from_json_gives_the_values_that_were_written():
    patch = {"state": JobState.CANCELED, "finished_at": as_datetime(1_800_000_000.25), "exit_code": -9, "output": [1]}
    assert read_patch(msgspec.json.decode(msgspec.json.encode(patch))) == patch
