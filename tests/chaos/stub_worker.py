"""A remote worker that runs nothing: it posts lines and an ending for each job, and notes what was acknowledged.

``python -m tests.chaos.stub_worker DATA NOTES`` is killed without warning and started again. What it says is a
function of the job, the attempt and the number, so that a new process goes on where the queue says the old one
came to. It imports only the standard library, to be there at once.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

WORKER_ID = "stub"
LINES = 6
SLOTS = 16


def line(job_id: str, attempt: int, number: int) -> str:
    """Return what an attempt says under a number; long, so that the store has something to write."""
    return f"{job_id} {attempt} {number} " + "x" * 200


def ends_with(job_id: str, attempt: int) -> str:
    """Return how an attempt ends: one job in eight fails at first."""
    return "failed" if attempt == 1 and job_id[-1] in "ef" else "completed"


class Stub:
    """See the module."""

    def __init__(self, data: Path, notes: Path) -> None:
        self.data = data
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.running: dict[tuple[str, int], int] = {}
        self.connection: http.client.HTTPConnection | None = None
        self.token = ""
        self.requests = itertools.count()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Post to the host; wait for it while it is away, but not with a request that it may have taken."""
        if self.connection is None:
            owner = json.loads((self.data / "owner.json").read_text())
            address = urllib.parse.urlsplit(owner["url"])
            self.connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
            self.token = owner["token"]
        try:
            self.connection.request(
                "POST", f"/zbrain/api/{path}", json.dumps(body), {"Authorization": f"token {self.token}"}
            )
            answer = self.connection.getresponse()
            return answer.status, json.loads(answer.read())
        except BaseException:
            self.connection.close()
            self.connection = None
            raise

    def run(self) -> None:
        """Register and work, again and again."""
        while True:
            try:
                self.register()
                while self.work():
                    pass
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.02)  # the host is away; there is no event for its return

    def register(self) -> None:
        status, body = self.post("workers", {"id": WORKER_ID, "kind": "stub", "slots": SLOTS})
        if status == 201:
            self.running = {(ref["job_id"], ref["attempt"]): ref["high"] for ref in body["attempts"]}

    def work(self) -> bool:
        """Lease, say a little of each attempt, note what was acknowledged; return False if nobody knows us."""
        free = SLOTS - len(self.running)
        wait_secs = 0.0 if self.running else 0.5
        request = {"request_id": f"{os.getpid()}-{next(self.requests)}", "limit": free, "wait_secs": wait_secs}
        status, answer = self.post(f"workers/{WORKER_ID}/leases", request)
        if status != 200:
            return False
        self.running |= {(lease["job"]["id"], lease["job"]["attempt"]): 0 for lease in answer["leases"]}
        if not self.running:
            return True
        refs = [{"job_id": job_id, "attempt": attempt} for job_id, attempt in self.running]
        status, _ = self.post(f"workers/{WORKER_ID}/heartbeat", {"attempts": refs})
        if status != 200:
            return False
        events = [event for key, high in self.running.items() for event in self.events(*key, high)]
        status, answer = self.post(f"workers/{WORKER_ID}/events", {"events": events})
        if status not in (200, 409):
            return False
        self.note(answer["results"] if status == 200 else answer["error"]["results"])
        return True

    def events(self, job_id: str, attempt: int, high: int) -> list[dict[str, Any]]:
        """Return the next two messages of an attempt."""
        found = []
        for number in range(high + 1, min(high + 2, LINES + 1) + 1):
            head = {"job_id": job_id, "attempt": attempt, "after": number - 1, "seq": number}
            if number <= LINES:
                found.append({"type": "logged", "lines": [["stdout", 1.0, line(job_id, attempt, number)]], **head})
            else:
                found.append({"type": ends_with(job_id, attempt), **head})
        return found

    def note(self, results: list[dict[str, Any]]) -> None:
        """Write down, in one go, how far each attempt was acknowledged."""
        noted = []
        for result in results:
            key = result["job_id"], result["attempt"]
            if result["status"] == "ok":
                self.running[key] = result["high"]
                noted.append(f"{key[0]} {key[1]} {result['high']}\n")
            elif result["status"] == "gap":
                self.running[key] = result["high"]
            if result["status"] not in ("ok", "gap") or self.running[key] > LINES:
                del self.running[key]
        os.write(self.notes, "".join(noted).encode())


if __name__ == "__main__":
    Stub(Path(sys.argv[1]), Path(sys.argv[2])).run()
