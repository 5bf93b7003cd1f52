"""`maxmig logits`: the neutral exchange with any other framework: arrays in, arrays out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    import numpy as np

_OPTIONAL = ("inputs_position", "inputs_segmentation", "targets", "targets_segmentation")


def run(args: argparse.Namespace) -> int:
    """Writes logits, loss and gradients of a batch."""
    cfg = common.load_config(args)
    import numpy as np

    from maxmig.cli import checkpoints

    cfg = cfg.replace(gradient_accumulation_steps=1, global_batch_size_to_train_on=None)
    batch, has_targets = read(Path(args.inputs), cfg.model.vocab_size)
    if args.gradients and not has_targets:
        raise errors.ConfigError(
            f"--gradients needs targets: {args.inputs} has no array 'targets', so there is no loss"
        )
    for name in filter(None, (args.output, args.gradients)):
        _check_writable(Path(name))
    runtime, params, source = checkpoints.weights(cfg, args.checkpoint)
    rows = len(batch["inputs"])
    padded = _pad(batch, -rows % runtime.devices)
    result: dict[str, Any] = {"logits": np.asarray(runtime.logits(params, padded))[:rows]}
    result["logits"] = result["logits"].astype(np.float32)
    if has_targets:
        loss, gradients = runtime.gradients(params, padded)
        result["loss"] = np.float32(loss.total)
        if args.gradients:
            _write(Path(args.gradients), {k: np.asarray(g) for k, g in gradients.items()})
    _write(Path(args.output), result)
    document = {
        "stage": runtime.proof.stage.value,
        "checkpoint": source,
        "output": args.output,
        "logits_shape": list(result["logits"].shape),
        "loss": float(result["loss"]) if has_targets else None,
        "gradients": args.gradients,
    }
    if args.json:
        console.emit_json(document)
        return 0
    console.note(f"rung     {runtime.proof}")
    shape = "x".join(map(str, document["logits_shape"]))
    loss_text = f", loss {document['loss']:.6f}" if has_targets else ""
    console.out(f"{args.output}: logits {shape}{loss_text}")
    if args.gradients:
        console.out(f"{args.gradients}: {len(gradients)} gradients")
    return 0


def read(path: Path, vocab: int) -> "tuple[dict[str, np.ndarray], bool]":
    """A complete batch from an .npz file, and whether it has targets.

    Raises:
        DataError: the file cannot be read.
        ConfigError: an array is missing, has another shape or dtype, or a token is no token.
    """
    import numpy as np

    arrays = _load(path)
    if "inputs" not in arrays:
        raise errors.ConfigError(
            f"{path}: expected an array 'inputs' (int32 [B, S]), it has {sorted(arrays) or 'none'}"
        )
    shape = arrays["inputs"].shape
    batch = {}
    for name in ("inputs", *_OPTIONAL):
        if name not in arrays:
            continue
        array = arrays[name]
        if array.ndim != 2 or array.shape != shape or not np.issubdtype(array.dtype, np.integer):
            raise errors.ConfigError(
                f"{path}: {name}: expected integers of the shape of inputs, [B, S], "
                f"got {array.dtype}{list(array.shape)} beside inputs {list(shape)}"
            )
        batch[name] = array.astype(np.int32)
    if 0 in shape:
        raise errors.InconclusiveError(f"{path}: inputs has the shape {list(shape)}: nothing to do")
    for name in ("inputs", "targets"):
        if name in batch and not (0 <= batch[name].min() and batch[name].max() < vocab):
            raise errors.ConfigError(
                f"{path}: {name}: expected tokens from 0 to {vocab - 1} (vocab_size={vocab}), "
                f"got {batch[name].min()} to {batch[name].max()}"
            )
    has_targets = "targets" in batch
    ones = np.ones(shape, np.int32)
    batch.setdefault("inputs_segmentation", ones)
    batch.setdefault("inputs_position", np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape))
    batch.setdefault("targets", np.zeros(shape, np.int32))
    batch.setdefault("targets_segmentation", batch["inputs_segmentation"])
    return batch, has_targets


def _load(path: Path) -> "dict[str, np.ndarray]":
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise errors.DataError(
            f"{path}: expected an .npz file, but there is no such file"
        ) from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise errors.DataError(f"{path}: expected an .npz file of arrays, but {error}") from error


def _pad(batch: "dict[str, np.ndarray]", rows: int) -> "dict[str, np.ndarray]":
    """Adds rows of padding, so that the devices share the batch evenly; they count for nothing."""
    import numpy as np

    return {name: np.pad(array, ((0, rows), (0, 0))) for name, array in batch.items()}


def _check_writable(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise errors.DataError(
            f"{path}: expected a place to write to, but the folder {path.absolute().parent} "
            "does not exist"
        )


def _write(path: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    temporary = path.with_name(path.name + ".tmp")
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
