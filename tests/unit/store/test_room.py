"""The floor and the ballast, on a disk whose numbers the test makes up."""

import os
from types import SimpleNamespace

import pytest

from zbrain_nb.store import room
from zbrain_nb.store.room import Room

MB = 1 << 20
TOTAL = 1000 * MB  # the floor and the ballast are 50 MB each


class Disk:
    def __init__(self, folder):
        self.folder = folder
        self.ballast = folder / "ballast"
        self.others = 0

    def statvfs(self, path):
        held = self.ballast.stat().st_size if self.ballast.exists() else 0
        free = max(0, TOTAL - self.others - held)
        return SimpleNamespace(f_bavail=free, f_blocks=TOTAL, f_frsize=1)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    disk = Disk(tmp_path)
    monkeypatch.setattr(room.os, "statvfs", disk.statvfs)
    return disk


def test_room_holds_ballast_while_there_is_room(disk):
    place = Room(disk.folder, disk.ballast)
    assert not place.look_now()
    assert disk.ballast.stat().st_size == 50 * MB
    assert disk.ballast.stat().st_blocks * 512 >= 50 * MB
    place.close()
    assert not disk.ballast.exists()


def test_room_is_low_under_the_floor_and_gives_ballast_away_at_half_of_it(disk):
    place = Room(disk.folder, disk.ballast)
    place.look_now()
    disk.others = TOTAL - 50 * MB - 40 * MB
    assert place.look_now()
    assert disk.ballast.exists()
    disk.others = TOTAL - 50 * MB - 20 * MB
    assert place.look_now()
    assert not disk.ballast.exists()


def test_room_given_by_the_ballast_lets_no_job_in(disk):
    place = Room(disk.folder, disk.ballast)
    place.look_now()
    disk.others = TOTAL - 50 * MB - 20 * MB
    place.look_now()
    assert disk.statvfs("").f_bavail == 70 * MB  # above the floor
    assert place.look_now()
    disk.others = TOTAL - 101 * MB
    assert not place.look_now()
    assert disk.ballast.exists()


def test_room_of_a_write_that_failed_is_given_once(disk):
    place = Room(disk.folder, disk.ballast)
    place.look_now()
    assert place.release()
    assert not place.release()
    assert not disk.ballast.exists()


def test_room_without_ballast_or_disk(disk):
    place = Room(disk.folder)
    assert not place.look_now()
    disk.others = TOTAL - 10 * MB
    assert place.look_now()
    assert not place.release()
    assert not Room(None).look_now()


def test_room_looks_at_the_disk_now_and_then(disk, monkeypatch):
    monkeypatch.setattr(room, "LOOK_SECS", 1e6)
    place = Room(disk.folder / "not" / "made" / "yet")
    assert not place.is_low()
    disk.others = TOTAL
    assert not place.is_low()
    assert place.look_now()


def test_room_in_which_no_ballast_can_be_made_leaves_no_part_of_it(disk, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    place = Room(disk.folder, disk.ballast)
    assert not place.look_now()
    assert not disk.ballast.exists()
