"""Routes for bytes: blobs up, and artifacts, results, variables and inputs down. Streamed both ways."""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from tornado import web

from zbrain_nb.model.access import Credential, Party
from zbrain_nb.model.errors import (
    BlobMismatch,
    DiskFloor,
    JobNotFound,
    Malformed,
    NotFound,
    OverQuota,
    RangeNotSatisfiable,
    TooLarge,
    WrongOffset,
    ZBrainError,
)
from zbrain_nb.model.job import JobArtifact
from zbrain_nb.model.protocol import LENGTH_HEADER, OFFSET_HEADER
from zbrain_nb.queue.stored import Hold
from zbrain_nb.server.handlers.answers import Artifacts, StoredBlob
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.bodies import LINGER_BYTES, MAX_DRAINED_BYTES, OwnStreamedBody
from zbrain_nb.server.handlers.declaration import ALL, PEOPLE, WORKERS, Content, F, Header, NoArguments, operation
from zbrain_nb.server.handlers.decoding import decoder
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.uploads import Upload

MAX_BLOB_BYTES = 1 << 40
BYTES = "application/octet-stream"
_OFFSET = Header(OFFSET_HEADER, int, "How many bytes of the blob have arrived before.")
_UPLOAD_HEADERS = (
    _OFFSET,
    Header(LENGTH_HEADER, int, "How long the whole blob is; needed of one that comes compressed."),
    Header("Content-Encoding", Literal["identity", "zstd"], "How the body is compressed."),
)
_SIZE = Header("Content-Length", int, "Its size in bytes.")
_ETAG = Header("Etag", str, "The SHA-256 of the bytes, in quotes.")
_ASKED_FOR = (
    Header("Range", str, "Which bytes are wanted (RFC 9110, 14.2)."),
    Header("If-None-Match", str, "Etags that the caller holds."),
    Header("If-Range", str, "The Etag that the range is meant of."),
)


class UploadQuery(msgspec.Struct):
    """Arguments of ``PUT blobs/{sha256}``."""

    file: Annotated[str, msgspec.Meta(description="File in the store's `incoming` that holds the bytes already.")] = ""
    announce: Annotated[
        int, msgspec.Meta(description="Without a body: whether so many bytes would be taken, 204 if so.", ge=0)
    ] = 0
    worker: Annotated[
        str,
        msgspec.Meta(description="The caller's worker that sends it, for a job it runs: twice the limits hold then."),
    ] = ""


@web.stream_request_body
class BlobHandler(OwnStreamedBody):
    """``HEAD`` and ``PUT blobs/{sha256}``.

    An upload that broke off is gone on with: ``Upload-Offset`` in the 404 to ``HEAD`` says how many bytes of it are
    kept for the caller, and the same header in a ``PUT`` that its body is what follows these. One that does not fit
    is answered with 409 and the right one. (The header and its meaning are those of
    draft-ietf-httpbis-resumable-upload. The resources that the draft creates for uploads are not needed: the hash
    names what is uploaded, and tells whether it came whole.)

    A body may come as ``Content-Encoding: zstd``; ``Upload-Length`` then says how long the whole blob is. Offsets count
    plain bytes.

    What is announced has to fit into what the caller, and their org, may store; of a body of unknown length what has
    come. What a worker sends for a job that it runs may go over the limits, to twice as much.
    """

    _upload: Upload | None = None
    _hold: Hold | None = None
    #: Of the job that a worker sends it for.
    _job_org: str | None = None
    _payer: Party
    _dropped = 0
    _take: Callable[[bytes], None]

    async def prepare(self) -> None:
        """Open the upload once the caller is admitted; the body arrives in pieces."""
        self.request.connection.set_max_body_size(MAX_BLOB_BYTES)  # type: ignore[union-attr]
        try:
            await super().prepare()
            if self.request.method == "PUT":
                self.principal.check_sends()
            if self.request.method == "PUT" and not self._laid() and not self.query(UploadQuery).announce:
                await self._begin(self._number(OFFSET_HEADER), self._announced())
                if self.request.connection.stream.closed():  # type: ignore[union-attr] # nobody will say so again
                    self._pause()
        except ZBrainError as error:
            self._pause()
            if (
                isinstance(error, (OverQuota, TooLarge, DiskFloor))
                and (self._announced() or MAX_BLOB_BYTES) > MAX_DRAINED_BYTES
            ):
                self.refuse_early(error)  # for good, so its sender had better read it than send again
            else:
                self.refuse(error)

    async def _begin(self, offset: int, announced: int | None) -> None:
        payer, size = self.principal.payer, MAX_BLOB_BYTES if announced is None else announced
        self._upload = await asyncio.to_thread(
            self.queue.artifacts.open_upload,
            self.path_args[0],
            size,
            owner=self.principal.owner,
            org_id=payer and payer[0],
            offset=offset,
        )
        if payer is not None:
            if worker := self.query(UploadQuery).worker:
                self._job_org = self.queue.org_worked_for(worker, self.principal)
            self._payer = payer if self._job_org is None else (self._job_org, payer[1])
            self._hold = self.queue.stored.begin(self._payer, self._upload)
            self._reserve(offset + (announced or 0))
        self._take = decoder(self.request.headers.get("Content-Encoding", "identity"), self._upload.write, size)

    def _reserve(self, size: int) -> None:
        if self._hold is not None:
            self.queue.stored.reserve(self._hold, size, self._payer, leaves=self._job_org is not None)

    def _number(self, header: str) -> int:
        text = self.request.headers.get(header, "0")
        if not (text.isdecimal() and text.isascii() and len(text) < 16):
            raise Malformed(f"{header} must be a whole number of bytes, not {text[:40]!r}.")
        return int(text)

    def _laid(self) -> str:
        """Return the name of a file that holds the bytes already (see `ArtifactStore.take_file`)."""
        return self.query(UploadQuery).file

    def _announced(self) -> int | None:
        """Return how many bytes are to come; None if the sender does not say."""
        if LENGTH_HEADER in self.request.headers:
            return max(0, self._number(LENGTH_HEADER) - self._number(OFFSET_HEADER))
        length = self.request.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None

    async def data_received(self, chunk: bytes) -> None:
        """Write one piece; the sender waits meanwhile."""
        if self._upload is None:
            self._dropped += len(chunk)
            if self._headers_written and self._dropped > LINGER_BYTES:
                self.finish()
            return
        try:
            upload = self._upload
            await asyncio.to_thread(self._take, chunk)
            self._reserve(upload.size_bytes)
        except (OverQuota, TooLarge) as error:
            if self._upload is not None:
                self._upload.abort()  # what nobody can go on with shall not count
            self._pause()
            self.refuse_early(error)
        except (WrongOffset, Malformed) as error:
            self._pause()
            self.send_error(error.status, exc_info=(type(error), error, error.__traceback__))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in a header too where to go on."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, WrongOffset) and "offset" in error.details:
            self.set_header(OFFSET_HEADER, str(error.details["offset"]))
        super().write_error(status_code, **kwargs)

    @operation(
        admits=ALL,
        query=UploadQuery,
        body=Content(BYTES),
        headers=_UPLOAD_HEADERS,
        answers={201: StoredBlob, 204: None},
        refuses=(NotFound, WrongOffset, BlobMismatch, OverQuota, TooLarge),
    )
    async def put(self, sha256: str) -> None:
        """Keep the bytes if they hash to their name; 201.

        ``?file=NAME`` is for who shares the machine and the account: the bytes lie in the store's ``incoming``.
        """
        if self._headers_written:  # it was refused early
            self.finish()
            return
        self.raise_refusal()
        if name := self._laid():
            self.principal.check_holder("lay files into the artifact store")
            await asyncio.to_thread(self.queue.artifacts.take_file, name, sha256)
            self.reply({"sha256": sha256}, 201)
            return
        if size := self.query(UploadQuery).announce:
            self.queue.stored.check(self.principal.payer, size)
            self.set_status(204)
            self.finish()
            return
        if self._upload is None:
            raise Malformed("An upload needs a body.")
        upload, self._upload = self._upload, None
        try:
            await asyncio.to_thread(upload.commit)
            await self.queue.grants.add(sha256, self.principal, self._job_org)
        finally:
            upload.pause()
            self._let_go()
        self.reply({"sha256": sha256}, 201)

    @operation(admits=ALL, answers={200: Content(headers=(_SIZE,))}, refuses=(NotFound,))
    async def head(self, sha256: str) -> None:
        """Say whether the caller has the blob here, its size is the length; if not, how much of it has arrived.

        Bytes that only others have sent are not here.
        """
        self.raise_refusal()
        if not await self.queue.grants.has(sha256, self.principal):
            payer = self.principal.payer
            if arrived := self.queue.artifacts.arrived(sha256, self.principal.owner, payer and payer[0]):
                self.set_status(404)
                self.set_header(OFFSET_HEADER, str(arrived))
                self.finish()
                return
            raise NotFound("There is no such blob.")
        self.set_header("Content-Length", str(self.queue.artifacts.size(sha256)))
        self.finish()

    def on_finish(self) -> None:
        """Let go of what was begun and not committed."""
        self._pause()
        super().on_finish()

    def on_connection_close(self) -> None:
        """Keep what a vanished sender began, for when it comes back."""
        self._pause()

    def _pause(self) -> None:
        if self._upload is not None:
            self._upload.pause()
            self._upload = None
            self._let_go()

    def _let_go(self) -> None:
        if self._hold is not None:
            self.queue.stored.end(self._hold)
            self._hold = None


def _sends(admits: frozenset[Credential], query: type[msgspec.Struct] = NoArguments) -> Callable[[F], F]:
    """Declare what every route that sends a blob takes and answers."""
    return operation(
        admits=admits,
        query=query,
        headers=_ASKED_FOR,
        answers={
            200: Content(BYTES, headers=(_ETAG, _SIZE)),
            206: Content(BYTES, headers=(_ETAG, Header("Content-Range", str, "Which bytes these are."))),
            304: None,
        },
        refuses=(JobNotFound, NotFound, BlobMismatch, RangeNotSatisfiable),
    )


class _BlobFile(ApiHandler, web.StaticFileHandler):
    """One blob as a download with ETag and Range, found by `blob_of`."""

    _blob: JobArtifact
    #: How the audit calls a download.
    download = ""

    @property
    def act(self) -> str:
        """Of the route, not of the method that all such routes share; a look at the header takes nothing away."""
        return self.download if self.request.method == "GET" else ""

    def initialize(self, **_: object) -> None:  # type: ignore[override]
        """Take any path: `blob_of` alone says which file it is."""
        self.root = "/"

    @_sends(PEOPLE)
    async def head(self, job_id: str, name: str = "") -> None:
        """Answer as `get` does, without the bytes."""
        await self._send(job_id, name, include_body=False)

    @_sends(PEOPLE)
    async def get(self, job_id: str, name: str = "") -> None:  # type: ignore[override]
        """Send the blob."""
        await self._send(job_id, name, include_body=True)

    async def _send(self, job_id: str, name: str, *, include_body: bool) -> None:
        self._blob = await self.blob_of(job_id, name)
        if self._blob.data is not None:
            self._reply_whole(self._blob.data, include_body=include_body)
            return
        await asyncio.to_thread(_check, self.queue.artifacts, self._blob.sha256)
        await web.StaticFileHandler.get(self, self._blob.sha256, include_body)
        if self.get_status() == RangeNotSatisfiable.status:  # tornado says so without a body
            size = self._blob.size
            raise RangeNotSatisfiable(f"The range lies outside of the {size:,} bytes.", "Ask for less.", size=size)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in a header too how long the blob is (RFC 9110, 14.4)."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, RangeNotSatisfiable):
            self.set_header("Content-Range", f"bytes */{error.details['size']}")
        super().write_error(status_code, **kwargs)

    def _reply_whole(self, data: bytes, *, include_body: bool) -> None:
        """Send what is kept with the job itself; it is so small that no part of it is sent alone."""
        self.set_header("Content-Type", self.get_content_type())
        self.set_header("Content-Length", str(len(data)))
        self.set_extra_headers("")
        self.set_etag_header()
        if self.check_etag_header():
            self.set_status(304)
        elif include_body:
            self.write(data)
        self.finish()

    @abstractmethod
    async def blob_of(self, job_id: str, name: str) -> JobArtifact:
        """Return which blob the address means."""

    @classmethod
    def get_absolute_path(cls, root: str, path: str) -> str:
        """Return the name unchanged; `validate_absolute_path` knows the store."""
        return path

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Return where the blob lies."""
        path: Path = self.queue.artifacts.path(absolute_path)
        if not path.is_file():
            raise NotFound("The bytes of this file are gone from the artifact store.")
        return str(path)

    def compute_etag(self) -> str | None:
        """Name the content by its hash."""
        return f'"{self._blob.sha256}"'

    def get_content_type(self) -> str:
        """Send bytes as bytes: what a job made is never shown as a page of this server."""
        return "application/octet-stream"

    def set_extra_headers(self, path: str) -> None:
        """Make browsers store, not show."""
        safe = re.sub(r"[^\w.\- ]", "_", self._blob.name.rsplit("/", 1)[-1], flags=re.ASCII) or "file"
        self.set_header("Content-Disposition", f'attachment; filename="{safe}"')
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("Cache-Control", "no-cache")


def _check(store: ArtifactStore, sha256: str) -> None:
    """Refuse a blob whose bytes are not what was stored; read once for each change of its file."""
    try:
        stat = store.path(sha256).stat()
    except FileNotFoundError:
        return  # `validate_absolute_path` says so
    _read_through(store, sha256, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=10_000)
def _read_through(store: ArtifactStore, sha256: str, *version: int) -> None:
    store.open(sha256).close()


class ArtifactHandler(_BlobFile):
    """``GET jobs/{id}/artifacts/{name}``."""

    download = "download artifact"

    async def blob_of(self, job_id: str, name: str) -> JobArtifact:
        """Find the artifact by its name."""
        job = await self.job(job_id)
        return _named(name, await self.queue.list_artifacts(job.id, scope=self.principal), "artifact")


class ResultHandler(_BlobFile):
    """``GET jobs/{id}/result``."""

    download = "download result"

    async def blob_of(self, job_id: str, name: str) -> JobArtifact:
        """Find the pickled value."""
        job = await self.job(job_id)
        if job.result is None:
            raise NotFound(f"Job {job.id} has no stored result.", "A command's output stands in the job itself.")
        return job.result


class VariableHandler(_BlobFile):
    """``GET jobs/{id}/variables/{name}``."""

    download = "download variable"

    async def blob_of(self, job_id: str, name: str) -> JobArtifact:
        """Find the pickled variable."""
        job = await self.job(job_id)
        return _named(name, [JobArtifact(v.name, v.sha256, v.size) for v in job.variables], "variable")


class InputQuery(msgspec.Struct):
    """Arguments of ``GET jobs/{id}/inputs/{name}``."""

    attempt: Annotated[int, msgspec.Meta(description="The attempt that reads it; 0 is the running one.", ge=0)] = 0


class InputHandler(_BlobFile):
    """``GET jobs/{id}/inputs/{name}``: for the worker that runs the job, while it does."""

    counts_as_client = False

    @_sends(WORKERS, InputQuery)
    async def head(self, job_id: str, name: str = "") -> None:
        """Answer as `get` does, without the bytes."""
        await self._send(job_id, name, include_body=False)

    @_sends(WORKERS, InputQuery)
    async def get(self, job_id: str, name: str = "") -> None:  # type: ignore[override]
        """Send the input."""
        await self._send(job_id, name, include_body=True)

    async def blob_of(self, job_id: str, name: str) -> JobArtifact:
        """Find the input by its name; ``function`` is the pickled call."""
        job = await self.job(job_id)
        if not self.queue.is_leased_to(self.principal, job, self.query(InputQuery).attempt or job.attempt):
            raise JobNotFound(f"Job {job.id} is not leased to a worker of yours.", "Its inputs are for the attempt.")
        digest = job.spec.function if name == "function" and job.spec.function else job.spec.inputs.get(name)
        if digest is None:
            raise NotFound(f"Job {job.id} has no input {name[:80]!r}.")
        return JobArtifact(name, digest, self.queue.artifacts.size(digest))


class ArtifactsHandler(ApiHandler):
    """``GET jobs/{id}/artifacts``."""

    @operation(admits=PEOPLE, answers={200: Artifacts}, refuses=(JobNotFound,))
    async def get(self, job_id: str) -> None:
        """List the files kept with a job."""
        job = await self.job(job_id)
        self.reply({"artifacts": await self.queue.list_artifacts(job.id, scope=self.principal)})


def _named(name: str, found: list[JobArtifact], what: str) -> JobArtifact:
    for artifact in found:
        if artifact.name == name:
            return artifact
    names = ", ".join(a.name for a in found[:10]) or "none"
    raise NotFound(f"The job has no {what} {name[:80]!r}.", f"It has: {names}.")
