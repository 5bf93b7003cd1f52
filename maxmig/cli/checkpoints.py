"""The weights that a verb works with: those of `--checkpoint`, or the run's own."""

import dataclasses
from typing import TYPE_CHECKING

from maxmig import errors

if TYPE_CHECKING:
    from maxmig.config import Config
    from maxmig.train.runtime import Leaves, Runtime


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint, with the programs that take them.

    Attributes:
        runtime: the programs.
        params: the weights as they take them.
        directory: where the weights are from.
        step: the number of the checkpoint's directory; None if it has none.
    """

    runtime: "Runtime"
    params: "Leaves"
    directory: str
    step: int | None

    def __str__(self) -> str:
        return self.directory + ("" if self.step is None else f", folder {self.step}")


def weights(cfg: "Config", directory: str | None) -> Weights:
    """Loads weights.

    Args:
        cfg: the configuration.
        directory: a checkpoint; by default the last one of the configuration's own run.

    Raises:
        CheckpointError: there is none, or it does not match the model.
    """
    from maxmig.train import start
    from maxmig.train.runtime import Runtime

    directory = directory or _own(cfg)
    with start.open_store(directory) as store:
        step = store.latest()
    runtime = Runtime(cfg)
    flat = start.parameters(runtime, directory, step)
    leaves = tuple(flat[f"params/{path}"] for path in runtime.param_paths)
    return Weights(runtime, leaves, directory, step)


def _own(cfg: "Config") -> str:
    from maxmig.train import folder

    if not cfg.run.run_name:
        raise errors.CheckpointError(
            "expected a checkpoint, but neither --checkpoint DIR nor run_name=NAME of a run that "
            "was trained is given"
        )
    place = folder.of(cfg).checkpoints
    if not place.exists():
        raise errors.CheckpointError(
            f"expected the checkpoints of the run {cfg.run.run_name!r}, but there is no {place}. "
            "Train it first, or give --checkpoint DIR, or the base_output_directory that it has"
        )
    return str(place)
