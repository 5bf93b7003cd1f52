"""Writes the numbers of a run: JSON lines, TensorBoard, and a line for the reader."""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.train.folder import Folder

Values = Mapping[str, float]


class Writer:
    """Writes each record to all places.

    A record is `{"step": number of finished updates, name: value, ...}`.
    """

    def __init__(self, folder: Folder, *, start: int, tensorboard: bool):
        """
        Args:
            folder: of the run.
            start: number of updates that are done already; records beyond it, left by a run that
                was killed after its last checkpoint, are removed, for they are written again. A run
                that starts from nothing leaves older records in a file beside its own.
            tensorboard: whether TensorBoard events are written.

        Raises:
            DataError: the metrics file cannot be written, or is no metrics file.
        """
        self._path, self._board = folder.metrics, folder.tensorboard
        self._events: Any = None
        with self._writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _keep_until(self._path, start)
            self._file = self._path.open("a", encoding="utf-8")
        if tensorboard:
            from maxmig.train import tensorboard as board

            with self._writing(self._board):
                self._events = board.Events(self._board, start=start)

    def write(self, step: int, values: Values) -> None:
        """Writes one record.

        Raises:
            DataError: it cannot be written.
        """
        record = {"step": step} | {k: _number(v) for k, v in values.items()}
        with self._writing(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._events is not None:
            group = "evaluation" if any(k.startswith("eval_") for k in values) else "learning"
            with self._writing(self._board):
                self._events.write(step, {f"{group}/{k}": v for k, v in values.items()})

    def close(self) -> None:
        """Closes the files."""
        with contextlib.suppress(OSError):  # nothing is held back, so nothing can be lost here
            self._file.close()
            if self._events is not None:
                self._events.close()

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.DataError(
                f"{path}: expected a place to write metrics to, but writing failed: "
                f"{error.strerror or error}. Make room, or set metrics_file or "
                "base_output_directory to a place that can be written"
            ) from error


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def line(step: int, total: int, values: Values) -> str:
    """A record as a line of text: step, loss, learning rate, tokens/s, step time, ETA."""
    parts = [f"step {step}/{total}"]
    parts += [f"loss {values['loss']:.4f}", f"lr {values['learning_rate']:.2e}"]
    if "tokens_per_second" in values:
        parts += [
            f"{values['tokens_per_second']:,.0f} tokens/s",
            f"{1000 * values['step_time']:.1f} ms/step",
            f"ETA {_clock((total - step) * values['step_time'])}",
        ]
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float) -> float | int | str:
    value = float(value)
    if not math.isfinite(value):
        return str(value)  # JSON has no NaN
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _keep_until(path: Path, start: int) -> None:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    steps = [_step(text) for text in lines]
    for number, step in enumerate(steps[:-1], 1):  # the last line may have been cut off by a kill
        if step is None:
            raise errors.DataError(
                f"{path}:{number}: expected a file of metrics, JSON lines with a step, got "
                f"{lines[number - 1][:60]!r}; set metrics_file to a file of its own"
            )
    kept = [line for line, step in zip(lines, steps, strict=True) if _until(step, start)]
    if len(kept) == len(lines) and (not text or text.endswith("\n")):
        return
    if not kept:
        free = (path.with_name(f"{path.name}.{n}") for n in itertools.count(1))
        path.rename(next(name for name in free if not name.exists()))
        return
    replacement = path.with_name(path.name + ".tmp")
    replacement.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    replacement.replace(path)


def _until(step: float | None, start: int) -> bool:
    return step is not None and step <= start


def _step(text: str) -> float | None:
    try:
        return float(json.loads(text)["step"])
    except (ValueError, KeyError, TypeError):
        return None
