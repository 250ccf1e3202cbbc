"""A foreman alone, with a runner that does as the test wants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from zbrain_nb.worker.calls import Call, Close, OrderBook, unpack_of_call
from zbrain_nb.worker.request import RunRequest, write_request
from zbrain_nb.worker.spool import End, Kind, SpoolReader

#: Its call ends just before the interrupt that was meant for it.
OVERSEE = """
import os, signal, socket, sys
from pathlib import Path
import msgspec
from zbrain_nb.worker.calls import MORE, NUMBER, PACKET_BYTES, RETIRED
from zbrain_nb.worker.foreman import oversee
from zbrain_nb.worker.request import read_request
from zbrain_nb.worker.spool import End, Kind, pack

def body(request, events, feed, marker):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    feed = socket.socket(fileno=feed)
    feed.recv(PACKET_BYTES)
    os.write(events, pack(Kind.BEGIN, NUMBER.pack(0) + request.outbox.encode()))
    signal.sigwait([signal.SIGINT])
    for descriptor in (1, 2):
        os.write(descriptor, marker)
    os.write(events, pack(Kind.END, MORE + msgspec.json.encode(End(reason="exited", exit_code=0))))
    if not feed.recv(PACKET_BYTES):
        Path(request.outbox, "dismissed").touch()
    return RETIRED

oversee(Path(sys.argv[1]), read_request(sys.argv[2]), body)
"""


def test_call_that_ends_as_its_time_does_has_ended_and_its_runner_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("runs", "out"):
        (tmp_path / name).mkdir()
    book = OrderBook(tmp_path / "orders")
    book.append([Call(0, "job", 1, "", "", timeout_secs=0.1, cmd=["true"]), Close()])
    book.close()
    request = RunRequest(
        job_id="calls-1",
        attempt=0,
        cmd=[],
        cwd=str(tmp_path),
        outbox=str(tmp_path / "out"),
        orders=str(tmp_path / "orders"),
    )
    write_request(tmp_path / "request", request)
    subprocess.run([sys.executable, "-c", OVERSEE, tmp_path, tmp_path / "request"], check=True, timeout=30)
    reader = SpoolReader(tmp_path / "runs" / "calls-1.0.spool")
    frames = [unpack_of_call(frame)[1] for frame in reader.read() if frame.kind == Kind.CALL]
    reader.close()
    end = msgspec.json.decode(frames[-1].payload, type=End)
    assert (end.reason, end.exit_code) == ("exited", 0)
    assert (tmp_path / "out" / "dismissed").exists()
