"""The small files of a directory or bucket, and what may go wrong with them."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from maxmig import errors
from maxmig.converters import places
from maxmig.converters.storage import kv


class Files:
    """The files below a directory, local or remote; only read."""

    def __init__(self, url: str):
        self.url = url
        self._root = None if kv.is_url(url) else Path(url)

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None when there is none."""
        with reading(f"{self.url}/{name}"):
            if self._root is not None:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    return (self._root / name).read_bytes()
                return None
            found = kv.directory(self.url).read(name).result()
            return found.value if found.state == "value" else None

    def names(self, prefix: str) -> list[str]:
        """The names of all files below a prefix that ends in `/`, or of all."""
        with reading(f"{self.url}/{prefix}"):
            if self._root is None:
                keys = kv.directory(self.url).list().result()
                return [key.decode() for key in keys if key.decode().startswith(prefix)]
            return [name for name, _ in walk(self._root / prefix, prefix)]

    def stats(self) -> Iterator[str]:
        """A line for each file that changes when the file does."""
        with reading(self.url):
            if self._root is not None:
                for name, entry in sorted(walk(self._root, ""), key=lambda item: item[0]):
                    told = entry.stat()
                    yield f"{name}\0{told.st_size}\0{told.st_mtime_ns}\n"
                return
            store = kv.directory(self.url)
            for key in sorted(store.list().result()):
                stamp = store.read(key, byte_range=slice(0, 0)).result().stamp
                yield f"{key.decode()}\0{stamp.generation.hex()}\n"


def walk(directory: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry]]:
    """All files below a directory with their names; links are followed to files within reach."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if entry.is_dir():
            yield from walk(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


class Part:
    """A part of a file that is open: all of it, unless told otherwise."""

    def __init__(self, file: "io.FileIO", start: int = 0, size: int | None = None):
        self._file, self._at = file, start
        self._stop = os.fstat(file.fileno()).st_size if size is None else start + size

    def __len__(self) -> int:
        return max(0, self._stop - self._at)

    def __getitem__(self, wanted: slice) -> bytes:
        start, stop, _ = wanted.indices(len(self))
        return os.pread(self._file.fileno(), stop - start, self._at + start)

    def upto(self, size: int) -> "Part":
        """The beginning of it."""
        return Part(self._file, self._at, min(size, len(self)))

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        left = len(self)
        data = os.pread(self._file.fileno(), left if size < 0 else min(size, left), self._at)
        self._at += len(data)
        return data

    def readinto(self, room: memoryview) -> int:
        """Puts the next bytes into a buffer; tells how many."""
        count = os.preadv(self._file.fileno(), [room[: len(self)]], self._at)
        self._at += count
        return count


def check_links(root: Path) -> None:
    """Refuses a checkpoint with links that lead out of it.

    Raises:
        CheckpointError: names the first one.
    """
    real = root.resolve()
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_symlink():
                where = Path(entry.path).resolve()
                if not where.is_relative_to(real):
                    raise errors.CheckpointError(
                        f"{entry.path}: a link that leads out of the checkpoint, to {where}; "
                        "it is not followed: replace it by the file itself"
                    )
            elif entry.is_dir():
                folders.append(Path(entry.path))


def check_name(name: str, where: str) -> None:
    """Refuses the name of an array that is no safe path of a file below a directory.

    Raises:
        CheckpointError: it has an empty part, `.`, `..` or control characters.
    """
    parts = name.split("/")
    bad = any(part in ("", ".", "..") for part in parts)
    if bad or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise errors.CheckpointError(
            f"{where}: the leaf name {name!r} would lie outside of the directory, or is no name of "
            "a file: it is refused"
        )


class reading(contextlib.AbstractContextManager):
    """Turns whatever goes wrong while something is read into a `CheckpointError`."""

    def __init__(self, what: str):
        self.what = what

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, errors.MaxmigError | ImportError):
            return  # an ImportError (also Ctrl-C during one) tells nothing of the files
        if told := places.denied(error):
            raise errors.CheckpointError(f"{self.what}: {told}") from error
        if isinstance(error, Exception):
            told = " ".join(str(error).split())[:300]
            raise errors.CheckpointError(
                f"{self.what}: expected a readable checkpoint, but reading it failed: "
                f"{type(error).__name__}: {told}; the files are damaged or incomplete. "
                "Take another step or another copy"
            ) from error
