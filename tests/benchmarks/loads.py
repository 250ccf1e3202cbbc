"""Loads and probes that benchmarks run as processes of their own: ``python -m tests.benchmarks.loads ROLE JSON``.

Each role prints one line of JSON when it is done.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

CHUNK = 250
LINE = "epoch 3 step 1234: loss=0.12345 accuracy=0.9876 lr=0.0010"


class Load:
    """A role under way in a process of its own."""

    def __init__(self, role: str, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.loads", role, json.dumps(options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self, timeout: float = 120) -> dict[str, Any]:
        """Return what the role measured."""
        out, _ = self.process.communicate(timeout=timeout)
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


class Api:
    """One kept-alive connection to a host or its relay."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._root = f"{parts.path}zbrain/api/"
        self._headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}

    def post(self, path: str, body: bytes | Any) -> Any:
        """Return the decoded answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request("POST", self._root + path, data, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status in (200, 201), text[:500]
        return json.loads(text)


def percentile(values: list[float], part: float) -> float:
    """Return a percentile of values that need not be in order."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def lease_jobs(api: Api, worker: str, count: int) -> list[str]:
    """Register a worker, and return the ids of jobs that it holds."""
    api.post("workers", {"id": worker, "kind": worker, "slots": count})
    api.post("jobs", [{"cmd": ["true"], "worker": worker} for _ in range(count)])
    answer = api.post(f"workers/{worker}/leases", {"request_id": str(time.time()), "limit": count, "wait_secs": 10})
    ids = [lease["job"]["id"] for lease in answer["leases"]]
    assert len(ids) == count, f"{len(ids)} leases of {count}"
    return ids


def lines(
    url: str, token: str, jobs: dict[str, list[str]], rate: float, secs: float, seqs: dict[str, int] | None = None
) -> dict[str, Any]:
    """Send lines of running jobs as their workers do: each one batch at a time, of what has gathered."""
    chunk = ",".join([f'["stdout",{time.time():.6f},"{LINE}"]'] * CHUNK)
    sent = dict.fromkeys(jobs, 0)
    seqs = seqs or dict.fromkeys(jobs, 0)  # the last number of each worker's attempts
    begun = time.perf_counter()

    def send(worker: str) -> None:
        api, ids, seq = Api(url, token), jobs[worker], seqs[worker]
        share = rate / len(jobs) / len(ids)  # of one job
        done = 0
        while (now := time.perf_counter() - begun) < secs:
            chunks = min(20, int((now * share - done) / CHUNK))
            if chunks < 1:
                time.sleep(0.002)
                continue
            many = ",".join([chunk] * chunks)
            events = [
                f'{{"type":"logged","job_id":"{i}","attempt":1,"after":{seq},"seq":{seq + 1},"lines":[{many}]}}'
                for i in ids
            ]
            seq += 1
            seqs[worker] = seq
            answer = api.post(f"workers/{worker}/events", f'{{"events":[{",".join(events)}]}}'.encode())
            assert all(result["status"] == "ok" for result in answer["results"]), answer
            done += chunks * CHUNK
            sent[worker] += chunks * CHUNK * len(ids)

    threads = [threading.Thread(target=send, args=(worker,)) for worker in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"lines": sum(sent.values()), "secs": time.perf_counter() - begun, "seqs": seqs}


def drip(url: str, token: str, worker: str, job: str, rate: float, secs: float, gather: float) -> dict[str, Any]:
    """Send lines one by one as they are due, those that gather meanwhile in one batch; each says when it was due."""
    api, seq, count = Api(url, token), 0, 0
    begun = time.time()
    batches = 0
    while count < rate * secs:
        due = int((time.time() - begun) * rate)
        if due <= count:
            time.sleep(max(0.0, begun + (count + 1) / rate - time.time()))
            continue
        time.sleep(gather)
        due = int((time.time() - begun) * rate)
        batch = [["stdout", begun + n / rate, LINE] for n in range(count + 1, due + 1)]
        event = {"type": "logged", "job_id": job, "attempt": 1, "after": seq, "seq": seq + 1, "lines": batch}
        api.post(f"workers/{worker}/events", {"events": [event]})
        seq, count, batches = seq + 1, due, batches + 1
    return {"lines": count, "secs": time.time() - begun, "batches": batches}


def follow(url: str, token: str, topics: list[str], *, upto: int, timed: bool, idle: float = 5.0) -> dict[str, Any]:
    """Read events until `upto` lines have come, or none for a while."""
    from websockets.asyncio.client import connect

    async def run() -> dict[str, Any]:
        count, frames, lagged, size, delays, last = 0, 0, 0, 0, [], 0.0
        address = f"ws{url.removeprefix('http')}zbrain/api/events?topics={','.join(topics)}"
        headers = {"Authorization": f"token {token}"}
        async with connect(address, additional_headers=headers, compression=None, max_size=None) as socket:
            print("ready", flush=True)
            while count < upto:
                try:
                    frame = await asyncio.wait_for(socket.recv(decode=False), idle if count else 60)
                except TimeoutError:
                    break
                last = time.time()
                frames += 1
                size += len(frame)
                lagged += frame.count(b'"kind":"lagged"')
                if timed:
                    found = [e["ts"] for event in json.loads(frame) for e in event["data"].get("entries", ())]
                    delays += [last - ts for ts in found]
                    count += len(found)
                else:
                    count += frame.count(b'"line":')
        return {
            "lines": count,
            "frames": frames,
            "lagged": lagged,
            "bytes": size,
            "last": last,
            "p50": percentile(delays, 0.5),
            "p99": percentile(delays, 0.99),
            "max": max(delays, default=0.0),
        }

    return asyncio.run(run())


def lives(
    url: str, token: str, rate: float, secs: float, worker: str = "lives", size: int = 100, most: float = float("inf")
) -> dict[str, Any]:
    """Submit jobs, lease them, start and complete them, `size` at a time, for a while or until there were `most`."""
    api, done = Api(url, token), 0
    api.post("workers", {"id": worker, "kind": worker, "slots": size})
    specs = json.dumps([{"cmd": ["true"], "worker": worker}] * size).encode()
    begun = time.perf_counter()
    while (now := time.perf_counter() - begun) < secs and done < most:
        if done > now * rate:
            time.sleep(0.001)
            continue
        api.post("jobs", specs)
        request = {"request_id": str(time.time()), "limit": size, "wait_secs": 5}
        leases = api.post(f"workers/{worker}/leases", request)["leases"]
        events = []
        for lease in leases:
            about = {"job_id": lease["job"]["id"], "attempt": 1}
            events.append({"type": "started", **about, "after": 0, "seq": 1, "worker_id": worker})
            events.append({"type": "completed", **about, "after": 1, "seq": 2})
        api.post(f"workers/{worker}/events", {"events": events})
        done += len(leases)
    return {"lives": done, "secs": time.perf_counter() - begun}


def burn(share: float, secs: float) -> dict[str, Any]:
    """Keep a part of a core busy."""
    end = time.perf_counter() + secs
    while (now := time.perf_counter()) < end:
        until = now + 0.01 * min(1.0, share)
        while time.perf_counter() < until:
            pass
        time.sleep(max(0.0, now + 0.01 - time.perf_counter()))
    return {"cpu": time.process_time()}


def probe(url: str, token: str, path: str, secs: float, every: float) -> dict[str, Any]:
    """Ask something unrelated again and again; return how long the answers took."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    times = []
    end = time.perf_counter() + secs
    while (begun := time.perf_counter()) < end:
        connection.request("GET", f"{parts.path}{path}", headers={"Authorization": f"token {token}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        times.append(time.perf_counter() - begun)
        time.sleep(max(0.0, begun + every - time.perf_counter()))
    return {"n": len(times), "p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "max": max(times)}


def submit(url: str, token: str, count: int) -> dict[str, Any]:
    """Submit jobs in one request."""
    body = json.dumps([{"cmd": ["true"], "worker": "nobody"}] * count).encode()
    begun = time.perf_counter()
    jobs = Api(url, token).post("jobs", body)
    return {"jobs": len(jobs), "secs": time.perf_counter() - begun}


RAW_PAGE = """<!doctype html><meta charset="utf-8"><title>raw</title><link rel="icon" href="data:,"><main></main>
<script>
const main = document.querySelector('main');
const socket = new WebSocket(`ws://${location.host}/lines`);
let waiting = [], frame = 0;
function paint() {
  frame = 0;
  for (const text of waiting.splice(0).slice(-40)) {
    main.append(Object.assign(document.createElement('div'), { className: 'raw', textContent: text }));
  }
  while (main.childElementCount > 40) main.firstChild.remove();
}
socket.onmessage = ({ data }) => {
  waiting.push(...data.split('\\n'));
  frame ||= requestAnimationFrame(paint);
};
</script>"""


def raw_page(rate: float, secs: float) -> dict[str, Any]:
    """Serve a bare page and send it lines as they are due, over a bare WebSocket; print the port first."""
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets
    from tornado.web import Application, RequestHandler
    from tornado.websocket import WebSocketHandler

    stamps: list[float] = []
    done = asyncio.Event()

    class Page(RequestHandler):
        def get(self) -> None:
            self.finish(RAW_PAGE)

    class Lines(WebSocketHandler):
        def open(self) -> None:
            self.set_nodelay(True)
            self.sending = asyncio.ensure_future(self.send())

        async def send(self) -> None:
            begun = time.time()
            while len(stamps) < rate * secs:
                texts = []
                while len(stamps) < int((time.time() - begun) * rate):
                    now = time.time_ns()
                    stamps.append(now / 1e9)
                    texts.append(f"{len(stamps)} {now} epoch 3 loss=0.12345 accuracy=0.9876")
                if texts:
                    await self.write_message("\n".join(texts))
                await asyncio.sleep(max(0.0, begun + (len(stamps) + 1) / rate - time.time()))
            done.set()

    async def run() -> None:
        sockets = bind_sockets(0, "127.0.0.1")
        HTTPServer(Application([("/", Page), ("/lines", Lines)])).add_sockets(sockets)
        print(sockets[0].getsockname()[1], flush=True)
        await done.wait()
        await asyncio.sleep(1)  # the page reads the last of them

    asyncio.run(run())
    return {"stamps": stamps}


ROLES = {role.__name__: role for role in (lines, drip, follow, lives, burn, probe, submit, raw_page)}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](**json.loads(sys.argv[2]))), flush=True)
