"""The notifier: follows the ends of an org's jobs and has each told to its receiver.

A notice is told at least once, in the order of the ends. Where it stands is kept in the data directory, so a host that
is started again goes on from there. A receiver that does not answer is tried again, each time later; then the notice is
given up. Of ends that are old by then, or too many for a minute, the newest is told for all: it says how many others
there were, and waits for no further end.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import msgspec

from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.events import Event
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.webhooks import Webhook, Webhooks
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.server.webhooks.posting import Poster, Undelivered

log = logging.getLogger(__name__)
#: Pauses before each further try; together about 13 minutes.
RETRY_SECS = (1.0, 5.0, 30.0, 120.0, 600.0)
#: Nobody needs to be told of each that ended so long ago.
MAX_AGE_SECS = 3600.0
#: Not more than so many in a minute.
MOST_A_MINUTE = 30
MINUTE_SECS = 60.0
#: The store could not be read: until it is asked again.
PAUSE_SECS = 5.0
#: How far it is, with nothing told meanwhile, is written no more often.
KEEP_SECS = 1.0
_MOST_CHARS = 500
_ABOUT = ("id", "org_id", "owner", "state", "attempt", "exit_code", "created_at", "started_at", "finished_at")
_KINDS = {JobState.SUCCEEDED: "job_completed", JobState.FAILED: "job_failed", JobState.CANCELED: "job_canceled"}
#: All ends are followed, wanted or not: each that is seen need not be read again after a restart.
_ENDS = frozenset(_KINDS.values())


@dataclass
class _Told:
    """How far an org's receiver was told.

    Attributes
    ----------
    seq : int
        Of the last event that was looked at.
    left_out : int
        Ends up to there that it was told nothing of, and that no notice has counted; `held` is not among them.
    held : Event or None
        The newest end that was passed over, which is told for all of those.
    """

    seq: int
    left_out: int = 0
    held: Event | None = None

    def hold(self, event: Event) -> None:
        """Pass over an end for now."""
        self.left_out += self.held is not None
        self.held = event

    def as_json(self) -> list[int]:
        """Return what is kept: from before what is held on, events are looked at again."""
        return [self.seq if self.held is None else self.held.seq - 1, self.left_out]


class Notifier:
    """Tells the receivers of all orgs.

    Parameters
    ----------
    queue : JobQueue
        Whose events are followed.
    webhooks : Webhooks
        Who is told.
    place : Path
        The file that says how far each org's receiver was told.
    """

    def __init__(self, queue: JobQueue, webhooks: Webhooks, place: Path) -> None:
        self._queue = queue
        self._webhooks = webhooks
        self._place = place
        self._poster = Poster(webhooks.networks)
        self._tasks: list[asyncio.Task[None]] = []
        self._told = _read(place)
        self._kept_at = 0.0

    def start(self) -> None:
        """Begin to follow."""
        if not self._tasks:
            self._tasks = [asyncio.ensure_future(self._follow(*each)) for each in self._webhooks.orgs.items()]
            for task in self._tasks:
                task.add_done_callback(_say_if_broken)

    async def stop(self) -> None:
        """Cease to follow; a notice that is on its way is told again by the next host."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # what broke one was logged when it broke
        if self._tasks:
            self._keep()
        self._tasks = []
        await self._poster.close()

    async def _follow(self, org: str, hook: Webhook) -> None:
        wanted = {_KINDS[JobState(state)] for state in hook.states}
        sent: deque[float] = deque(maxlen=MOST_A_MINUTE)
        told = self._told.setdefault(org, _Told(self._queue.event_seq))
        coming: asyncio.Future[list[Event]] | None = None
        async with self._queue.subscribe([f"orgs/{org}"], told.seq, _ENDS) as events:
            try:
                while True:
                    coming = coming or asyncio.ensure_future(events.next_batch())
                    await asyncio.wait([coming], timeout=None if told.held is None else max(0.0, _pause_of(sent)))
                    if not coming.done() and told.held is not None:
                        await self._tell_next(hook, told, told.held, sent)
                        continue
                    done, coming = coming, None
                    try:
                        batch = done.result()
                    except Unavailable as error:
                        await _pause("events cannot be read", org, error)
                        continue
                    if not batch:
                        return
                    for event in batch:
                        if event.kind in wanted and _took(event) >= hook.after_secs:
                            if time.time() - event.ts > MAX_AGE_SECS or _pause_of(sent) > 0:
                                told.hold(event)
                            else:
                                await self._tell_next(hook, told, event, sent)
                        told.seq = event.seq
                    if time.monotonic() - self._kept_at > KEEP_SECS:
                        self._keep()
            finally:
                if coming is not None:
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)  # nobody asks any more what it brings

    async def _tell_next(self, hook: Webhook, told: _Told, event: Event, sent: deque[float]) -> None:
        """Tell of one end, and how many others this stands for."""
        sent.append(time.time())
        others = told.left_out + (told.held is not None and told.held is not event)
        has_it = await self._tell(hook, event, others)
        told.left_out, told.held = 0 if has_it else others + 1, None
        told.seq = max(told.seq, event.seq)
        self._keep()

    async def _tell(self, hook: Webhook, event: Event, left_out: int) -> bool:
        """Tell of one end, trying again for a while; return whether the receiver has it."""
        about = {"job": event.job_id, "seq": event.seq}
        while True:
            try:
                job = await self._queue.get(event.job_id)
                break
            except Unavailable as error:
                await _pause("job cannot be read", event.job_id, error)
        if job is None:
            return False  # it is kept no more
        body = _body(event, job, left_out)
        for pause in (*RETRY_SECS, None):
            try:
                await self._poster.post(hook.url, body, sign(hook.secret, body, event.seq))
            except Undelivered as error:
                if pause is None or error.final:
                    log.error("A webhook's notice is given up.", extra={**about, "why": str(error)})
                    return False
                log.warning("webhook tried again", extra={**about, "why": str(error), "pause_secs": pause})
                await asyncio.sleep(pause)
            else:
                log.info("webhook told", extra=about)
                return True
        return False

    def _keep(self) -> None:
        """Keep how far receivers were told; what is lost with the power is told twice."""
        self._kept_at = time.monotonic()
        fresh = self._place.with_suffix(".new")
        try:
            fresh.write_text(json.dumps({org: told.as_json() for org, told in self._told.items()}))
            fresh.replace(self._place)
        except OSError as error:
            log.warning("It cannot be kept how far webhooks were told.", extra={"why": str(error)})


def _pause_of(sent: deque[float]) -> float:
    """Return for how many seconds nothing may be sent, because so much was; 0 or less is none."""
    return sent[0] + MINUTE_SECS - time.time() if len(sent) == sent.maxlen else 0.0


async def _pause(what: str, subject: str, error: Unavailable) -> None:
    """Wait for a store that could not be read."""
    log.warning(what, extra={"subject": subject, "why": error.message})
    await asyncio.sleep(PAUSE_SECS)


def _say_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("An org's webhook is told nothing more until the host is started again.", exc_info=error)


def sign(secret: str, body: bytes, seq: int) -> dict[str, str]:
    """Return the headers of a notice: what proves the sender, and when it was sent."""
    now = int(time.time())
    digest = hmac.new(secret.encode(), b"%d." % now + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "User-Agent": "zbrain",
        "ZBrain-Delivery": str(seq),
        "ZBrain-Signature": f"t={now},v1={digest}",
    }


def _body(event: Event, job: Job, left_out: int) -> bytes:
    last = _last_line(job)
    name = _plain(job.name)
    said = f"{name} {'was canceled' if job.state is JobState.CANCELED else job.state}{f': {last}' if last else '.'}"
    about = {
        name: getattr(job, name)
        for name in (
            "id",
            "org_id",
            "owner",
            "state",
            "attempt",
            "exit_code",
            "created_at",
            "started_at",
            "finished_at",
        )
    }
    return msgspec.json.encode(
        {"event": event.kind, "seq": event.seq, "left_out": left_out, "text": said, "error": last}
        | {"job": about | {"name": name, "reason": _plain(job.reason or "") or None}}
    )


def _last_line(job: Job) -> str | None:
    """Return the last line of what a job raised, else why it ended so; None if it succeeded."""
    if job.state is JobState.SUCCEEDED:
        return None
    error = job.error or {}
    raised = ": ".join(filter(None, (str(error.get("ename") or ""), str(error.get("evalue") or "").strip())))
    return _plain((raised.splitlines() or [""])[-1] or job.reason or "") or None


def _plain(text: str) -> str:
    """Return one line of printable text."""
    return "".join(char if char.isprintable() else " " for char in text)[:_MOST_CHARS].strip()


def _took(event: Event) -> float:
    """Return how many seconds after its submit, which its id tells (UUIDv7), a job ended; never less than 0."""
    return max(0.0, event.ts - (uuid.UUID(event.job_id).int >> 80) / 1000)


def _read(place: Path) -> dict[str, _Told]:
    try:
        found = msgspec.json.decode(place.read_bytes(), type=dict[str, int | tuple[int, int]])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("It cannot be read how far webhooks were told; they go on from now.", extra={"why": str(error)})
        return {}
    # A number alone was written by versions that did not keep what was left out.
    return {org: _Told(*([kept] if isinstance(kept, int) else kept)) for org, kept in found.items()}
