"""Webhooks: told once and signed, again after a failure and a restart, and to nobody inside."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import AsyncMock

import httpx
import pytest

from zbrain_nb.model.datadir import DataDir, is_locked
from zbrain_nb.model.errors import Unavailable, ZBrainError
from zbrain_nb.model.events import JobFailed
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.model.settings import Settings
from zbrain_nb.model.webhooks import read_webhooks
from zbrain_nb.server.host import Host
from zbrain_nb.server.webhooks import notifier, posting
from zbrain_nb.server.webhooks.posting import Poster, Undelivered

pytestmark = pytest.mark.anyio
SECRET = "a secret of the org, long enough"
LOOPBACK = ["127.0.0.0/8"]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Receiver:
    """A receiver on loopback: keeps what comes, and answers what it is told to, piece by piece."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()
        self.answers: list[bytes] = []
        self.drip_secs = 0.0
        self.port = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, EOFError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            headers["request"] = head[0]
            body = await reader.readexactly(int(headers["content-length"]))
            self.got.put_nowait((headers, body))
            whole = self.answers.pop(0) if self.answers else OK
            step = 1 if self.drip_secs else len(whole)
            for start in range(0, len(whole), step):
                writer.write(whole[start : start + step])
                await writer.drain()
                await asyncio.sleep(self.drip_secs)
        writer.close()

    async def next(self) -> tuple[dict[str, str], bytes]:
        return await asyncio.wait_for(self.got.get(), 30)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    yield receiver
    server.close()
    for writer in receiver.writers:
        writer.transport.abort()
    await asyncio.sleep(0)


def write(tmp_path: Path, url: str, *, networks: list[str] = LOOPBACK, **hook: object) -> Path:
    path = tmp_path / "hooks.json"
    orgs = {"default": {"url": url, "secret": SECRET, "after_secs": 0, **hook}}
    path.write_text(
        json.dumps({"allow_hosts": ["localhost", "evil.example"], "allow_networks": networks, "orgs": orgs})
    )
    path.chmod(0o600)
    return path


@contextlib.asynccontextmanager
async def hosting(tmp_path: Path, hooks: Path) -> AsyncIterator[Host]:
    data = DataDir(tmp_path / "data")
    host = Host(data, Settings(data=str(data.root), worker_mode="none", webhooks=str(hooks)))
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


async def fail_one(host: Host, name: str = "train") -> str:
    """Have a job fail with an exception, and return its id."""
    assert host.context is not None
    queue = host.context.queue
    job_id = await queue.submit(JobSpec(cmd=["true"], name=name))
    leased = await queue.acquire_lease("w1", "default")
    assert leased is not None
    error = {"ename": "ValueError", "evalue": "first\nlast \x1b[31mline", "traceback": ["..."]}
    await queue.handle_worker_event(JobFailed(job_id, attempt=leased.attempt, error=error, reason="It raised."))
    return job_id


async def all_decided(host: Host) -> None:
    """Wait until the notifier has told, or left out, all that happened."""
    async with asyncio.timeout(30):
        while host._notifier._told["default"].seq < host.context.queue.event_seq:
            await asyncio.sleep(0.01)  # it says nothing when it leaves something out


async def test_end_is_told_once_and_signed_with_the_exceptions_last_line(tmp_path: Path, receiver: Receiver) -> None:
    async with hosting(tmp_path, write(tmp_path, f"http://localhost:{receiver.port}/hook?x=1")) as host:
        job_id = await fail_one(host)
        headers, body = await receiver.next()
    said = json.loads(body)
    assert (said["event"], said["job"]["id"], said["job"]["state"]) == ("job_failed", job_id, "failed")
    assert said["error"] == "last  [31mline"
    assert said["text"] == "train failed: last  [31mline"
    assert headers["request"] == "POST /hook?x=1 HTTP/1.1"
    assert headers["host"] == f"localhost:{receiver.port}"
    stamp, digest = (part.partition("=")[2] for part in headers["zbrain-signature"].split(","))
    assert digest == hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert receiver.got.empty()


async def test_receiver_that_fails_is_tried_again_and_one_that_refuses_is_not(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "RETRY_SECS", (0.01, 0.01))
    receiver.answers = [b"HTTP/1.1 503 Busy\r\n\r\n", OK, b"HTTP/1.1 410 Gone\r\n\r\n"]
    async with hosting(tmp_path, write(tmp_path, f"http://localhost:{receiver.port}/")) as host:
        await fail_one(host, "first")
        assert (await receiver.next())[1] == (await receiver.next())[1]
        await fail_one(host, "refused")
        await receiver.next()
        await fail_one(host, "third")
        said = json.loads((await receiver.next())[1])
    assert (said["job"]["name"], said["left_out"]) == ("third", 1)


async def test_what_was_not_told_is_told_by_the_next_host(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = write(tmp_path, f"http://localhost:{receiver.port}/")
    receiver.answers = [OK, b"HTTP/1.1 503 Busy\r\n\r\n"]
    async with hosting(tmp_path, hooks) as host:
        await fail_one(host, "told")
        await receiver.next()
        job_id = await fail_one(host, "untold")
        await receiver.next()  # and is now waiting to try again
    async with hosting(tmp_path, hooks):
        said = json.loads((await receiver.next())[1])
    assert said["job"]["id"] == job_id
    assert receiver.got.empty()


async def test_refused_read_is_tried_again(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "PAUSE_SECS", 0)
    async with hosting(tmp_path, write(tmp_path, f"http://localhost:{receiver.port}/")) as host:
        assert host.context is not None
        queue = host.context.queue
        get, refusals = queue.get, [Unavailable("The store could not be read.")]

        async def get_at_last(job_id: str) -> Job | None:
            if refusals and asyncio.current_task() in host._notifier._tasks:
                raise refusals.pop()
            return await get(job_id)

        monkeypatch.setattr(queue, "get", get_at_last)
        job_id = await fail_one(host)
        assert json.loads((await receiver.next())[1])["job"]["id"] == job_id
        assert not refusals


async def test_host_stops_cleanly_when_a_follower_broke(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosting(tmp_path, write(tmp_path, f"http://localhost:{receiver.port}/")) as host:
        monkeypatch.setattr(notifier, "_body", lambda *_: 1 / 0)
        await fail_one(host)
        (task,) = host._notifier._tasks
        await asyncio.wait({task}, timeout=30)
        await asyncio.sleep(0)
        assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]
    assert not is_locked(host.data.host_lock)


@pytest.mark.parametrize("failure", [httpx.InvalidURL("no"), OSError("no certificates")])
async def test_failure_before_anything_is_sent_is_undelivered(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    poster = Poster()
    monkeypatch.setattr(poster, "_send", AsyncMock(side_effect=failure))
    with pytest.raises(Undelivered) as refused:
        await poster.post("https://example.com/", b"", {})
    assert refused.value.final == isinstance(failure, httpx.InvalidURL)
    await poster.close()


async def test_short_jobs_and_other_states_are_not_told(tmp_path: Path, receiver: Receiver) -> None:
    for hook in ({"after_secs": 60}, {"states": ["succeeded"]}):
        async with hosting(tmp_path, write(tmp_path, f"http://localhost:{receiver.port}/", **hook)) as host:
            await fail_one(host)
            await all_decided(host)
        assert receiver.got.empty()


async def test_no_more_than_some_a_minute_and_the_next_says_how_many(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "MOST_A_MINUTE", 2)
    now = [notifier.time.time()]
    monkeypatch.setattr(notifier.time, "time", lambda: now[0])
    async with hosting(tmp_path, write(tmp_path, f"http://localhost:{receiver.port}/")) as host:
        for name in ("a", "b"):
            await fail_one(host, name)
            await receiver.next()
        for name in ("c", "d"):
            await fail_one(host, name)
        await all_decided(host)
        now[0] += 61
        await fail_one(host, "e")
        said = json.loads((await receiver.next())[1])
    assert (said["job"]["name"], said["left_out"]) == ("e", 2)


async def test_what_was_too_much_for_a_minute_waits_for_no_other_end(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "MOST_A_MINUTE", 1)
    now = notifier.time.time()
    monkeypatch.setattr(notifier.time, "time", lambda: now)  # the minute is over by the loop's clock alone
    hooks = write(tmp_path, f"http://localhost:{receiver.port}/")
    for minute in (0.1, 60.0):
        monkeypatch.setattr(notifier, "MINUTE_SECS", minute)
        async with hosting(tmp_path, hooks) as host:
            await fail_one(host, "a")
            assert names_and_counts([await receiver.next()]) == [("a", 0)]
            for name in ("b", "c", "d"):
                await fail_one(host, name)
            await all_decided(host)
            if minute < 60:
                assert await counted(receiver, 3) == "d"
                async with asyncio.timeout(30):
                    while host._notifier._told["default"].held:
                        await asyncio.sleep(0.01)  # it has the answer
            assert receiver.got.empty()
    async with hosting(tmp_path, hooks):  # the host before was stopped within the minute
        assert names_and_counts([await receiver.next()]) == [("d", 2)]
    assert receiver.got.empty()


def names_and_counts(notices: list[tuple[dict[str, str], bytes]]) -> list[tuple[str, int]]:
    """Return whom each notice tells of, and how many others it stands for."""
    return [(said["job"]["name"], said["left_out"]) for said in (json.loads(body) for _, body in notices)]


async def counted(receiver: Receiver, ends: int) -> str:
    """Take notices until they stand for so many ends; return whom the last tells of."""
    name = ""
    while ends > 0:
        ((name, others),) = names_and_counts([await receiver.next()])
        ends -= 1 + others
    assert ends == 0
    return name


async def test_ends_of_long_ago_are_counted_by_one_notice_at_least(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "MAX_AGE_SECS", -60.0)
    async with hosting(tmp_path, write(tmp_path, f"http://localhost:{receiver.port}/")) as host:
        for name in ("a", "b", "c"):
            await fail_one(host, name)
        assert await counted(receiver, 3) == "c"


def test_place_that_an_older_version_kept_is_gone_on_from(tmp_path: Path) -> None:
    place = tmp_path / "told.json"
    place.write_text('{"default": 7, "lab": [9, 2]}')
    assert {org: told.as_json() for org, told in notifier._read(place).items()} == {"default": [7, 0], "lab": [9, 2]}


# ---- attacks


PRIVATE = """
127.0.0.1 10.1.2.3 169.254.169.254 172.16.0.1 192.168.1.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 198.18.0.1
240.0.0.1 ::1 :: fe80::1 fc00::1 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1
64:ff9b::a9fe:a9fe 2002:7f00:1:: 2001:0:7f00:1:: 2001:db8::1 64:ff9b:1::7f00:1
"""


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to `answers`, one list after the other; returns the names asked for."""
    asked: list[str] = []
    left = list(answers)
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: object, **more: object) -> list[tuple]:
        if host != "evil.example":
            return real(host, port, *rest, **more)
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(posting.socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize(
    "address",
    PRIVATE.split(),
)
@pytest.mark.parametrize("beside", [[], ["8.8.8.8"]])
async def test_name_of_a_private_address_is_refused_and_never_tried_again(
    address: str, beside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, [*beside, address])
    poster = Poster()
    with pytest.raises(Undelivered, match="where nothing is sent to") as refused:
        await poster.post("https://evil.example/", b"{}", {})
    assert refused.value.final
    await poster.close()


@pytest.mark.parametrize("url", ["https://2130706433/", "https://0x7f.1/", "https://127.1/", "https://[::1]/"])
async def test_address_written_strangely_is_refused(url: str) -> None:
    poster = Poster()
    with pytest.raises(Undelivered, match=r"where nothing is sent to|cannot be resolved"):
        await poster.post(url, b"{}", {})
    await poster.close()


async def test_public_address_needs_https() -> None:
    poster = Poster()
    with pytest.raises(Undelivered, match="where nothing is sent to"):
        await poster.post("http://8.8.8.8/", b"{}", {})
    await poster.close()


async def test_rebinding_name_is_resolved_once_and_reached_where_it_was_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    poster = Poster(networks("127.0.0.1/32"))
    await poster.post(f"http://evil.example:{receiver.port}/", b"{}", {})
    headers, _ = await receiver.next()
    assert (asked, headers["host"]) == (["evil.example"], f"evil.example:{receiver.port}")
    with pytest.raises(Undelivered, match=r"127\.0\.0\.2"):
        await poster.post(f"http://evil.example:{receiver.port}/", b"{}", {})
    await poster.close()


def networks(*texts: str) -> list:
    return [posting.ipaddress.ip_network(text) for text in texts]


async def test_redirect_is_not_followed(receiver: Receiver) -> None:
    inside = f"http://127.0.0.1:{receiver.port}/inside"
    receiver.answers = [f"HTTP/1.1 307 Go\r\nLocation: {inside}\r\nContent-Length: 0\r\n\r\n".encode()]
    poster = Poster(networks(*LOOPBACK))
    with pytest.raises(Undelivered, match="Redirects are not followed") as refused:
        await poster.post(f"http://localhost:{receiver.port}/", b"{}", {})
    assert refused.value.final
    assert receiver.got.qsize() == 1
    await poster.close()


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000])
async def test_dripping_receiver_is_left_in_time(
    answer: bytes, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "TOTAL_SECS", 0.5)
    receiver.answers, receiver.drip_secs = [answer], 0.1
    poster = Poster(networks(*LOOPBACK))
    with pytest.raises(Undelivered, match="did not answer within"):
        await poster.post(f"http://localhost:{receiver.port}/", b"{}", {})
    await poster.close()


async def test_huge_answer_is_not_read(receiver: Receiver) -> None:
    receiver.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 50_000_000]
    poster = Poster(networks(*LOOPBACK))
    await poster.post(f"http://localhost:{receiver.port}/", b"{}", {})
    receiver.answers = [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 50_000_000]
    with pytest.raises(Undelivered, match="cannot be reached"):
        await poster.post(f"http://localhost:{receiver.port}/", b"{}", {})
    await poster.close()


async def test_certificate_has_to_be_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[object] = []
    wrap = ssl.SSLContext.wrap_bio

    def note(self: ssl.SSLContext, *args: object, server_hostname: object = None, **more: object) -> object:
        names.append(server_hostname)
        assert self.check_hostname and self.verify_mode is ssl.CERT_REQUIRED
        return wrap(self, *args, server_hostname=server_hostname, **more)

    monkeypatch.setattr(ssl.SSLContext, "wrap_bio", note)
    resolve_to(monkeypatch, ["127.0.0.1"])

    async def speak_no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"no TLS here")
        writer.close()

    server = await asyncio.start_server(speak_no_tls, "127.0.0.1", 0)
    poster = Poster(networks(*LOOPBACK))
    with pytest.raises(Undelivered, match="cannot be reached"):
        await poster.post(f"https://evil.example:{server.sockets[0].getsockname()[1]}/", b"{}", {})
    server.close()
    await poster.close()
    assert names == [b"evil.example"]


# ---- the file


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"url": "https://other.example/"}, "goes to other.example, which is not allowed"),
        ({"url": "ftp://localhost/"}, "no address that begins with https://"),
        ({"url": "http://user:word@localhost/"}, "holds a user"),
        ({"url": "http://localhost:99999/"}, "cannot be read"),
        ({"url": "http://localhost/a b"}, "characters that do not belong"),
        ({"secret": "short"}, "fewer than 16"),
        ({"after_secs": -1}, "after_secs"),
        ({"states": ["running"]}, "takes some of succeeded, failed, canceled"),
        ({"color": "red"}, "color"),
    ],
)
async def test_file_that_does_not_hold_stops_the_start(tmp_path: Path, change: dict[str, object], says: str) -> None:
    hook = {"url": "http://localhost/", **change}
    hooks = write(tmp_path, str(hook.pop("url")), **hook)
    with pytest.raises(ZBrainError, match=says) as refused:
        async with hosting(tmp_path, hooks):
            pass
    assert str(hooks) in refused.value.message


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.chmod(0o644), "other accounts may read it"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: path.write_text("{"), "is not JSON"),
        (lambda path: path.write_text('{"allow_networks": ["10.0.0.1/8"]}'), "allow_networks"),
    ],
)
def test_unreadable_file_is_named(tmp_path: Path, spoil: Callable[[Path], object], says: str) -> None:
    hooks = write(tmp_path, "http://localhost/")
    spoil(hooks)
    with pytest.raises(ZBrainError, match=says):
        read_webhooks(hooks)
