"""Attempts, events, cancels, losses: each guarantee is attacked."""

from random import Random

import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import CancelResult, JobSpec, JobState
from zbrain_nb.model import datadir
from zbrain_nb.model.errors import Conflict, InvalidSpec, JobNotFound, StaleAttempt, WorkerNotFound, WrongState
from zbrain_nb.model.events import (
    JobCanceled,
    JobCompleted,
    JobDisplayed,
    JobFailed,
    JobLogged,
    JobProgress,
    JobStarted,
    LogStream,
    WorkerArtifact,
)
from zbrain_nb.model.ids import new_id
from zbrain_nb.model.job import JobArtifact, Resources, Variable
from zbrain_nb.model.protocol import AttemptRef, HeartbeatRequest, WorkerInfo
from zbrain_nb.queue import ready
from zbrain_nb.queue.intake import check_artifact_name
from zbrain_nb.store import queries

pytestmark = pytest.mark.anyio
RETRIES = JobSpec(cmd=["true"], max_retries=2)
OUT = LogStream.STDOUT


def line(job, after, seq, text="x"):
    return JobLogged(job.id, attempt=job.attempt, after=after, seq=seq, lines=[(OUT, 5.0, text)])


async def lines(queue, job):
    return [entry.line for entry in await queue.get_logs(job.id)]


async def test_attempt_from_lease_to_success(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run()
    assert (job.state, job.attempt, job.worker_id) == ("running", 1, "w")
    clock.advance(2)
    results = await hand.send(
        JobStarted(job.id, attempt=1, after=0, seq=1, worker_id="w"),
        line(job, 1, 4, "hello"),
        JobProgress(job.id, attempt=1, after=4, seq=5, progress=0.5),
        JobCompleted(job.id, attempt=1, after=5, seq=6, output={"a": 1}, exit_code=0),
    )
    assert [(r.status, r.high) for r in results] == [("ok", 6)]
    done = await queue.get(job.id)
    assert (done.state, done.output, done.exit_code, done.progress["fraction"]) == ("succeeded", {"a": 1}, 0, 0.5)
    assert (done.started_at.timestamp(), done.finished_at.timestamp()) == (clock.time(), clock.time())
    assert await lines(queue, job) == ["hello"]
    assert queue.active_jobs() == 0


async def test_events_repeated_change_nothing_and_are_ok(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    batch = [line(job, 0, 1, "a"), line(job, 1, 2, "b"), JobCompleted(job.id, attempt=1, after=2, seq=3, output=1)]
    assert (await hand.send(*batch[:2]))[0].status == "ok"
    assert (await hand.send(*batch[:2]))[0].status == "ok"
    assert (await hand.send(*batch))[0].status == "ok"
    seq = queue.event_seq
    assert [(r.status, r.high) for r in await hand.send(*batch)] == [("ok", 3)]
    assert queue.event_seq == seq
    assert await lines(queue, job) == ["a", "b"]


async def test_events_with_a_gap_are_refused_from_the_gap_on(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    (result,) = await hand.send(line(job, 0, 1, "a"), line(job, 2, 3, "c"), line(job, 1, 2, "b"))
    assert (result.status, result.high) == ("gap", 1)
    (result,) = await hand.send(JobCompleted(job.id, attempt=1, after=2, seq=3))
    assert (result.status, result.high) == ("gap", 1)
    assert (await queue.get(job.id)).state is JobState.RUNNING
    assert await lines(queue, job) == ["a"]


async def test_events_of_several_attempts_get_one_result_each(queue):
    hand = await Hand(queue).register()
    one, two = await hand.run(), await hand.run()
    results = await hand.send(line(one, 0, 1), line(two, 5, 6), line(one, 1, 2), JobStarted(new_id(), attempt=1))
    assert [(r.job_id, r.status) for r in results[:2]] == [(one.id, "ok"), (two.id, "gap")]
    assert results[2].status == "stale"


async def test_events_of_an_old_attempt_or_another_worker_are_stale(queue, clock):
    hand, thief = await Hand(queue).register(), await Hand(queue, "thief").register()
    job = await hand.run(RETRIES)
    assert (await thief.send(line(job, 0, 1)))[0].status == "stale"
    failed = JobFailed(job.id, attempt=1, after=0, seq=1)
    await hand.send(failed)
    clock.advance(5)
    queue.tick()
    (again,) = await hand.lease()
    assert again.attempt == 2
    assert (await hand.send(line(job, 1, 2)))[0].status == "stale"
    assert (await hand.send(failed))[0].status == "ok", "a repeat of the ending of that very attempt"
    assert (await hand.send(line(again, 0, 1, "second")))[0].status == "ok"
    assert await lines(queue, job) == ["second"]


async def test_events_survive_a_restart_exactly_once(queue, clock):
    hand = await Hand(queue).register()
    job, silent = await hand.run(RETRIES), await hand.run()
    first = [
        line(job, 0, 3, "a"),
        JobDisplayed(job.id, attempt=1, after=3, seq=4),
        JobFailed(job.id, attempt=1, after=4, seq=5),
    ]
    await hand.send(*first, JobLogged(silent.id, attempt=1, after=0, seq=7, lines=[]))
    await queue.close()
    await hand.register()
    assert [r.status for r in await hand.send(*first)] == ["ok"]
    assert (await hand.send(line(silent, 6, 8)))[0].high == 7
    clock.advance(5)
    queue.tick()
    (again,) = await hand.lease()
    assert [r.status for r in await hand.send(*first)] == ["ok"]
    await queue.close()
    await hand.register()
    assert (await hand.send(JobFailed(job.id, attempt=1, after=4, seq=5)))[0].status == "ok"
    await hand.send(line(again, 0, 1, "b"), JobCompleted(job.id, attempt=2, after=1, seq=2))
    assert await lines(queue, job) == ["a", "b"]
    assert [entry.seq for entry in await queue.get_logs(job.id)] == [0, 1]
    queue._index.recent.clear()
    assert (await hand.send(JobCompleted(job.id, attempt=2, after=1, seq=2)))[0].status == "ok"
    assert (await hand.send(line(again, 2, 3)))[0].status == "stale"


@pytest.mark.parametrize(
    "event",
    [
        JobLogged("", lines=[(OUT, float("nan"), "x")]),
        JobLogged("", lines=[(OUT, 1.0, b"x")]),
        JobDisplayed("", outputs=[{"data": 1}]),
        JobDisplayed("", outputs=["x"]),
        JobProgress("", progress=float("nan")),
        JobProgress("", progress="half"),
        JobCompleted("", artifacts=[{"name": "x", "path": "/etc/passwd"}]),
        JobCompleted("", artifacts=[JobArtifact("../x", "a" * 64, 1)]),
        JobCompleted("", artifacts=[JobArtifact("x", "a" * 64, 1)]),
        JobFailed("", error="\ud800"),
        JobStarted("", after=0, seq=0),
        JobStarted("", after=2, seq=1),
        JobStarted("", seq=-5),
        JobStarted("", seq=0),
        JobStarted("", after=-1, seq=1),
        JobStarted("", seq=2**63),
        JobStarted("", after=0, seq=2**62 + 1),
        JobFailed("", exit_code=2**70),
        JobFailed("", exit_code=2**31),
        JobCompleted("", exit_code=-(2**31) - 1),
        JobCompleted("", artifacts=[5]),
        JobCompleted("", artifacts=[{"name": "x", "sha256": "odd", "size": 1}]),
        JobCompleted("", artifacts=[{"name": "x", "sha256": 5, "size": 1}]),
        JobCompleted("", result=JobArtifact("x", "../odd", 1)),
        JobCompleted("", variables=[Variable("x", "int", "1", "A" * 64, 1)]),
    ],
)
async def test_events_that_do_not_hold_are_invalid_and_change_nothing(queue, event):
    import msgspec

    hand = await Hand(queue).register()
    job = await hand.run()
    (result,) = await hand.send(msgspec.structs.replace(event, job_id=job.id, attempt=1))
    assert result.status == "invalid"
    assert result.message.endswith(".")
    assert await queue.get(job.id) == job
    assert (await hand.send(line(job, 0, 1)))[0].status == "ok"


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "", "x\x1b[2J", "x\ny", "x\x7f", "x\x9b2J", "x\ud800"])
def test_artifact_names_that_leave_a_folder_or_steer_a_terminal_are_refused(name):
    check_artifact_name("a b/ü#1?.txt")
    with pytest.raises(InvalidSpec):
        check_artifact_name(name)


async def test_progress_text_is_split_into_lines_of_its_stream(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await queue.handle_worker_event(
        JobProgress(job.id, stdout="a\r\nb\n\nc", stderr="é\ud800\n", progress={"fraction": 2})
    )
    entries = await queue.get_logs(job.id)
    assert [(e.seq, str(e.stream), e.line) for e in entries] == [
        (0, "stdout", "a"),
        (1, "stdout", "b"),
        (2, "stdout", ""),
        (3, "stdout", "c"),
        (4, "stderr", "é?"),
    ]
    assert [e.seq for e in await queue.get_logs(job.id, from_seq=1, limit=2)] == [1, 2]
    assert [e.seq for e in await queue.get_logs(job.id, stream="stderr")] == [4]
    assert await queue.get_logs("unknown") == []
    assert (await queue.get(job.id)).progress["fraction"] == 1.0


async def test_outputs_are_those_of_the_last_attempt_reduced(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(code="1", max_retries=1))
    show = {"output_type": "display_data", "data": {"text/plain": "1"}, "metadata": {}}
    await hand.send(JobDisplayed(job.id, attempt=1, outputs=[show]), JobFailed(job.id, attempt=1))
    assert (await queue.list_outputs(job.id)).outputs == [show]
    clock.advance(9)
    queue.tick()
    await hand.lease()
    two = {**show, "data": {"text/plain": "2"}}
    await hand.send(JobDisplayed(job.id, attempt=2, outputs=[show, {"output_type": "clear_output", "wait": True}]))
    await hand.send(JobDisplayed(job.id, attempt=2, outputs=[two]))
    assert (await queue.list_outputs(job.id)).outputs == [two]
    assert (await queue.list_outputs(new_id())).outputs == []


async def test_outputs_up_to_an_event_leave_the_later_ones_to_its_followers(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(code="1"))
    one = {"output_type": "display_data", "data": {"text/plain": "1"}, "metadata": {}}
    two = {**one, "data": {"text/plain": "2"}}
    await hand.send(JobDisplayed(job.id, attempt=1, outputs=[one]))
    seq = queue.event_seq
    follower = queue.subscribe([f"jobs/{job.id}"], after=seq)
    await hand.send(JobDisplayed(job.id, attempt=1, outputs=[two]))
    assert (await queue.list_outputs(job.id, upto=seq)).outputs == [one]
    assert [event.data["outputs"] for event in await follower.next_batch()] == [[two]]
    follower.close()


async def test_waiting_job_is_told_its_place_in_line(queue):
    hand = await Hand(queue).register(slots=1)
    running = await hand.run(TRUE)
    jobs = [JobSpec(cmd=["true"], priority=priority) for priority in (0, 0, 5)]
    first, second, urgent = await queue.submit_many(jobs)
    await queue.submit(JobSpec(cmd=["true"]), owner="zoe")

    async def reason(job_id):
        return (await queue.get(job_id)).reason

    assert await reason(urgent) == "Next in line for a worker of kind local; its slot is busy."
    assert await reason(first) == "2nd in line for a worker of kind local; its slot is busy."
    assert await reason(second) == "3rd in line for a worker of kind local; its slot is busy."
    await queue.cancel_job(first)
    assert await reason(second) == "2nd in line for a worker of kind local; its slot is busy."
    await queue.cancel_job(running.id)


async def test_place_in_line_is_told_as_counted_one_by_one_and_far_back_not_counted_out(queue, monkeypatch):
    """Over lanes of several people and needs, with jobs that were canceled and such as wait for others."""
    monkeypatch.setattr(ready, "MAX_PLACE", 20)
    hand = await Hand(queue).register(slots=1, resources=Resources(cpus=4))
    await hand.run(TRUE)
    random = Random(7)  # the same jobs each time
    ids = []
    for _ in range(60):
        spec = JobSpec(
            cmd=["true"],
            priority=random.choice((0, 0, 1, 9)),
            resources={"cpus": random.choice((1, 2))},
            after=random.sample(ids, 1) if ids and random.random() < 0.2 else [],
            after_any=True,
        )
        ids.append(await queue.submit(spec, owner=random.choice(("ann", "bob", "zoe"))))
    await queue.submit(JobSpec(cmd=["true"], org_id="other", priority=50))
    for job_id in random.sample(ids, 6):
        await queue.cancel_job(job_id)
    live = queue._index.live
    line = sorted((live[one].place, one) for one in ids if one in live and not live[one].blockers)
    assert len(line) > 30
    for ahead, (_, job_id) in enumerate(line):
        assert queue._index.ready.place_of(live[job_id], live) == min(ahead, 20) + 1
    assert (await queue.get(line[19][1])).reason == "20th in line for a worker of kind local; its slot is busy."
    far = (await queue.get(line[-1][1])).reason
    assert far == "At least 20 jobs are before it in line for a worker of kind local; its slot is busy."


async def test_completed_with_files_stores_them_first(queue, tmp_path):
    hand = await Hand(queue).register()
    job = await hand.run()
    (tmp_path / "m.pkl").write_bytes(b"model")
    await queue.handle_worker_event(
        JobCompleted(job.id, artifacts=[WorkerArtifact("out/m.pkl", str(tmp_path / "m.pkl"))])
    )
    (artifact,) = await queue.list_artifacts(job.id)
    assert (artifact.name, artifact.size) == ("out/m.pkl", 5)
    assert queue.artifacts.read(artifact.sha256) == b"model"
    await queue.close()
    assert await queue.list_artifacts(job.id) == [artifact]


async def test_completed_with_a_file_that_is_gone_is_invalid_and_the_job_runs_on(queue, tmp_path):
    job = await (await Hand(queue).register()).run()
    with pytest.raises(InvalidSpec):
        await queue.handle_worker_event(JobCompleted(job.id, artifacts=[WorkerArtifact("x", str(tmp_path / "gone"))]))
    assert (await queue.get(job.id)).state is JobState.RUNNING


async def test_failure_with_retries_backs_off_then_fails(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(RETRIES)
    for failures, pause in ((1, 1.0), (2, 2.0)):
        await hand.send(JobFailed(job.id, attempt=failures, exit_code=3))
        waiting = await queue.get(job.id)
        assert (waiting.state, waiting.failures, waiting.exit_code) == ("retrying", failures, 3)
        assert waiting.not_before.timestamp() == clock.time() + pause
        assert "exit code 3" in waiting.reason
        queue.tick()
        assert await hand.lease() == []
        clock.advance(pause)
        queue.tick()
        (again,) = await hand.lease()
        assert (again.attempt, again.exit_code, again.reason, again.not_before) == (failures + 1, None, None, None)
    await hand.send(JobFailed(job.id, attempt=3, error={"ename": "E", "evalue": "boom", "traceback": ["tb"]}))
    failed = await queue.get(job.id)
    assert (failed.state, failed.failures, failed.error["traceback"]) == ("failed", 3, ["tb"])
    assert failed.reason == "E: boom."


async def test_back_off_grows_to_its_cap_and_survives_a_restart(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=100))
    pauses = []
    for attempt in range(1, 13):
        await hand.send(JobFailed(job.id, attempt=attempt))
        pauses.append((await queue.get(job.id)).not_before.timestamp() - clock.time())
        if attempt == 12:
            break
        clock.advance(300)
        queue.tick()
        assert await hand.lease()
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == 300
    await queue.close()
    await hand.register()
    assert await hand.lease() == []
    clock.advance(300)
    queue.tick()
    assert (await hand.lease())[0].attempt == 13


async def test_failure_that_is_final_uses_no_retry(queue):
    hand = await Hand(queue).register()
    job = await hand.run(RETRIES)
    await hand.send(JobFailed(job.id, attempt=1, final=True, reason="Out of memory."))
    failed = await queue.get(job.id)
    assert (failed.state, failed.reason) == ("failed", "Out of memory.")


async def test_loss_is_counted_apart_and_rerun_at_once_until_the_third(queue):
    hand = await Hand(queue).register()
    job = await hand.run(RETRIES)
    for losses in (1, 2):
        await hand.send(JobFailed(job.id, attempt=losses, lost=True, reason="It vanished."))
        waiting = await queue.get(job.id)
        assert (waiting.state, waiting.failures, waiting.losses) == ("retrying", 0, losses)
        (job,) = await hand.lease()
    await hand.send(JobFailed(job.id, attempt=3, lost=True, reason="It vanished."))
    dead = await queue.get(job.id)
    assert (dead.state, dead.losses) == ("failed", 3)
    assert "third loss" in dead.reason


async def test_loss_of_a_cell_is_a_failure_that_says_why(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(code="1", max_retries=2))
    await hand.send(JobFailed(job.id, attempt=1, lost=True, reason="It vanished."))
    dead = await queue.get(job.id)
    assert dead.state is JobState.FAILED
    assert dead.reason.startswith("It vanished. It was not run again")


async def test_cancel_pending_and_retrying_ends_at_once_and_repeats_its_answer(queue, clock):
    hand = await Hand(queue).register()
    retrying = await hand.run(RETRIES)
    await hand.send(JobFailed(retrying.id, attempt=1))
    for job_id in (await queue.submit(TRUE), retrying.id):
        assert await queue.cancel_job(job_id, by="ada") is CancelResult.CANCELED
        assert await queue.cancel_job(job_id) is CancelResult.CANCELED
        job = await queue.get(job_id)
        assert (job.state, job.canceled_by, job.reason) == ("canceled", "ada", "Canceled by ada.")
    clock.advance(9)
    queue.tick()
    assert await hand.lease(limit=9) == []
    assert await queue.cancel_job(new_id()) is CancelResult.NOT_FOUND
    assert await queue.cancel_job("no id") is CancelResult.NOT_FOUND


@pytest.mark.parametrize(
    "ending", [JobCompleted(""), JobFailed(""), JobFailed("", lost=True), JobCanceled("", reason="Gone.")]
)
async def test_cancel_running_wins_over_every_later_ending(queue, ending):
    import msgspec

    hand = await Hand(queue).register()
    job = await hand.run(RETRIES)
    assert await queue.cancel_job(job.id, by="ada") is CancelResult.CANCELING
    assert await queue.cancel_job(job.id) is CancelResult.CANCELING
    assert (await queue.get(job.id)).state is JobState.RUNNING
    await queue.close()
    await hand.register()
    assert (await queue.get(job.id)).cancel_requested_at is not None
    await hand.send(msgspec.structs.replace(ending, job_id=job.id, attempt=1))
    assert (await queue.get(job.id)).state is JobState.CANCELED
    assert await queue.cancel_job(job.id) is CancelResult.CANCELED


async def test_cancel_after_the_completion_was_committed_changes_nothing(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(JobCompleted(job.id, attempt=1))
    assert await queue.cancel_job(job.id) is CancelResult.ALREADY_FINISHED
    assert (await queue.get(job.id)).state is JobState.SUCCEEDED
    queue._index.recent.clear()
    assert await queue.cancel_job(job.id) is CancelResult.ALREADY_FINISHED


async def test_retry_of_active_or_unknown_job_is_refused(queue):
    with pytest.raises(JobNotFound):
        await queue.retry_job(new_id())
    with pytest.raises(WrongState):
        await queue.retry_job(await queue.submit(TRUE))


async def test_lease_that_runs_out_is_a_loss(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(RETRIES)
    clock.advance(59)
    assert await queue.expire_leases() == 0
    clock.advance(2)
    assert await queue.expire_leases() == 1
    waiting = await queue.get(job.id)
    assert (waiting.state, waiting.losses) == ("retrying", 1)
    assert "not heard of for 60 s" in waiting.reason
    assert (await hand.send(line(job, 0, 1)))[0].status == "stale"


async def test_lease_is_kept_by_heartbeats_of_its_holder_only(queue, clock):
    hand, thief = await Hand(queue).register(), await Hand(queue, "thief").register()
    job = await hand.run()
    ref = AttemptRef(job.id, 1)
    for _ in range(5):
        clock.advance(50)
        (verdict,) = (await queue.heartbeat("w", HeartbeatRequest([ref], free=3))).verdicts
        assert verdict.verdict == "ok"
        assert await queue.expire_leases() == 0
    assert {info.id: info.free for info in queue.workers()}["w"] == 3
    assert (await queue.heartbeat("thief", HeartbeatRequest([ref]))).verdicts[0].verdict == "stale"
    assert (await queue.heartbeat("w", HeartbeatRequest([AttemptRef(job.id, 2)]))).verdicts[0].verdict == "stale"
    assert await queue.renew_lease(job.id)
    assert not await queue.renew_lease(job.id, "thief")
    await queue.cancel_job(job.id)
    assert (await queue.heartbeat("w", HeartbeatRequest([ref]))).verdicts[0].verdict == "cancel"
    clock.advance(61)
    assert await queue.expire_leases() == 1
    assert (await queue.get(job.id)).state is JobState.CANCELED
    assert thief.id == "thief"


async def test_lease_renewed_while_it_was_about_to_end_goes_on(queue, clock, monkeypatch):
    job = await (await Hand(queue).register()).run()
    clock.advance(61)

    def heard_of_meanwhile(worker_id, job_id, attempt):
        queue._desk.renew(job_id, worker_id, attempt)
        return False

    monkeypatch.setattr(queue._desk, "_still_runs", heard_of_meanwhile)
    assert await queue.expire_leases() == 0
    assert (await queue.get(job.id)).state is JobState.RUNNING


async def test_lease_gets_a_full_term_of_grace_after_a_restart(queue, clock):
    job = await (await Hand(queue).register()).run()
    clock.advance(59)
    await queue.close()
    clock.advance(3600)
    await queue.open()
    clock.advance(59)
    assert await queue.expire_leases() == 0
    clock.advance(2)
    assert await queue.expire_leases() == 1
    assert (await queue.get(job.id)).state is JobState.FAILED


@pytest.mark.parametrize("restart", [False, True])
async def test_lease_of_a_worker_here_whose_attempt_is_locked_is_extended(queue, clock, tmp_path, restart):
    hand = await Hand(queue).register(folder=str(tmp_path), boot_id=datadir.boot_id())
    job = await hand.run()
    spool = datadir.spool_path(tmp_path, job.id, 1)
    spool.parent.mkdir()
    lock = datadir.FileLock(spool)
    assert lock.acquire()
    if restart:
        await queue.close()
        await queue.open()
    for _ in range(3):
        clock.advance(61)
        assert await queue.expire_leases() == 0
    assert (await queue.get(job.id)).state is JobState.RUNNING
    lock.release()
    clock.advance(61)
    assert await queue.expire_leases() == 1


async def test_worker_that_registers_again_goes_on_with_its_attempts(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(line(job, 0, 7))
    await queue.close()
    from zbrain_nb.model.protocol import WorkerInfo

    registered = await queue.register_worker(WorkerInfo(id="w"))
    assert registered.attempts == [AttemptRef(job.id, 1, 7)]
    assert registered.lease_ttl_secs == 60


async def test_unknown_worker_has_to_register(queue):
    hand = Hand(queue, "nobody")
    for call in (hand.lease(), hand.send(), queue.heartbeat("nobody", HeartbeatRequest())):
        with pytest.raises(WorkerNotFound):
            await call


async def test_event_without_numbers_means_the_present_attempt_and_the_next(queue):
    await (await Hand(queue).register()).run()
    (job,) = await queue.list()
    await queue.handle_worker_event(JobStarted(job.id, worker_id="w"))
    await queue.handle_worker_event(JobProgress(job.id, stdout="a\n"))
    await queue.handle_worker_event(JobProgress(job.id, stdout="a\n"))
    await queue.handle_worker_event(JobCompleted(job.id))
    await queue.handle_worker_event(JobCompleted(job.id))
    assert await lines(queue, job) == ["a", "a"]
    with pytest.raises(StaleAttempt):
        await queue.handle_worker_event(JobFailed(job.id))
    with pytest.raises(JobNotFound):
        await queue.handle_worker_event(JobFailed(new_id()))


async def test_event_in_process_with_a_gap_conflicts(queue):
    job = await (await Hand(queue).register()).run()
    with pytest.raises(Conflict):
        await queue.handle_worker_event(line(job, 3, 4))


async def test_started_on_a_job_that_nobody_leased_leases_it(queue):
    job_id = await queue.submit(TRUE)
    await queue.handle_worker_event(JobStarted(job_id, worker_id="own"))
    job = await queue.get(job_id)
    assert (job.state, job.attempt, job.worker_id) == ("running", 1, "own")
    assert await queue.acquire_lease("other") is None
    with pytest.raises(StaleAttempt):
        await queue.handle_worker_event(JobStarted(job_id, worker_id="other"))


async def test_resources_and_kinds_decide_who_gets_what(queue):
    big = await queue.submit(JobSpec(cmd=["true"], resources={"cpus": 8, "gpus": 1}, priority=9))
    small = await queue.submit(TRUE)
    docker = await queue.submit(JobSpec(cmd=["true"], worker="docker:python"))
    hand = await Hand(queue).register(resources=Resources(cpus=4))
    assert "none that is here has enough" in (await queue.get(big)).reason
    said = "Waiting for a worker of kind docker; none is here, only some of kind local."
    assert (await queue.get(docker)).reason == said
    assert [j.id for j in await hand.lease(limit=9, resources=Resources(cpus=4))] == [small]
    assert [j.id for j in await hand.lease(limit=9, kinds=["docker"])] == [docker]
    assert [j.id for j in await hand.lease(limit=9, resources=Resources(cpus=8, gpus=1))] == [big]


async def test_lease_of_several_stays_within_what_is_free(queue):
    await queue.submit_many([JobSpec(cmd=["true"], resources={"cpus": 2})] * 3)
    hand = await Hand(queue).register()
    assert len(await hand.lease(limit=9, resources=Resources(cpus=5))) == 2
    assert len(await hand.lease(limit=9, resources=Resources(cpus=1.5))) == 0


async def test_ready_jobs_go_by_priority_then_age(queue):
    ids = await queue.submit_many(
        JobSpec(cmd=["true"], priority=p, org_id=org) for p, org in ((0, "a"), (5, "b"), (0, "b"), (5, "a"))
    )
    await queue.close()
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == [ids[1], ids[3], ids[0], ids[2]]


async def test_acquire_lease_filters_by_org(queue):
    job_id = await queue.submit(JobSpec(cmd=["true"], org_id="lab"))
    assert await queue.acquire_lease("w", "else") is None
    assert await queue.acquire_lease("w", "lab", ["docker"]) is None
    assert await queue.acquire_lease("w", "lab", resources={"cpus": 0.5}) is None
    assert (await queue.acquire_lease("w", "lab", resources={"cpus": 1})).id == job_id
    assert [info.id for info in queue.workers()] == ["w"]


async def test_event_that_does_not_hold_leaves_the_other_jobs_of_its_batch_alone(queue):
    hand = await Hand(queue).register()
    one, two = await hand.run(), await hand.run()
    bad = {"name": "x", "sha256": "odd", "size": 1}
    results = await hand.send(JobCompleted(one.id, attempt=1, artifacts=[bad]), JobCompleted(two.id, attempt=1))
    assert [result.status for result in results] == ["invalid", "ok"]
    assert (await queue.get(two.id)).state is JobState.SUCCEEDED


async def test_event_with_a_huge_exit_code_keeps_nothing_from_being_folded(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    (result,) = await hand.send(JobFailed(job.id, attempt=1, exit_code=1180591620717411303424))
    assert (result.status, "exit_code" in result.message) == ("invalid", True)
    await hand.send(JobFailed(job.id, attempt=1, exit_code=-(2**31)))
    await queue.fold()
    assert (await queue.storage.get_job(job.id)).exit_code == -(2**31)


async def test_progress_is_dated_from_the_first_step_of_its_attempt_on(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run()

    async def step(seq, fraction, note=None):
        clock.advance(10)
        told = {"fraction": fraction, "note": note}
        await hand.send(JobProgress(job.id, attempt=1, after=seq - 1, seq=seq, progress=told))
        found = (await queue.get(job.id)).progress
        since = found["since"]
        return found["at"], since["fraction"], since["at"]

    first = (await step(1, 0.2))[0]
    assert await step(2, 0.5) == (first + 10, 0.2, first)
    assert await step(3, 0.5, "the same") == (first + 10, 0.2, first)
    assert await step(4, 0.1) == (first + 30, 0.1, first + 30)  # another bar


async def test_progress_beyond_all_numbers_is_all_of_it(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    assert (await hand.send(JobProgress(job.id, attempt=1, progress=10**400)))[0].status == "ok"
    assert (await queue.get(job.id)).progress["fraction"] == 1.0


async def test_numbers_that_do_not_hold_are_answered_with_what_is_committed(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(line(job, 0, 1))
    (result,) = await hand.send(JobStarted(job.id, attempt=1, seq=2**63))
    assert (result.status, result.high) == ("invalid", 1)


@pytest.mark.parametrize("worker_id", ["", "a/b c", "..", 5])
async def test_registration_of_an_id_that_no_route_can_address_is_invalid_in_process_too(queue, worker_id):
    with pytest.raises(InvalidSpec):
        await queue.register_worker(WorkerInfo(id=worker_id))
    assert queue.workers() == []


async def test_count_of_log_lines_of_a_live_job_asks_no_store(queue, monkeypatch):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(line(job, 0, 1))
    stored = await queue.storage.read(queries.positions, [job.id])
    monkeypatch.setattr(queue.storage, "read", None)
    assert await queue.count_log_lines(job.id) == stored[1][job.id] == 1


async def test_attempt_out_of_all_bounds_is_invalid(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    for attempt in (-1, 2**63):
        assert (await hand.send(JobStarted(job.id, attempt=attempt)))[0].status == "invalid"
