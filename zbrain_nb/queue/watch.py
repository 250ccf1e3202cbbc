"""Who looks at every committed fact: the numbers, the ring of recent lines, the log of transitions, and the bus."""

from __future__ import annotations

import logging

from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.logs import TRANSITIONS
from zbrain_nb.queue.bus import Bus
from zbrain_nb.queue.metrics import Metrics
from zbrain_nb.queue.ring import Ring
from zbrain_nb.queue.turn import Fact
from zbrain_nb.store.lines import Lines

#: One line a transition, at level DEBUG; ``ZBRAIN_LOG_TRANSITIONS`` turns them on. Losses are warnings.
log = logging.getLogger(TRANSITIONS)

MAX_REASON = 300


class Watch:
    """Takes what was committed, in order.

    Parameters
    ----------
    bus : Bus
        Hears of it last.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.metrics = Metrics()
        self.ring = Ring()

    def publish(self, facts: list[Fact | Job]) -> None:
        """Take the facts of one commit; a job stands for its submit."""
        metrics, ring = self.metrics, self.ring
        tells = log.isEnabledFor(logging.DEBUG)
        submits = 0
        for said in facts:
            if isinstance(said, Job):
                submits += 1
                if tells:
                    _tell_submit(said)
            elif said.job is not None and said.before is not None:
                lost = metrics.moved(said, said.job, said.before)
                if said.job.state.ended:
                    ring.drop(said.job_id)
                if tells or lost:
                    _tell(said, said.job, said.before, lost=lost)
            elif isinstance(said.data, Lines):
                metrics.log_lines += len(said.data)
                ring.add(said.data)
        metrics.states[JobState.PENDING] += submits
        self._bus.publish(facts)


def _tell_submit(job: Job) -> None:
    fields = {"job_id": job.id, "attempt": 0, "kind": "job_submitted", "from_state": None, "to_state": "pending"}
    log.debug("A job was submitted.", extra=fields)


def _tell(fact: Fact, job: Job, before: Job, *, lost: bool) -> None:
    fields = {
        "job_id": job.id,
        "attempt": fact.attempt,
        "kind": fact.kind,
        "from_state": before.state.value,
        "to_state": job.state.value,
        "reason": None if job.reason is None else " ".join(job.reason.split())[:MAX_REASON],
    }
    if not lost:
        log.debug("A job moved.", extra=fields)
    elif job.state is JobState.FAILED and job.spec.reruns_if_lost:
        log.warning("An attempt was lost, once too often: the job has failed.", extra=fields)
    else:
        log.warning("An attempt was lost.", extra=fields)
