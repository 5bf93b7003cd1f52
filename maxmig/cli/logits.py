"""`maxmig logits`: the neutral exchange with any other framework: arrays in, arrays out."""

import argparse
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    import numpy as np

    from maxmig.train.runtime import Runtime

_OPTIONAL = ("inputs_position", "inputs_segmentation", "targets", "targets_segmentation")


def run(args: argparse.Namespace) -> int:
    """Writes logits, loss and gradients of a batch."""
    cfg = common.load_config(args)
    import numpy as np

    from maxmig.cli import checkpoints

    cfg = cfg.replace(gradient_accumulation_steps=1, global_batch_size_to_train_on=None)
    given, output = Path(args.inputs), Path(args.output)
    targets = {"--output": output} | (
        {"--gradients": Path(args.gradients)} if args.gradients else {}
    )
    _check_places(given, targets)
    batch, has_targets = read(given, cfg.model.vocab_size)
    if args.gradients and not has_targets:
        raise errors.ConfigError(
            f"--gradients needs targets: {given} has no array 'targets', so there is no loss"
        )
    weights = checkpoints.weights(cfg, args.checkpoint)
    runtime = weights.runtime
    _check_positions(given, batch, runtime)
    console.note(f"weights  {weights}")
    console.note(f"rung     {runtime.proof}")
    rows = len(batch["inputs"])
    padded = _pad(batch, -rows % runtime.devices)
    logits = np.asarray(runtime.logits(weights.params, padded))[:rows].astype(np.float32)
    result: dict[str, Any] = {"logits": logits}
    gradients: dict[str, Any] = {}
    if has_targets:
        loss, found = runtime.gradients(weights.params, padded)
        result["loss"] = np.float32(loss.total)
        # NumPy's files have no bfloat16; float32 holds it whole.
        gradients = {path: np.asarray(g).astype(np.float32) for path, g in found.items()}
    if args.gradients:
        _write(targets["--gradients"], gradients)
    _write(output, result)
    if args.json:
        console.emit_json(
            {
                "stage": runtime.proof.stage.value,
                "checkpoint": weights.directory,
                "checkpoint_step": weights.step,
                "output": args.output,
                "logits_shape": list(logits.shape),
                "loss": float(result["loss"]) if has_targets else None,
                "gradients": args.gradients,
            }
        )
        return 0
    shape = "x".join(map(str, logits.shape))
    loss_text = f", loss {result['loss']:.6f}" if has_targets else ""
    console.out(f"{output}: logits {shape}{loss_text}")
    if args.gradients:
        console.out(f"{args.gradients}: {len(gradients)} gradients")
    return 0


def read(path: Path, vocab: int) -> "tuple[dict[str, np.ndarray], bool]":
    """A complete batch from an .npz file, and whether it has targets.

    Raises:
        DataError: the file cannot be read.
        ConfigError: an array is missing, has another shape or dtype, or a token is no token.
        InconclusiveError: there is no token, or no target that counts.
    """
    import numpy as np

    arrays = _load(path)
    if "inputs" not in arrays:
        raise errors.ConfigError(
            f"{path}: expected an array 'inputs' (int32 [B, S]), it has {sorted(arrays) or 'none'}"
        )
    batch = {n: _checked(path, n, arrays, vocab) for n in ("inputs", *_OPTIONAL) if n in arrays}
    unused = sorted(set(arrays) - set(batch) - {"targets_position"})
    if unused:
        console.err(f"warning: {path}: not used: {', '.join(unused)}")
    shape = batch["inputs"].shape
    has_targets = "targets" in batch
    batch.setdefault("inputs_segmentation", np.ones(shape, np.int32))
    batch.setdefault("inputs_position", np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape))
    batch.setdefault("targets", np.zeros(shape, np.int32))
    batch.setdefault("targets_segmentation", batch["inputs_segmentation"])
    if has_targets and not batch["targets_segmentation"].any():
        raise errors.InconclusiveError(
            f"{path}: targets_segmentation is 0 everywhere: no target counts, so there is no loss; "
            "leave targets out for logits alone"
        )
    return batch, has_targets


def _checked(path: Path, name: str, arrays: "dict[str, np.ndarray]", vocab: int) -> "np.ndarray":
    import numpy as np

    array, shape = arrays[name], arrays["inputs"].shape
    if array.ndim != 2 or array.shape != shape or not np.issubdtype(array.dtype, np.integer):
        raise errors.ConfigError(
            f"{path}: {name}: expected integers of the shape of inputs, [B, S], "
            f"got {array.dtype}{list(array.shape)} beside inputs {list(shape)}"
        )
    if 0 in shape:
        raise errors.InconclusiveError(f"{path}: inputs has the shape {list(shape)}: nothing to do")
    low, high = int(array.min()), int(array.max())
    if name in ("inputs", "targets") and not 0 <= low <= high < vocab:
        raise errors.ConfigError(
            f"{path}: {name}: expected tokens from 0 to {vocab - 1} (vocab_size={vocab}), "
            f"got {low} to {high}"
        )
    if not 0 <= low <= high < 2**31:
        raise errors.ConfigError(
            f"{path}: {name}: expected numbers from 0 to {2**31 - 1}, got {low} to {high}"
        )
    return array.astype(np.int32)


def _check_positions(path: Path, batch: "dict[str, np.ndarray]", runtime: "Runtime") -> None:
    table = runtime.model.decoder.positions
    last = int(batch["inputs_position"].max())
    if table is not None and last >= table.rows:
        raise errors.ConfigError(
            f"{path}: the sequences have positions up to {last}, but the model has positions for "
            f"0 to {table.rows - 1} (trainable_position_size={table.rows}); shorten them"
        )


def _load(path: Path) -> "dict[str, np.ndarray]":
    import zipfile

    import numpy as np

    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name; write it with numpy.savez")
        with file:
            return dict(file)
    except FileNotFoundError:
        raise errors.DataError(
            f"{path}: expected an .npz file, but there is no such file"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise errors.DataError(f"{path}: expected an .npz file of arrays, but {told}") from error


def _pad(batch: "dict[str, np.ndarray]", rows: int) -> "dict[str, np.ndarray]":
    """Adds rows of padding, so that the devices share the batch evenly; they count for nothing."""
    import numpy as np

    return {name: np.pad(array, ((0, rows), (0, 0))) for name, array in batch.items()}


def _check_places(given: Path, targets: dict[str, Path]) -> None:
    """Everything that can be known before the work about the files to be written."""
    seen = {given.absolute(): "--inputs"}
    for option, path in targets.items():
        folder = path.absolute().parent
        if other := seen.get(path.absolute()):
            raise errors.ConfigError(f"{option}: expected another file than {other}, got {path}")
        seen[path.absolute()] = option
        if path.is_dir():
            raise errors.DataError(f"{option}: expected a file to write, but {path} is a folder")
        if not folder.is_dir():
            raise errors.DataError(
                f"{option}: expected a place to write to, but there is no folder {folder}; "
                "make it first"
            )
        if not os.access(folder, os.W_OK):
            raise errors.DataError(f"{option}: no permission to write in the folder {folder}")


def _write(path: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise errors.DataError(f"{path}: writing failed: {error.strerror or error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    common.add_config_arguments(parser)
    common.add_checkpoint_argument(parser)
    parser.add_argument(
        "--inputs",
        required=True,
        metavar="IN.npz",
        help="int32 [B, S]: inputs, and optionally inputs_position, inputs_segmentation, targets, "
        "targets_segmentation",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="OUT.npz",
        help="logits float32 [B, S, V] and, with targets, loss",
    )
    parser.add_argument(
        "--gradients",
        metavar="G.npz",
        help="the loss's gradient for every parameter, by canonical path",
    )


VERB = Verb(
    name="logits",
    help="logits, loss and gradients of a batch, as arrays for any other framework",
    examples=(
        "maxmig logits configs/demo.yml --inputs IN.npz --output OUT.npz",
        "maxmig logits configs/demo.yml --inputs IN.npz --output OUT.npz --gradients G.npz "
        "enable_nnx=true pure_nnx=true pure_nnx_decoder=true",
    ),
    add_arguments=add_arguments,
    run=run,
)
