"""The data directory: its secret, its owner file, its locks."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from zbrain_nb.model import datadir
from zbrain_nb.model.datadir import DataDir, FileLock, Owner, boot_id, is_locked, lock_holder
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.hosting import find_host


def test_token_is_made_once_and_readable_by_this_account_only(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "d")
    assert data.token() == DataDir(tmp_path / "d").token()
    assert len(data.token()) == 64
    assert stat.S_IMODE(data.token_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "\n", "short", "g" * 64])
def test_token_file_without_a_secret_is_refused(tmp_path: Path, content: str) -> None:
    data = DataDir(tmp_path)
    data.token_file.write_text(content)
    with pytest.raises(ZBrainError, match="holds no token"):
        data.token()


def test_owner_of_another_boot_is_nobody(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    owner = Owner("http://127.0.0.1:1/", "t", 1, boot_id(), "i")
    data.write_owner(owner)
    assert data.read_owner() == owner
    assert stat.S_IMODE(data.owner_file.stat().st_mode) == 0o600
    data.write_owner(Owner("http://127.0.0.1:1/", "t", 1, "another boot", "i"))
    assert data.read_owner() is None
    data.owner_file.write_text("{")
    assert data.read_owner() is None


def test_files_that_another_account_made_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that others may write: what they name as host would be sent code and data."""
    data = DataDir(tmp_path)
    token = data.token()
    data.write_owner(Owner("http://127.0.0.1:1/", token, 1, boot_id(), "i"))
    made = os.stat_result
    monkeypatch.setattr(datadir.os, "geteuid", lambda: data.root.stat().st_uid + 1)
    monkeypatch.setattr(datadir.os, "fstat", lambda fd: made((*[0] * 4, 4711, *[0] * 5)))
    for read in (data.token, data.read_owner, lambda: find_host(data)):
        with pytest.raises(ZBrainError, match=r"was made by another account \(uid 4711\)"):
            read()
    for maker in (0, os.geteuid()):
        monkeypatch.setattr(datadir.os, "fstat", lambda fd, maker=maker: made((*[0] * 4, maker, *[0] * 5)))
        assert data.token() == token


def test_lock_is_held_by_one_and_names_its_holder(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert not is_locked(tmp_path / "l")
    assert first.acquire()
    assert not second.acquire()
    assert lock_holder(tmp_path / "l") == os.getpid()
    first.release()
    assert lock_holder(tmp_path / "l") is None
    assert second.acquire()
    second.release()
