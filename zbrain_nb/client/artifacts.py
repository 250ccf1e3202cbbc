"""`Artifact`: a file kept with a job, read, downloaded or opened as what its name says that it is."""

from __future__ import annotations

import base64
import hashlib
import io
import pickle
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import msgspec

from zbrain_nb.model.errors import BlobMismatch, NotFound, Unreadable
from zbrain_nb.model.job import Job, JobArtifact

if TYPE_CHECKING:
    from zbrain_nb.client.client import Client

_IMAGES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".svg": "image/svg+xml",
}
_TEXTS = frozenset(
    {
        ".txt",
        ".md",
        ".rst",
        ".log",
        ".out",
        ".err",
        ".html",
        ".htm",
        ".xml",
        ".py",
        ".r",
        ".jl",
        ".sh",
        ".sql",
        ".toml",
        ".yaml",
        ".yml",
        ".ini",
        ".cfg",
        ".tex",
        ".css",
        ".js",
    }
)
_PICKLES = frozenset({".pkl", ".pickle"})
_PACKED = (".gz", ".bz2", ".xz", ".zst")


class Image:
    """A picture that a notebook shows.

    Attributes
    ----------
    data : bytes
        As the job left it.
    mime : str
        Its type.
    """

    def __init__(self, data: bytes, mime: str, name: str) -> None:
        self.data = data
        self.mime = mime
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.mime} {self.name!r}, {len(self.data):,} bytes>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        is_text = self.mime == "image/svg+xml"
        shown = self.data.decode(errors="replace") if is_text else base64.b64encode(self.data).decode()
        return {self.mime: shown, "text/plain": repr(self)}


class Artifact:
    """A file kept with a job.

    Attributes
    ----------
    name, sha256, size : str, str, int
        What it is called, the hash of its bytes, and how many there are.
    """

    def __init__(self, client: Client, job: Job, artifact: JobArtifact) -> None:
        self._client = client
        self._job = job
        self._artifact = artifact
        self.name = artifact.name
        self.sha256 = artifact.sha256
        self.size = artifact.size

    def __repr__(self) -> str:
        return f"<zbrain artifact {self.name!r}, {self.size:,} bytes>"

    @property
    def _path(self) -> str:
        return f"jobs/{self._job.id}/artifacts/{quote(self.name)}"

    def read(self) -> bytes:
        """Return the whole content.

        Raises
        ------
        BlobMismatch
            If other bytes arrived than the job left.
        """
        data = self._client.call(self._client.asynchronous.read, self._path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BlobMismatch(f"Artifact {self.name!r} arrived with other bytes than the job left.", "Try again.")
        return data

    def download(self, path: str | Path) -> Path:
        """Write the content to a file (into `path` if that is a folder); returns where.

        It takes little memory, and the file appears once it is whole and its hash is right. A broken connection is
        taken up again where it broke; so is a download that was given up, when it is called again.

        Raises
        ------
        NotFound
            If there is no such folder.
        ServerUnreachable
            If the server stays away.
        BlobMismatch
            If other bytes arrived than the job left.
        """
        target = Path(path)
        if target.is_dir():
            target = target / Path(self.name).name
        elif not target.parent.is_dir():
            raise NotFound(f"There is no folder {target.parent}.", "Make it, or give another path.")
        self._client.call(self._client.asynchronous.download, self._job.id, self._artifact, target)
        return target

    def text(self, encoding: str = "utf-8") -> str:
        """Return the content as text.

        Raises
        ------
        Unreadable
            If it is no text in this encoding.
        """
        try:
            return self.read().decode(encoding)
        except UnicodeDecodeError as error:
            self._refuse(f"no {encoding} text ({error.reason} at byte {error.start})", "Give another encoding.", error)

    def json(self) -> Any:
        """Return the content as JSON says it.

        Raises
        ------
        Unreadable
            If it is no JSON.
        """
        try:
            return msgspec.json.decode(self.read())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._refuse(f"no JSON ({error})", "`.read()` gives its bytes.", error)

    def image(self) -> Image:
        """Return the content as a picture, which a notebook shows.

        Raises
        ------
        Unreadable
            If its name is not that of a picture.
        """
        mime = _IMAGES.get(self._suffix)
        if mime is None:
            self._refuse("no picture by its name", f"A picture's name ends in {_listed(_IMAGES)}.")
        return Image(self.read(), mime, self.name)

    def df(self, **options: Any) -> Any:
        """Return a table (Parquet, Feather, CSV, TSV, JSON lines) as a pandas DataFrame.

        Parameters
        ----------
        **options
            For the function of pandas that reads it.

        Raises
        ------
        Unreadable
            If it is no table, or what reads it is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            self._refuse("not readable as a table here: there is no pandas", "`pip install pandas`.", error)
        readers: dict[str, Callable[..., Any]] = {
            ".parquet": pandas.read_parquet,
            ".pq": pandas.read_parquet,
            ".feather": pandas.read_feather,
            ".csv": pandas.read_csv,
            ".tsv": lambda path, **more: pandas.read_csv(path, **{"sep": "\t", **more}),
            ".jsonl": lambda path, **more: pandas.read_json(path, **{"lines": True, **more}),
        }
        reader = readers.get(self._suffix)
        if reader is None:
            self._refuse("no table by its name", f"A table's name ends in {_listed(readers)}.")
        with tempfile.TemporaryDirectory(prefix="zbrain-") as folder:
            path = self.download(Path(folder))
            try:
                return reader(path, **options)
            except ImportError as error:
                self._refuse(f"not readable here: {str(error).splitlines()[0]}", "`pip install pyarrow`.", error)
            except (ValueError, OSError) as error:
                self._refuse(f"no readable table ({str(error).splitlines()[0]})", "`.read()` gives its bytes.", error)

    def load(self, *, trust: bool = False) -> Any:
        """Return the content as what its name says: text, JSON, a picture, a table, an array or a pickled object.

        Parameters
        ----------
        trust : bool
            Load a pickle of somebody else's job too: loading one runs whatever its maker put in.

        Returns
        -------
        object
            `str`, what JSON says, `Image`, DataFrame, ndarray, the object, or, of any other name, `bytes`.

        Raises
        ------
        UntrustedResult
            If it is a pickle of somebody else's job.
        Unreadable
            If the content is not what the name says, or what reads it is not installed.
        """
        suffix = self._suffix
        if suffix in _PICKLES:
            return self._unpickle(trust=trust)
        if suffix in (".json", ".ipynb", ".geojson"):
            return self.json()
        if suffix in _IMAGES:
            return self.image()
        if suffix in (".parquet", ".pq", ".feather", ".csv", ".tsv", ".jsonl"):
            return self.df()
        if suffix == ".npy":
            return self._array()
        if suffix in _TEXTS and not self.name.lower().endswith(_PACKED):
            return self.text()
        return self.read()

    @property
    def _suffix(self) -> str:
        name = self.name.lower()
        for packed in _PACKED:
            name = name.removesuffix(packed)
        return Path(name).suffix

    def _unpickle(self, *, trust: bool) -> Any:
        if not trust:
            hint = "`.load(trust=True)` if you trust both; `.read()` gives its bytes."
            self._client.check_trusted([self._job], f"The artifact {self.name!r}", hint)
        try:
            return pickle.loads(self.read())
        except Exception as error:  # its classes may raise whatever they like
            self._refuse(f"not loadable here ({type(error).__name__}: {error})", "`.read()` gives its bytes.", error)

    def _array(self) -> Any:
        try:
            import numpy

            return numpy.load(io.BytesIO(self.read()), allow_pickle=False)
        except (ImportError, ValueError) as error:
            self._refuse(f"no readable array ({error})", "`.read()` gives its bytes.", error)

    def _refuse(self, what: str, hint: str, cause: Exception | None = None) -> NoReturn:
        raise Unreadable(f"Artifact {self.name!r} is {what}.", hint) from cause


class Artifacts(dict[str, Artifact]):
    """The files kept with a job, by name."""

    def __missing__(self, name: str) -> Artifact:
        raise NotFound(f"The job keeps no artifact {name!r}.", f"It keeps: {', '.join(self) or 'none'}.")


def _listed(suffixes: Iterable[str]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"
