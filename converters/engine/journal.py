"""What a conversion has done, so that a stopped or killed one can go on where it was.

The journal lies inside the temporary directory and is a line of JSON a finished piece. A piece is
written before its line, so a line that is there is true; one that is missing costs its piece again.
"""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = ".maxmig-journal"


class Journal:
    """The finished pieces of one conversion.

    Args:
        root: the temporary directory.
        digest: of the plan and the source; a journal of anything else does not count.
        process: the number of the process that writes.
    """

    def __init__(self, root: Path, digest: str, process: int = 0):
        self._folder = root / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"process_{process}.jsonl"
        self._head = {"digest": digest, "host": socket.gethostname()}
        if not self._file.exists():
            self._append(self._head)

    def done(self) -> set[int]:
        """The numbers of the finished pieces of all processes."""
        found: set[int] = set()
        for file in self._folder.glob("process_*.jsonl"):
            found |= {entry["piece"] for entry in _lines(file) if "piece" in entry}
        return found

    def finish(self, piece: int, sums: Mapping[str, Mapping[int, int]]) -> None:
        """Notes that a piece is in the result for good, and its checksums."""
        self._append({"piece": piece, "sums": listed(sums)})

    def sums(self) -> Iterator[dict[str, dict[int, int]]]:
        """The checksums of the finished pieces of all processes."""
        for file in self._folder.glob("process_*.jsonl"):
            for entry in _lines(file):
                yield mapped(entry.get("sums", {}))

    def _append(self, entry: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def listed(sums: Mapping[str, Mapping[int, int]]) -> dict[str, list[tuple[int, int]]]:
    """Checksums as JSON can hold them, which has no numbers as keys."""
    return {name: list(found.items()) for name, found in sums.items()}


def mapped(told: Mapping[str, list[tuple[int, int]]]) -> dict[str, dict[int, int]]:
    """The inverse of `listed`."""
    return {name: dict(found) for name, found in told.items()}


def boot() -> str:
    """Tells this start of the machine from any other, where the system does.

    After a power failure a line may be on the disk and its piece not: such a journal is of no use.
    """
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def digest_of(root: Path) -> str | None:
    """The digest of the conversion that a temporary directory belongs to; None without one."""
    return _head(root).get("digest")


def host_of(root: Path) -> str | None:
    """The machine that a temporary directory was made on; None where nothing tells."""
    return _head(root).get("host")


def _head(root: Path) -> dict[str, Any]:
    for file in sorted((root / FOLDER).glob("process_*.jsonl")):
        for entry in _lines(file):
            return entry
    return {}


def _lines(file: Path) -> list[dict[str, Any]]:
    found = []
    for line in file.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote this line
            break
    return found
