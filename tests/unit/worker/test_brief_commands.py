"""Commands in slots that are used again: each is on its own all the same, whatever others before it did."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import Brief, eventually, pids_with
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, JobProgress, LogStream

pytestmark = pytest.mark.anyio
STUBBORN = "trap '' INT TERM; setsid sh -c 'trap \"\" INT TERM; sleep 1000' & echo ready; sleep 1000"


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_brief_commands_share_a_process_and_nothing_else(brief: Brief, tmp_path: Path) -> None:
    leave = 'echo $PPID; cat "$ZBRAIN_INPUT"; echo x > "$ZBRAIN_ARTIFACTS/x"; echo 7 > "$ZBRAIN_OUTPUT"; exit 3'
    look = 'echo $PPID $(ls "$ZBRAIN_ARTIFACTS" | wc -l) $(cat "$ZBRAIN_INPUT"); test ! -e "$ZBRAIN_OUTPUT"'
    first = await brief.run("sh", "-c", leave, input={"n": 1}, cwd=str(tmp_path))
    second = await brief.run("sh", "-c", look, cwd=str(tmp_path))
    third = await brief.run("sh", "-c", 'echo $PPID; echo 7 > "$ZBRAIN_OUTPUT"; echo err >&2', cwd=str(tmp_path))
    runner = first.lines()[0]
    assert first.lines() == [runner, '{"n":1}']
    assert isinstance(first.ending, JobFailed)
    assert (first.ending.exit_code, first.ending.reason) == (3, "Exited with code 3.")
    assert [artifact["name"] for artifact in first.ending.artifacts] == ["x"]
    assert second.lines() == [f"{runner} 0 {{}}"]
    assert isinstance(second.ending, JobCompleted), second.ending
    assert isinstance(third.ending, JobCompleted)
    assert (third.lines(LogStream.STDOUT), third.lines(LogStream.STDERR), third.ending.output) == ([runner], ["err"], 7)
    assert len(brief.sessions) == 1


async def test_command_that_changes_its_input_changes_it_for_no_other(brief: Brief, tmp_path: Path) -> None:
    await brief.run("sh", "-c", 'echo 1 > "$ZBRAIN_INPUT"', cwd=str(tmp_path))
    job = await brief.run("sh", "-c", 'cat "$ZBRAIN_INPUT"', cwd=str(tmp_path))
    assert job.lines() == ["{}"]


async def test_brief_command_without_cwd_has_an_empty_folder_each_time(brief: Brief) -> None:
    for _ in range(2):
        job = await brief.run("sh", "-c", "ls -A | wc -l; touch left")
        assert [line.strip() for line in job.lines()] == ["0"]


async def test_brief_command_that_removes_its_folder_harms_neither_itself_nor_the_next(brief: Brief) -> None:
    first = await brief.run("sh", "-c", 'rmdir "$PWD"; echo $PPID')
    second = await brief.run("sh", "-c", 'rm -r "$PWD/.."; echo $PPID')
    third = await brief.run("sh", "-c", "ls -A | wc -l; echo $PPID")
    for job in (first, second, third):
        assert isinstance(job.ending, JobCompleted), (job.ending, job.lines(None))
    assert first.lines() == second.lines()
    assert [line.strip() for line in third.lines()] == ["0", *first.lines()]


async def test_brief_command_whose_folder_cannot_be_made_fails_with_a_sentence(brief: Brief) -> None:
    await brief.run("sh", "-c", 'cd ..; rm -r "$OLDPWD"; d=$PWD; cd ..; rmdir "$d"; touch "$d"')
    job = await brief.run("true")
    assert job.ending.reason == "Its folders cannot be made on the worker: Not a directory."
    assert job.ending.exit_code == 127


async def test_brief_commands_leave_no_files_in_the_folders_they_ran_in(brief: Brief) -> None:
    jobs = [brief.submit("sh", "-c", "echo x > left.tmp; pwd") for _ in range(20)]
    jobs.append(brief.submit("sh", "-c", "echo x > left.tmp; pwd; kill -9 $PPID"))
    await brief.station.until(lambda: all(job.ended for job in jobs))
    await brief.run("true")
    assert len({line for job in jobs for line in job.lines()}) == 21
    assert brief.sessions
    assert not list(brief.station.folder.runs.rglob("left.tmp"))


async def test_output_of_a_brief_command_is_whole_after_one_that_made_its_pipe_non_blocking(brief: Brief) -> None:
    script = "import os\nos.set_blocking(1, False); os.set_blocking(2, False); print(os.getppid())"
    look = "import os\nprint(os.getppid(), os.get_blocking(1), os.get_blocking(2))"
    first = await brief.run(sys.executable, "-c", script)
    second = await brief.run(sys.executable, "-c", look)
    assert second.lines() == [f"{first.lines()[0]} True True"]


async def test_what_a_brief_command_leaves_running_is_gone_before_the_next(brief: Brief, tmp_path: Path) -> None:
    first = await brief.run("sh", "-c", "trap '' TERM; setsid sleep 1000 & echo done", cwd=str(tmp_path))
    assert first.lines() == ["done"]
    assert not pids_with(f"ZBRAIN_JOB_ID={first.job.id}")
    second = await brief.run("sh", "-c", "echo next", cwd=str(tmp_path))
    assert second.lines() == ["next"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"cmd": ["no-such-program"]}, "The program 'no-such-program' was not found on the worker."),
        ({"cmd": ["true"], "cwd": "/no/such folder"}, "The folder /no/such folder does not exist on the worker."),
        ({"cmd": ["/etc"]}, "The program '/etc' cannot be started: Permission denied."),
    ],
)
async def test_brief_command_that_cannot_start_fails_with_a_sentence(
    brief: Brief, spec: dict[str, Any], reason: str
) -> None:
    job = await brief.run(**spec)
    assert (job.ending.reason, job.ending.exit_code) == (reason, 127)


async def test_brief_command_ended_by_a_signal_says_so(brief: Brief) -> None:
    job = await brief.run("sh", "-c", "kill -9 $$")
    assert (job.ending.exit_code, job.ending.reason, job.ending.lost) == (-9, "Killed by SIGKILL.", False)


async def test_cancel_interrupts_one_command_and_the_next_runs(brief: Brief, tmp_path: Path) -> None:
    script = "import time\ntry:\n print('ready', flush=True); time.sleep(100)\nexcept KeyboardInterrupt: print('tidy')"
    job = brief.submit(sys.executable, "-c", script, cwd=str(tmp_path))
    await brief.station.until(lambda: job.lines() == ["ready"])
    brief.station.queue.cancel(job)
    await brief.station.until(lambda: job.ended)
    assert isinstance(job.ending, JobCanceled)
    assert job.lines() == ["ready", "tidy"]
    assert (await brief.run("echo", "next", cwd=str(tmp_path))).lines() == ["next"]


async def test_cancel_of_a_silent_command_is_heard_at_once(brief: Brief) -> None:
    """Nothing else wakes its foreman."""
    job = brief.submit("sleep", "1000")
    named = brief.station.folder.spool_path(job.job.id, 1)
    await eventually(named.exists)
    brief.station.queue.cancel(job)
    await brief.station.until(lambda: job.ended, 4)  # it would look by itself after 5 s
    assert isinstance(job.ending, JobCanceled)


async def test_timeout_ends_the_whole_tree_of_a_brief_command(brief: Brief) -> None:
    stubborn = "setsid sh -c 'trap \"\" INT TERM; sleep 1000' & exec sleep 1000"
    job = await brief.run("sh", "-c", stubborn, timeout_secs=0.3)
    assert job.ending.reason == "Ran over its limit of 0.3 s."
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")


async def test_progress_of_brief_commands_goes_to_each_even_after_garbage(brief: Brief, tmp_path: Path) -> None:
    garbage = await brief.run("sh", "-c", "echo 'no frame at all' > $ZBRAIN_EVENTS; echo ok", cwd=str(tmp_path))
    assert garbage.lines() == ["ok"]
    assert "something else than events" in garbage.lines(LogStream.SYSTEM)[0]
    script = "import zbrain_nb; zbrain_nb.progress(1, 1, 'all of it')"
    job = await brief.run(sys.executable, "-c", script, cwd=str(tmp_path))
    steps = [event.progress for event in job.events if isinstance(event, JobProgress)]
    assert steps == [{"fraction": 1.0, "note": "all of it"}]
    assert not job.lines(LogStream.SYSTEM)


async def test_brief_command_whose_runner_is_killed_is_told_as_killed_and_leaves_nothing(brief: Brief) -> None:
    job = brief.submit("sh", "-c", f"echo $$; {STUBBORN}")
    await brief.station.until(lambda: job.lines()[1:] == ["ready"])
    os.kill(_parent(int(job.lines()[0])), signal.SIGKILL)
    await brief.station.until(lambda: job.ended)
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")
    assert (job.ending.reason, job.ending.lost) == ("Killed by SIGKILL.", False)


@pytest.mark.parametrize("generation", [1, 2], ids=["supervisor", "foreman"])
async def test_lost_attempt_is_told_only_when_its_processes_are_gone(brief: Brief, generation: int) -> None:
    station = brief.station
    limits = {"grace_secs": 1} if generation == 1 else {}  # which no reused slot heeds
    job = brief.submit("sh", "-c", f"echo $$; {STUBBORN}", limits=limits)
    await station.until(lambda: job.lines()[1:] == ["ready"])
    victim = int(job.lines()[0])
    for _ in range(generation):
        victim = _parent(victim)
    spawner = station.spawner
    assert spawner is not None
    os.kill(spawner, signal.SIGSTOP)  # it is the spawner that kills what is left
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(TimeoutError):
        await station.until(lambda: job.ended, 0.7)
    os.kill(spawner, signal.SIGCONT)
    await station.until(lambda: job.ended)
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")
    assert job.ending.lost
    await eventually(lambda: not station.files(job))


async def test_killed_foreman_loses_only_what_had_begun(brief: Brief, tmp_path: Path) -> None:
    killer = brief.submit("sh", "-c", f"echo $$; {STUBBORN}", cwd=str(tmp_path))
    others = [brief.submit("sh", "-c", f"touch {number}", cwd=str(tmp_path)) for number in range(12)]
    await brief.station.until(lambda: killer.lines()[1:] == ["ready"])
    os.kill(_parent(_parent(int(killer.lines()[0]))), signal.SIGKILL)
    await brief.station.until(lambda: all(job.ended for job in (killer, *others)))
    assert killer.ending.lost
    assert not killer.ending.unstarted
    for number, job in enumerate(others):
        ran = (tmp_path / str(number)).exists()
        assert ran == isinstance(job.ending, JobCompleted)
        assert ran or job.ending.unstarted
