"""Files of a real job: opened as what they are, downloaded over broken connections, refused with a reason."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

import zbrain_nb
from tests.chaos.cable import Cable
from tests.conftest import end_everything
from zbrain_nb.client.artifacts import Artifact
from zbrain_nb.client.client import Client
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.locating import locator
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import BlobMismatch, NotFound, ServerUnreachable, Unreadable, UntrustedResult

LARGE_BYTES = 24 << 20
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WRITE = f"""
import gzip, io, os, random
import numpy, pandas, zbrain_nb as z
frame = pandas.DataFrame({{"a": [1, 2], "b": ["x", "y"]}})
z.save_artifact("grüße\\n", "notes.md")
z.save_artifact('{{"k": [1, 2]}}', "deep/values.json")
z.save_artifact({PNG!r}, "plot.png")
z.save_artifact("<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg")
z.save_artifact(frame.to_csv(index=False), "table.csv")
z.save_artifact(gzip.compress(frame.to_csv(index=False, sep="\\t").encode()), "table.tsv.gz")
z.save_artifact(frame, "frame.pkl")
z.save_artifact(b"\\xff\\xfe\\x00", "raw.bin")
z.save_artifact(b"\\xff\\xfe\\x00", "broken.json")
z.save_artifact(b"no pickle", "broken.pkl")
z.save_artifact(b"no parquet", "broken.parquet")
z.save_artifact("odd", "50% #1?.txt")
buffer = io.BytesIO(); numpy.save(buffer, numpy.arange(3)); z.save_artifact(buffer.getvalue(), "array.npy")
z.save_artifact(random.Random(7).randbytes({LARGE_BYTES}), "large.dat")
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobHandle]:
    root = tmp_path_factory.mktemp("artifacts") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZDB_DATA", str(root))
        client = zbrain_nb.connect()
        job = client.submit(code=WRITE)
        assert job.exception(120) is None
        yield job
        client.close()
        end_everything(root)


@pytest.fixture
def cabled(job: JobHandle, tmp_path: Path) -> Iterator[tuple[Cable, Artifact]]:
    """A cable to the server, and the large artifact at its end."""
    owner = DataDir(os.environ["ZDB_DATA"]).read_owner()
    assert owner is not None
    address = urlsplit(owner.url)
    cable = Cable("127.0.0.1", address.port or 0)
    client = Client(locator(f"http://127.0.0.1:{cable.port}/", owner.token))
    yield cable, client.job(job.id).artifacts["large.dat"]
    client.close()
    cable.close()


def test_load_picks_by_name(job: JobHandle) -> None:
    kept = job.artifacts
    assert kept["notes.md"].load() == kept["notes.md"].text() == "grüße\n"
    assert kept["deep/values.json"].load() == {"k": [1, 2]}
    assert kept["raw.bin"].load() == b"\xff\xfe\x00"
    assert kept["50% #1?.txt"].load() == "odd"
    assert kept["array.npy"].load().tolist() == [0, 1, 2]
    for name in ("table.csv", "table.tsv.gz", "frame.pkl"):
        assert kept[name].load().to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}, name


def test_df_takes_what_its_reader_takes(job: JobHandle) -> None:
    assert list(job.artifacts["table.csv"].df(usecols=["b"]).columns) == ["b"]


def test_image_shows_in_a_notebook(job: JobHandle) -> None:
    shown = job.artifacts["plot.png"].image()._repr_mimebundle_()
    assert base64.b64decode(shown["image/png"]) == PNG
    assert "image/svg+xml" in job.artifacts["drawing.svg"].load()._repr_mimebundle_()


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        ("broken.json", "load", "'broken.json' is no JSON"),
        ("broken.pkl", "load", "'broken.pkl' is not loadable here"),
        ("broken.parquet", "load", "'broken.parquet' is (no readable table|not readable here)"),
        ("raw.bin", "text", "'raw.bin' is no utf-8 text"),
        ("raw.bin", "image", "'raw.bin' is no picture by its name. A picture's name ends in .png"),
        ("raw.bin", "df", "'raw.bin' is no table by its name"),
    ],
)
def test_content_that_is_something_else_is_said(job: JobHandle, name: str, how: str, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        getattr(job.artifacts[name], how)()


def test_artifact_that_is_not_there_names_those_that_are(job: JobHandle) -> None:
    with pytest.raises(NotFound, match=r"no artifact 'none'. It keeps: .*notes.md"):
        job.artifacts["none"]


def test_pickle_of_somebody_else_needs_trust(job: JobHandle) -> None:
    known = job.artifacts["frame.pkl"]
    foreign = Artifact(job.client, msgspec.structs.replace(job.job, owner="somebody else"), known._artifact)
    with pytest.raises(UntrustedResult, match="somebody else"):
        foreign.load()
    assert len(foreign.load(trust=True)) == 2


def test_download_goes_on_where_the_connection_broke(cabled: tuple[Cable, Artifact], tmp_path: Path) -> None:
    cable, large = cabled
    cable.breaks_after = 5 << 20
    cable.carried = 0
    target = large.download(tmp_path)
    assert target == tmp_path / "large.dat"
    assert hashlib.sha256(target.read_bytes()).hexdigest() == large.sha256
    assert LARGE_BYTES < cable.carried < LARGE_BYTES * 1.8  # five beginnings would carry more
    assert list(tmp_path.iterdir()) == [target]


def test_download_given_up_goes_on_when_called_again(
    cabled: tuple[Cable, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cable, large = cabled
    monkeypatch.setattr(large._client.asynchronous.transport, "patience_secs", 0.0)
    cable.breaks_after = 16 << 20
    with pytest.raises(ServerUnreachable):
        large.download(tmp_path / "mine.dat")
    assert not (tmp_path / "mine.dat").exists()
    (part,) = tmp_path.glob(".mine.dat.*.part")
    assert part.stat().st_size > 8 << 20
    cable.carried = 0
    large.download(tmp_path / "mine.dat")
    assert cable.carried < 16 << 20
    assert hashlib.sha256((tmp_path / "mine.dat").read_bytes()).hexdigest() == large.sha256
    assert not part.exists()


def test_download_of_other_bytes_is_refused_and_leaves_nothing(job: JobHandle, tmp_path: Path) -> None:
    large = job.artifacts["large.dat"]
    (tmp_path / f".large.dat.{large.sha256[:16]}.part").write_bytes(b"x" * (1 << 20))
    with pytest.raises(BlobMismatch, match="arrived with other bytes"):
        large.download(tmp_path)
    assert list(tmp_path.iterdir()) == []
    large.download(tmp_path)
    assert (tmp_path / "large.dat").stat().st_size == LARGE_BYTES


def test_two_downloads_at_once_do_not_mix(job: JobHandle, tmp_path: Path) -> None:
    large = job.artifacts["large.dat"]
    start = job.client.start
    asynchronous = job.client.asynchronous
    futures = [start(asynchronous.download, job.id, large._artifact, tmp_path / "same.dat") for _ in range(3)]
    for future in futures:
        future.result(60)
    assert hashlib.sha256((tmp_path / "same.dat").read_bytes()).hexdigest() == large.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["same.dat"]


def test_retry_finds_the_checkpoints_of_the_job(job: JobHandle) -> None:
    code = "import zbrain_nb\nfolder = zbrain_nb.checkpoint_dir()\nseen = len(list(folder.iterdir()))\n"
    code += "(folder / str(seen)).touch()\nseen"
    first = job.client.submit(code=code)
    assert first.result(60) == 0
    second = first.retry()
    assert (second.result(60), second.retry().result(60)) == (1, 2)
