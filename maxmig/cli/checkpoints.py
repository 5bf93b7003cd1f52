"""The weights that a verb works with: those of `--checkpoint`, or the run's own."""

from typing import TYPE_CHECKING

from maxmig import errors

if TYPE_CHECKING:
    from maxmig.config import Config
    from maxmig.train.runtime import Leaves, Runtime


def weights(cfg: "Config", directory: str | None) -> "tuple[Runtime, Leaves, str]":
    """The programs of a configuration, the weights as they take them, and where they are from.

    Args:
        cfg: the configuration.
        directory: a checkpoint; by default the last one of the configuration's own run.

    Raises:
        CheckpointError: there is none, or it does not match the model.
    """
    from maxmig.train import folder, start
    from maxmig.train.runtime import Runtime

    if directory is None:
        place = folder.of(cfg).checkpoints
        if not cfg.run.run_name or not place.exists():
            raise errors.CheckpointError(
                f"expected a checkpoint: {place} does not exist. Give --checkpoint DIR, or the "
                "run_name and base_output_directory of a run that was trained"
            )
        directory = str(place)
    runtime = Runtime(cfg)
    flat = start.parameters(runtime, directory)
    leaves = (flat[f"params/{path}"] for path in runtime.param_paths)
    return runtime, tuple(leaves), directory
