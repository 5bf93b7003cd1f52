"""TensorBoard's event files.

tensorboardX's own writer works in a thread, which holds events back for two minutes (a run that is
killed loses them) and, once it has died of a full disk, blocks whoever writes. Here a record is in
the file when `write` returns; only the format is tensorboardX's.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c


class Events:
    """One more event file of a folder."""

    def __init__(self, folder: Path, *, start: int):
        """
        Args:
            folder: where TensorBoard looks; earlier files in it belong to the same run.
            start: number of updates that are done already; TensorBoard forgets what an earlier
                file tells of later ones.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        number = time.time_ns()  # files are read in the order of their names
        name = f"events.out.tfevents.{number}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._append(event_pb2.Event(file_version="brain.Event:2"))
        if start:
            begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._append(event_pb2.Event(step=start + 1, session_log=begun))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars by tag.

        Raises:
            OSError: they cannot be written.
        """
        event = event_pb2.Event(step=step)
        for tag, value in values.items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._append(event)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        self._file.write(length + next(sums) + data + next(sums))
