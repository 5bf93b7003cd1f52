"""What was written is read back: a change on the way to the disk, or on it, is found."""

import numpy as np
import pytest

from maxmig import errors
from maxmig.converters.engine import check, target
from maxmig.converters.storage import zarr

DATA = np.random.default_rng(0).normal(size=(40, 41)).astype(np.float32)


def write(version, box, place):
    """A box that is written to a target of its own; (what `check.same` takes, the target)."""
    found = target.Target(f"memory://{place}", use_ocdbt=False)
    array = zarr.new(version, (40, 41), "float32", (24, 24))
    written = ("w", array, box, DATA[tuple(slice(*span) for span in box)].copy())
    return written, found.write(*written), found


BOXES = [((0, 24), (0, 24)), ((24, 40), (0, 24)), ((0, 24), (24, 41)), ((0, 24), (0, 41))]
IDS = ["whole", "padded at its end", "padded within", "two chunks"]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("box", BOXES, ids=IDS)
def test_what_is_read_back(version, box, request):
    told, written, _ = write(version, box, request.node.name.replace(" ", ""))
    written.result()
    check.same(told, written, "the source")
    other = told[-1].copy()
    other[-1, -1] = -other[-1, -1]
    with pytest.raises(errors.CheckpointError, match="reads otherwise than it was written"):
        check.same((*told[:-1], other), written, "the source")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("box", BOXES, ids=IDS)
def test_what_cannot_be_read_back_is_an_error(version, box, request):
    told, written, place = write(version, box, request.node.name.replace(" ", ""))
    written.result()
    (name, *_) = (key.decode() for key in sorted(place.store.list().result()))
    place.store[name] = bytes(place.store[name])[:-9]
    with pytest.raises(errors.CheckpointError, match="w, which was just written"):
        check.same(told, written, "the source")
