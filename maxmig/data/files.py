"""Finding and reading input files, with an error that says which file and where in it."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from maxmig.errors import DataError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def find(patterns: str | Sequence[str], key: str) -> tuple[Path, ...]:
    """The files that a path, a glob or a list of them names, each once.

    Args:
        patterns: The value of the setting; a glob may hold `**`. Matches of one glob are sorted.
        key: The name of the setting, for the error.

    Raises:
        DataError: A path does not exist or is a folder, or a glob matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found |= dict.fromkeys(_expand(pattern, key))
    return tuple(found)


def read_bytes(path: Path) -> bytes:
    """All bytes of a file that must not be empty."""
    try:
        content = path.read_bytes()
    except OSError as e:
        raise unreadable(path, e) from e
    if not content:
        raise DataError(f"{path} is empty: expected text. Remove it from the list of files.")
    return content


def read_text(path: Path) -> str:
    """All text of a UTF-8 file."""
    return decode(read_bytes(path), str(path))


def decode(content: bytes, where: str) -> str:
    """UTF-8 text; an error gives the offset of the first byte that is not text."""
    if content[:2] in _UTF16:
        raise DataError(f"{where} is UTF-16: expected UTF-8 text. Convert it to UTF-8 first.")
    nul = content.find(b"\0")
    if nul >= 0:
        raise DataError(
            f"{where} is not text: NUL byte at offset {nul}. Expected UTF-8 text; for another "
            "format set dataset_type."
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as e:
        raise DataError(
            f"{where} is not UTF-8 text: byte 0x{content[e.start]:02x} at offset {e.start} "
            f"({e.reason}). Convert it to UTF-8, or set dataset_type if it is another format."
        ) from e


def unreadable(path: Path, error: BaseException) -> DataError:
    """The error for a file that exists but cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"{path} cannot be read: {reason}. Check its permissions and its storage.")


def _expand(pattern: str, key: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise DataError(
            f"{key}: {path} is a folder: expected files. Give a glob such as {path}/*.txt."
        )
    if path.exists():
        return [path]
    if not glob.has_magic(pattern):
        raise DataError(
            f"{key}: there is no file {path} (working folder {Path.cwd()}). Check the path."
        )
    # Path.glob takes no absolute pattern.
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    matches = [match for match in matches if match.is_file()]
    if not matches:
        raise DataError(
            f"{key}: no file matches {pattern!r} (working folder {Path.cwd()}). Check the glob."
        )
    return matches
