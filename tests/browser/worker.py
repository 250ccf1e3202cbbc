"""A worker moved by hand, over HTTP, so that a page can be shown any job without waiting for one."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import httpx


class HandWorker:
    """Submits jobs and says what becomes of them, as their worker.

    Parameters
    ----------
    root : str
        The server's root, ending in ``/``.
    token : str
        Opens its routes.
    name : str
        The worker's id, and its kind: no other takes its jobs.
    """

    def __init__(self, root: str, token: str, name: str = "hand", slots: int = 4) -> None:
        self.name = name
        self.http = httpx.Client(
            base_url=f"{root}zbrain/api/", headers={"Authorization": f"token {token}"}, trust_env=False, timeout=60
        )
        self._seqs: dict[str, int] = {}
        self.post("workers", {"id": name, "kind": name, "slots": slots, "free": slots, "runs_others": True})

    def close(self) -> None:
        self.http.close()

    def post(self, path: str, body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code in (200, 201), answer.text[:500]
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text[:500]
        return answer.json()

    def submit(self, count: int = 1, **spec: Any) -> list[str]:
        """Submit jobs that no worker takes until `start`."""
        fields = {"cmd": ["true"], "worker": self.name, "max_retries": 0, **spec}
        if "code" in spec:
            del fields["cmd"]
        return [job["id"] for job in self.post("jobs", [fields] * count)]

    def start(self, count: int = 1) -> list[str]:
        """Lease as many, and say that they started; return their ids."""
        request = {"request_id": str(time.monotonic_ns()), "limit": count, "wait_secs": 10}
        ids = [lease["job"]["id"] for lease in self.post(f"workers/{self.name}/leases", request)["leases"]]
        assert len(ids) == count
        for job_id in ids:
            self.send(job_id, "started", worker_id=self.name)
        return ids

    def send(self, job_id: str, kind: str, **fields: Any) -> None:
        """Say one event of a running job's first attempt."""
        seq = self._seqs.get(job_id, 0) + 1
        self._seqs[job_id] = seq
        event = {"type": kind, "job_id": job_id, "attempt": 1, "after": seq - 1, "seq": seq, **fields}
        (result,) = self.post(f"workers/{self.name}/events", {"events": [event]})["results"]
        assert result["status"] == "ok", result

    def log(self, job_id: str, *lines: str, stream: str = "stdout") -> None:
        self.send(job_id, "logged", lines=[[stream, time.time(), line] for line in lines])

    def display(self, job_id: str, *data: dict[str, Any]) -> None:
        outputs = [{"output_type": "display_data", "data": each, "metadata": {}} for each in data]
        self.send(job_id, "displayed", outputs=outputs)

    def blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        assert self.http.put(f"blobs/{digest}", content=data).status_code == 201
        return digest
