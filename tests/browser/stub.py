"""A server that speaks the part of the API a view reads, with jobs that a test scripts. Real HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler
from tornado.websocket import WebSocketHandler

from zbrain_nb.model.ids import new_id
from zbrain_nb.notebook.widget import ViewWidget

VIEW = Path(__file__).parents[2] / "zbrain_nb" / "notebook" / "view"

THEMES = {
    "light": """color-scheme: light; --jp-layout-color0: #fff; --jp-ui-font-color0: #000;
  --jp-brand-color1: #1976d2; --jp-success-color1: #388e3c; --jp-error-color1: #d32f2f; --jp-warn-color1: #f57c00;
  --jp-mirror-editor-keyword-color: #008000; --jp-mirror-editor-string-color: #ba2121;""",
    "dark": """color-scheme: dark; --jp-layout-color0: #111; --jp-ui-font-color0: #fff;
  --jp-brand-color1: #2196f3; --jp-success-color1: #4caf50; --jp-error-color1: #f44336; --jp-warn-color1: #ff9800;
  --jp-mirror-editor-keyword-color: #4caf50; --jp-mirror-editor-string-color: #ff7070;""",
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>views</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/view/zbrain.css">
<style>:root {{ {theme} --jp-ui-font-family: "Liberation Sans", Arial, sans-serif;
  --jp-code-font-family: "DejaVu Sans Mono", monospace }}
body {{ margin: 16px; background: var(--jp-layout-color0); }} main {{ display: grid; gap: 12px }}</style>
<script id="jupyter-config-data" type="application/json">{{"baseUrl": "/"}}</script></head><body><main></main>
<script type="module">
import {{ ServerFeed, apiOfPage, render, showGroup }} from '/view/index.js';
window.views = [];
const group = {group};
if (group) {{
  const card = document.createElement('div');
  document.querySelector('main').append(card);
  views.push(showGroup(card, apiOfPage(), group));
}}
for (const saved of {saved}) {{
  const card = document.createElement('div');
  document.querySelector('main').append(card);
  const feed = new ServerFeed(apiOfPage(), saved).start();
  views.push({{ feed, dispose: render(card, feed, {{ open: {open} }}) }});
}}
</script></body></html>"""
#: A page that cannot reach the server, and a kernel that can: what it does is what `bridge.py` does.
WIDGET_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>widget</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/view/zbrain.css">
</head><body><main></main><script type="module">
const handlers = {{}};
const state = {state};
const fire = (name, ...args) => (handlers[name] ?? []).forEach((handler) => handler(...args));
const sockets = new Map();
const parts = {{}};
window.kernel = {{ isBusy: false, isDead: false, waiting: [], asked: [], loses: 0 }};
async function serve(message) {{
  const {{ page, id, method, path, body, first }} = message;
  const answer = (status, data) => {{
    if (kernel.isDead) return;
    const bytes = new TextEncoder().encode(data);
    const half = Math.ceil(bytes.length / 2); // also through the middle of a letter
    if (status !== 200) return fire('msg:custom', {{ page, id, status, more: false }}, [new DataView(bytes.buffer)]);
    parts[id] ??= 0;
    for (const more of [true, false]) {{
      const view = more ? new DataView(bytes.buffer, 0, half) : new DataView(bytes.buffer, half);
      const part = parts[id]++;
      if (kernel.loses) kernel.loses -= 1;
      else fire('msg:custom', {{ page, id, status, date: null, part, more }}, [view]);
    }}
  }};
  if (kernel.isDead || method === 'HERE') return;
  if (kernel.isBusy) return void kernel.waiting.push(message);
  kernel.asked.push(`${{method}} ${{path}}`);
  if (method === 'DROP') return void sockets.get(id)?.close();
  if (method === 'EVENTS') {{
    const socket = new WebSocket(`/zbrain/api/${{path}}`);
    sockets.set(id, socket);
    socket.onopen = () => answer(200, '[]');
    socket.onmessage = ({{ data }}) => answer(200, data);
    const error = ({{ reason }}) => JSON.stringify({{ error: {{ message: reason }} }});
    socket.onclose = (end) => answer({{ 1008: 401, 4403: 403 }}[end.code] ?? 503, error(end));
    return;
  }}
  const xsrf = {{ 'X-XSRFToken': 'a-token' }};
  const options = {{ method, body: body && JSON.stringify(body), headers: method === 'POST' ? xsrf : {{}} }};
  const found = await fetch(`/zbrain/api/${{path}}`, options).catch(() => null);
  if (!found) return answer(503, '{{}}'); // the test has ended
  answer(found.ok ? 200 : found.status, first == null ? await found.text() : (await found.text()).slice(0, first));
}}
window.model = {{
  get: (name) => state[name],
  on: (name, handler) => (handlers[name] ??= []).push(handler),
  off: (name, handler) => (handlers[name] = handlers[name].filter((each) => each !== handler)),
  send: (message) => void serve(message),
  set: (name, value) => {{ state[name] = value; }},
  save_changes() {{}},
}};
kernel.free = () => {{ kernel.isBusy = false; kernel.waiting.splice(0).forEach(serve); }};
kernel.die = () => {{ kernel.isDead = true; fire('comm_live_update'); }};
const url = URL.createObjectURL(new Blob([await (await fetch('/widget.js')).text()], {{ type: 'text/javascript' }}));
const widget = (await import(url)).default;
window.dispose = await widget.render({{ model, el: document.querySelector('main') }});
</script></body></html>"""


def progress(fraction: float, note: str, *, secs: float, since: float = 0.0) -> dict[str, Any]:
    """Return what the server tells of a job that came from `since` to `fraction` in the last `secs`."""
    now = time.time()
    return {"fraction": fraction, "note": note, "at": now, "since": {"fraction": since, "at": now - secs}}


def utc(offset: float = 0) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=offset)).isoformat()


class LongLog(Sequence[dict[str, Any]]):
    """So many lines that none is made before it is asked for; one of them begins a traceback."""

    def __init__(self, count: int, error_at: int) -> None:
        self._count = count
        self._error_at = error_at

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[seq] for seq in range(*place.indices(self._count))]
        if place >= self._count:
            raise IndexError(place)
        is_error = place == self._error_at
        line = "Traceback (most recent call last):" if is_error else f"line number {place}"
        return {"seq": place, "attempt": 1, "stream": "stderr" if is_error else "stdout", "ts": 0, "line": line}


class StubServer:
    """Jobs by id, their logs and outputs, the events so far; every change may come from the test's thread."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, Any] = {}
        self.outputs: dict[str, list[dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.posts: list[str] = []
        self.gets: list[str] = []
        self.saved: list[dict[str, Any]] = []
        self.group: dict[str, Any] | None = None
        self.sockets: set[_Events] = set()
        self.opened: list[str] = []
        self.closed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.down = False
        self.search_window = 20_000
        self.answer_posts = True
        self.waiting = 0
        self.viewer = "ada"
        self.asked_for_others: list[str] = []
        self.attempts: list[dict[str, Any]] = []
        self.while_loading: Callable[[str | None], None] | None = None
        self._seq = 100
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait(10)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            routes: list[Any] = [
                (r"/view/(.*)", StaticFileHandler, {"path": str(VIEW)}),
                (r"/widget.js", _Widget),
                (r"/(page|widget)", _Page, {"stub": self}),
                (r"/zbrain/api/whoami", _WhoAmI, {"stub": self}),
                (r"/zbrain/api/jobs", _List, {"stub": self}),
                (r"/(remoteEntry.js)", StaticFileHandler, {"path": str(VIEW.parent / "labextension" / "static")}),
                (r"/zbrain/api/events", _Events, {"stub": self}),
                (r"/zbrain/api/jobs/(lookup|cancel|retry)", _Many, {"stub": self}),
                (r"/zbrain/api/jobs/([^/]+)(?:/(.+))?", _Jobs, {"stub": self}),
            ]
            http = HTTPServer(Application(routes))
            sockets = bind_sockets(0, "127.0.0.1")
            self.port = sockets[0].getsockname()[1]
            http.add_sockets(sockets)
            self._started.set()
            await self._stop.wait()
            http.stop()
            await http.close_all_connections()

        asyncio.run(main())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _do(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the server's loop, so that a change and its event are one step for every reader."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    # ---- what a test scripts

    def url(self, *, theme: str = "light", opened: bool = True) -> str:
        return f"http://127.0.0.1:{self.port}/page?theme={theme}&open={int(opened)}"

    def add(self, state: str = "running", **fields: Any) -> str:
        """Make a job that a page shows; `spec` fields are merged."""
        spec = {
            "name": "train-resnet",
            "max_retries": 0,
            "timeout_secs": None,
            "worker": "local",
            "resources": {"cpus": 2, "memory_mb": 4096, "gpus": 0},
            **fields.pop("spec", {}),
        }
        started = state not in ("pending",)
        ended = state in ("succeeded", "failed", "canceled")
        job = {
            "id": new_id(),
            "spec": spec,
            "owner": "ada",
            "state": state,
            "attempt": 1 if started else 0,
            "created_at": utc(-140),
            "started_at": utc(-134) if started else None,
            "finished_at": utc(-2) if ended else None,
            "worker_id": "gpu-a" if started else None,
            "exit_code": 0 if state == "succeeded" else 1 if state == "failed" else None,
            "error": None,
            "output": None,
            "result": None,
            "variables": [],
            "artifacts": [],
            "progress": None,
            "reason": None,
            "retry_of": None,
            "failures": 0,
            "losses": 0,
            "not_before": None,
            "cancel_requested_at": None,
            "canceled_by": None,
            "event_seq": 1,
            **fields,
        }
        self.jobs[job["id"]] = job
        self.logs[job["id"]] = []
        self.outputs[job["id"]] = []
        self.saved.append({"id": job["id"], "name": spec["name"], "version": 1, "state": state})
        return str(job["id"])

    def add_group(self, states: list[str], **fields: Any) -> list[str]:
        """Make the jobs of a group, which the page shows as one."""
        fields["spec"] = {"tags": {"zbrain.group": "g"}, **fields.get("spec", {})}
        ids = [self.add(state, **fields) for state in states]
        self.saved.clear()
        runs = [{"id": job_id, "state": "pending", "label": f"lr={place}"} for place, job_id in enumerate(ids)]
        self.group = {"version": 1, "name": "sweep", "org": "default", "runs": runs}
        return ids

    def emit(self, kind: str, job_id: str, data: dict[str, Any]) -> int:
        return int(self._do(lambda: self._emit(kind, job_id, data)))

    def _emit(self, kind: str, job_id: str, data: dict[str, Any]) -> int:
        self._seq += 1
        event = {
            "seq": self._seq,
            "topic": f"jobs/{job_id}",
            "kind": kind,
            "job_id": job_id,
            "attempt": 1,
            "ts": time.time(),
            "data": data,
            "org_id": "default",
        }
        if kind == "job_logged":
            self.logs[job_id] += data["entries"]
        elif kind == "job_displayed":
            plain = [o for o in data["outputs"] if o["output_type"] in ("display_data", "execute_result")]
            self.outputs[job_id] += plain
        else:
            self.jobs[job_id].update(data, event_seq=self._seq)
        self.events.append(event)
        self._send([event])
        return self._seq

    def _send(self, events: list[dict[str, Any]]) -> None:
        for socket in list(self.sockets):
            mine = [event for event in events if socket.wants(event)]
            if mine:
                socket.write_message(json.dumps(mine))

    def raw(self, event: dict[str, Any]) -> None:
        self._do(lambda: self._send([event]))

    def lines(self, job_id: str, texts: list[str], stream: str = "stdout", attempt: int = 1) -> list[dict[str, Any]]:
        start = len(self.logs[job_id])
        return [
            {"seq": start + i, "attempt": attempt, "stream": stream, "ts": time.time(), "line": text}
            for i, text in enumerate(texts)
        ]

    def log(self, job_id: str, *texts: str, stream: str = "stdout", attempt: int = 1) -> None:
        self.emit("job_logged", job_id, {"entries": self.lines(job_id, list(texts), stream, attempt)})

    def stored(self, job_id: str, *texts: str, stream: str = "stdout", attempt: int = 1) -> None:
        """Add lines as if they had been written before anyone looked."""
        self.logs[job_id] += self.lines(job_id, list(texts), stream, attempt)

    def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        self.down = True

        def close() -> None:
            for socket in list(self.sockets):
                socket.close()

        self._do(close)

    def expel(self, code: int, reason: str) -> None:
        """Close every connection with a code and a reason, and know no job any more."""

        def close() -> None:
            self.jobs.clear()
            for socket in list(self.sockets):
                socket.close(code, reason)

        self._do(close)


class _Page(RequestHandler):
    def initialize(self, stub: StubServer) -> None:
        self.stub = stub

    def get(self, kind: str) -> None:
        self.set_cookie("_xsrf", "a-token")
        if kind == "widget":
            kind = "group" if self.stub.group else "job"
            state = {"kind": kind, "saved": self.stub.group or self.stub.saved[0]}
            self.finish(WIDGET_PAGE.format(state=json.dumps(state).replace("<", "\\u003c")))
            return
        saved_json = json.dumps(self.stub.saved).replace("<", "\\u003c")
        opened = "true" if self.get_argument("open", "1") == "1" else "false"
        self.finish(
            PAGE.format(
                theme=THEMES[self.get_argument("theme", "light")],
                saved=saved_json,
                open=opened,
                group=json.dumps(self.stub.group),
            )
        )


class _Widget(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/javascript")
        self.finish(str(ViewWidget._esm))


class _WhoAmI(RequestHandler):
    def initialize(self, stub: StubServer) -> None:
        self.stub = stub

    def get(self) -> None:
        if self.stub.down:
            raise HTTPError(503)
        self.finish({"owner": self.stub.viewer, "home": "default", "roles": None})


class _Jobs(RequestHandler):
    def initialize(self, stub: StubServer) -> None:
        self.stub = stub

    def prepare(self) -> None:
        if self.stub.down:
            raise HTTPError(503)

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish({"error": {"code": "stub", "message": f"The stub says {status_code}.", "hint": None}})

    def get(self, job_id: str, part: str | None) -> None:
        stub = self.stub
        stub.gets.append(self.request.uri or "")
        job = stub.jobs.get(job_id)
        if job is None:
            raise HTTPError(404)
        log = stub.logs[job_id]
        if part is None:
            self.finish({**job, "log_lines": len(log), "waiting": stub.waiting})
            if stub.while_loading:
                stub.while_loading(part)
        elif part == "logs":
            start = int(self.get_argument("from_seq", "0"))
            limit = int(self.get_argument("limit", "1000"))
            if text := self.get_argument("q", "").lower():
                end = min(len(log), start + stub.search_window)
                hits = (entry for entry in log[start:end] if text in entry["line"].lower())
                entries = list(itertools.islice(hits, limit))
                self.finish({"entries": entries, "next_seq": entries[-1]["seq"] + 1 if len(entries) == limit else end})
                return
            if stream := self.get_argument("stream", ""):
                lines = (entry for entry in itertools.islice(log, start, None) if entry["stream"] == stream)
                entries = list(itertools.islice(lines, limit))
            else:
                entries = log[start : start + limit]
            self.finish({"entries": entries, "next_seq": entries[-1]["seq"] + 1 if entries else start})
        elif part == "attempts":
            self.finish({"attempts": stub.attempts, "chain": []})
        elif part == "outputs":
            if stub.while_loading:
                stub.while_loading(part)
            self.finish({"outputs": stub.outputs[job_id], "clear_next": False, "event_seq": stub._seq})
        else:
            content = stub.files.get(part.removeprefix("artifacts/"))
            if content is None:
                raise HTTPError(404)
            self.set_header("Content-Type", "application/octet-stream")
            self.finish(content)

    def post(self, job_id: str, part: str | None) -> None:
        stub = self.stub
        stub.posts.append(f"{part} {self.request.headers.get('X-XSRFToken')}")
        if not stub.answer_posts:
            raise HTTPError(409)
        if part == "cancel":
            if stub.jobs[job_id]["state"] == "pending":
                stub._emit("job_canceled", job_id, {"state": "canceled", "finished_at": utc()})
            else:
                stub._emit("job_cancel_requested", job_id, {"cancel_requested_at": utc()})
            self.finish({"result": "canceling", "job": stub.jobs[job_id]})
        elif part == "detach":
            self.finish({"detached": stub.waiting, "job": stub.jobs[job_id]})
        else:
            stub.asked_for_others.append(self.get_argument("others", ""))
            spec = stub.jobs[job_id]["spec"]
            new = stub.add("pending", spec=spec, retry_of=job_id, reason="Waiting for a free slot on local")
            self.set_status(201)
            self.finish(stub.jobs[new])


class _List(_Jobs):
    def get(self) -> None:  # type: ignore[override]
        name, _, value = self.get_argument("tag").partition("=")
        jobs = [job for job in self.stub.jobs.values() if job["spec"].get("tags", {}).get(name) == value]
        self.finish({"jobs": jobs[::-1], "next_cursor": None})


class _Many(_Jobs):
    def get(self, verb: str) -> None:
        raise HTTPError(405)

    def post(self, verb: str) -> None:
        stub = self.stub
        stub.posts.append(f"{verb} {self.request.headers.get('X-XSRFToken')}")
        if not stub.answer_posts and verb != "lookup":
            raise HTTPError(409)
        ids = json.loads(self.request.body)["ids"]
        if verb == "cancel":
            for job_id in ids:
                stub._emit("job_canceled", job_id, {"state": "canceled", "finished_at": utc()})
        if verb == "retry":
            ids = [stub.add("pending", spec=stub.jobs[job_id]["spec"], retry_of=job_id) for job_id in ids]
        found = [stub.jobs[job_id] for job_id in ids if job_id in stub.jobs]
        self.finish({"jobs": found, "event_seq": stub._seq})


class _Events(WebSocketHandler):
    def initialize(self, stub: StubServer) -> None:
        self.stub = stub

    def wants(self, event: dict[str, Any]) -> bool:
        if event["topic"] in self.topics:
            return True
        changes = {f"orgs/{event.get('org_id')}", f"states/{event['job_id']}"}
        return event["kind"] not in ("job_logged", "job_displayed") and not changes.isdisjoint(self.topics)

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.stub.down:
            raise HTTPError(503)
        await super().get(*args, **kwargs)

    def open(self) -> None:
        self.topics = self.get_argument("topics").split(",")
        self.stub.sockets.add(self)
        self.stub.opened.append(self.request.uri or "")
        after = self.get_argument("after", None)
        missed = [e for e in self.stub.events if after is not None and e["seq"] > int(after) and self.wants(e)]
        if missed:
            self.write_message(json.dumps(missed))

    def on_close(self) -> None:
        self.stub.sockets.discard(self)
        self.stub.closed.put(self.request.uri or "")
