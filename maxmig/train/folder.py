"""The folder of a run, and what it holds: checkpoints, metrics, TensorBoard events."""

import dataclasses
import datetime
from pathlib import Path

from maxmig.config import Config


@dataclasses.dataclass(frozen=True)
class Folder:
    """<base_output_directory>/<run_name>.

    Attributes:
        root: the folder.
        metrics: file of JSON lines.
    """

    root: Path
    metrics: Path

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are, a directory a step."""
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Where TensorBoard's events are."""
        return self.root / "tensorboard"


def of(cfg: Config) -> Folder:
    """The folder of a configuration's run; nothing is created."""
    name = cfg.run.run_name or f"run-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    root = Path(cfg.run.base_output_directory) / name
    return Folder(
        root, Path(cfg.run.metrics_file) if cfg.run.metrics_file else root / "metrics.jsonl"
    )
