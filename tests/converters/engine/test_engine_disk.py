"""A disk that refuses links, or does not take what is written."""

import errno
import os

import pytest
from engine_cases import contents, convert, renamed, save, state

from maxmig import errors
from maxmig.converters import storage
from maxmig.converters.engine import durable


def test_hard_links_that_the_system_refuses_become_copies(tmp_path, monkeypatch):
    save(tmp_path / "src", state())

    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    convert(renamed(storage.open(tmp_path / "src"), lambda path: path), tmp_path / "dst")
    monkeypatch.undo()
    assert contents(tmp_path / "dst") == contents(tmp_path / "src")
    assert all(p.stat().st_nlink == 1 for p in (tmp_path / "dst").rglob("*") if p.is_file())


def test_what_is_verified_goes_to_the_disk_meanwhile(tmp_path, monkeypatch):
    """Each data file once, when it is whole; the rest is waited for at the end."""
    sent = []
    monkeypatch.setattr(durable, "hasten", sent.append)
    arrivals = durable.Arrivals(tmp_path)
    (tmp_path / "one").touch()
    (tmp_path / "two.__lock").touch()
    arrivals.verified(1 << 20)
    assert sent == []
    arrivals.verified(8 << 20)
    assert sent == [tmp_path / "one"]
    (tmp_path / "two.__lock").rename(tmp_path / "two")
    arrivals.verified(9 << 20)
    assert sent == [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_disk_that_does_not_take_it(meanwhile, tmp_path, monkeypatch):
    """What goes to the disk meanwhile is waited for, and what was removed since is no error."""
    for name in ("data", "removed"):
        (tmp_path / name).write_bytes(b"some")
    durable.hasten(tmp_path / "removed")
    (tmp_path / "removed").unlink()
    durable.hasten(tmp_path / "removed")
    durable.settle(tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        if meanwhile:
            durable.hasten(tmp_path / "data")
        with pytest.raises(errors.CheckpointError, match=r"disk did not take.*No space left"):
            durable.settle(tmp_path)
    durable.settle(tmp_path)
