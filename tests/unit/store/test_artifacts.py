import hashlib
import os
import stat

import pytest

from zbrain_nb.model.errors import BlobMismatch, InvalidSpec, NotFound
from zbrain_nb.store.artifacts import ArtifactStore

DATA = b"weights" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "blobs")


def leftovers(store):
    return list((store.folder / "incoming").iterdir())


def test_put_bytes_then_open_gives_the_bytes_and_lies_under_its_hash(store):
    assert store.put_bytes(DATA) == (SHA, len(DATA))
    assert store.path(SHA) == store.folder / SHA[:2] / SHA[2:]
    assert store.has(SHA)
    assert store.size(SHA) == len(DATA)
    assert store.read(SHA) == DATA
    assert list(store) == [SHA]
    assert leftovers(store) == []


def test_put_file_twice_keeps_one_unchangeable_blob(store, tmp_path):
    source = tmp_path / "model.pkl"
    source.write_bytes(DATA)
    assert store.put_file(source) == store.put_file(source) == (SHA, len(DATA))
    assert list(store) == [SHA]
    assert not stat.S_IMODE(store.path(SHA).stat().st_mode) & 0o222


def test_put_file_missing_raises_and_leaves_nothing(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        store.put_file(tmp_path / "absent")
    with pytest.raises(NotFound):
        store.size(SHA)


def test_upload_in_pieces_appears_only_when_committed(store):
    upload = store.open_upload(SHA)
    upload.write(DATA[:100])
    upload.write(DATA[100:])
    assert not store.has(SHA)
    assert upload.commit() == (SHA, len(DATA))
    assert store.has(SHA)


def test_upload_of_other_bytes_raises_mismatch_and_keeps_nothing(store):
    upload = store.open_upload(SHA)
    upload.write(b"other")
    with pytest.raises(BlobMismatch):
        upload.commit()
    assert not store.has(SHA)
    assert list(store) == []
    assert leftovers(store) == []


def test_upload_aborted_keeps_nothing(store):
    upload = store.open_upload()
    upload.write(DATA)
    upload.abort()
    upload.abort()
    assert list(store) == []
    assert leftovers(store) == []


def test_open_of_damaged_blob_raises_mismatch(store):
    store.put_bytes(DATA)
    path = store.path(SHA)
    path.chmod(0o600)
    path.write_bytes(b"x" + DATA[1:])
    with pytest.raises(BlobMismatch):
        store.open(SHA)


@pytest.mark.parametrize(
    "name",
    ["", "ab", "../" + "a" * 61, "a" * 63 + "/", "A" * 64, "a" * 65, "a" * 64 + "\n", "/etc/passwd", "g" * 64, None, 3],
)
@pytest.mark.parametrize("method", ["path", "has", "size", "open", "read"])
def test_names_that_are_no_hash_are_refused(store, method, name):
    with pytest.raises(InvalidSpec):
        getattr(store, method)(name)


def test_upload_to_a_name_that_is_no_hash_is_refused(store):
    with pytest.raises(InvalidSpec):
        store.open_upload("../" + "a" * 61)


def test_missing_lists_what_is_not_here_in_order(store):
    store.put_bytes(DATA)
    assert store.missing(["b" * 64, SHA, "a" * 64]) == ["b" * 64, "a" * 64]


def lay(store, data=DATA, name="upload-laid_1"):
    (store.folder / "incoming").mkdir(parents=True, exist_ok=True)
    path = store.folder / "incoming" / name
    path.write_bytes(data)
    return path


def test_laid_file_becomes_the_blob_without_a_copy(store):
    inode = lay(store).stat().st_ino
    assert store.take_file("upload-laid_1", SHA) == len(DATA)
    assert store.path(SHA).stat().st_ino == inode
    assert store.read(SHA) == DATA
    assert not stat.S_IMODE(store.path(SHA).stat().st_mode) & 0o222
    assert leftovers(store) == []


def test_laid_file_of_other_bytes_is_refused_and_not_kept_as_the_blob(store):
    lay(store, b"other")
    with pytest.raises(BlobMismatch):
        store.take_file("upload-laid_1", SHA)
    assert not store.has(SHA)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "upload-../../outside", "upload-", "upload-a\n", "upload-é", "upload-absent"]
)
def test_name_that_is_no_laid_file_is_not_found(store, tmp_path, name):
    lay(store)
    (tmp_path / "outside").write_bytes(DATA)
    with pytest.raises(NotFound):
        store.take_file(name, SHA)
    assert not store.has(SHA)
    assert (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "folder"])
def test_laid_link_or_special_file_is_not_found(store, tmp_path, kind):
    outside = tmp_path / "secret"
    outside.write_bytes(DATA)
    path = lay(store)
    path.unlink()
    if kind == "symlink":
        path.symlink_to(outside)
    elif kind == "hard link":
        path.hardlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(NotFound):
        store.take_file(path.name, SHA)
    assert not store.has(SHA)
    assert stat.S_IMODE(outside.stat().st_mode) & 0o200  # it was not touched
