"""What a conversion has done, so that a stopped or killed one can go on where it was.

The journal lies inside the temporary directory and is a line of JSON a finished piece. A piece is
written before its line, so a line that is there is true; one that is missing costs its piece again.
"""

import json
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
        self._head = {"digest": digest}
        if not self._file.exists():
            self._append(self._head)

    def done(self) -> set[int]:
        """The numbers of the finished pieces of all processes."""
        found: set[int] = set()
        for file in self._folder.glob("process_*.jsonl"):
            found |= {entry["piece"] for entry in _lines(file) if "piece" in entry}
        return found

    def finish(self, piece: int) -> None:
        """Notes that a piece is in the result for good."""
        self._append({"piece": piece})

    def _append(self, entry: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def digest_of(root: Path) -> str | None:
    """The digest of the conversion that a temporary directory belongs to; None without one."""
    for file in sorted((root / FOLDER).glob("process_*.jsonl")):
        for entry in _lines(file):
            return entry.get("digest")
    return None


def _lines(file: Path) -> list[dict[str, Any]]:
    found = []
    for line in file.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote this line
            break
    return found
