"""The containers that checkpoints are kept in; one file each, all only read from.

- `base`: what a container must be able to do.
- `orbax`: Orbax trees, local and in object stores (`orbax_tree`, `zarr`, `ocdbt`, `kv`, `files`:
  its parts); `items`: finds them, also where several items of a step hold one tree.
- `msgpack`, `safetensors`: files of plain arrays (`mapped`: what they share).
"""

from pathlib import Path

from maxmig import errors
from maxmig.converters.storage.base import Grid, Storage

__all__ = ["Grid", "Storage", "open"]


def open(path: str | Path, *, step: int | None = None) -> Storage:
    """Opens a checkpoint, whatever holds it; reads metadata only.

    Args:
        path: a directory of steps, one step, its items; local or gs://, s3://, memory://.
        step: which step of a directory of steps; None takes the last complete one.

    Raises:
        CheckpointError: it is not there, not whole, or of no known kind.
    """
    from maxmig.converters import places
    from maxmig.converters.storage import items, kv

    place = Path(path)
    if not kv.is_url(path):
        whole = place.is_dir() and any(place.glob("*.safetensors"))
        if place.is_file() or whole:
            places.refuse_step(path, step)
            return _file(place)
        if (file := places.flax_file(place, step)) is not None:
            return _file(file)
    return items.locate(str(path), step)


def _file(path: Path) -> Storage:
    """A container that is a file, or a directory of safetensors files; told by its name."""
    from maxmig.converters.storage import msgpack, safetensors

    if path.is_dir() or ".safetensors" in path.suffixes:
        return safetensors.read(path)
    if path.suffix in (".msgpack", ".flax", ".ckpt") or msgpack.begins(path):
        return msgpack.read(path)
    raise errors.CheckpointError(
        f"{path}: expected a directory, or a file of flax.serialization (*.msgpack) or "
        "*.safetensors, but it is a file of another kind"
    )
