"""Fingerprints: one for a state in any layout, stacking and chunking; another for any change.

The definition is held against a second, plain one that has the whole array in memory.
"""

import hashlib
import itertools
import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxmig import errors
from maxmig.checkpoint import Store
from maxmig.converters import checkpoint
from maxmig.converters.compare import hash, tiles
from maxmig.converters.compare.tiles import Tiles
from maxmig.converters.leaves import Leaf

RNG = np.random.default_rng(3)


def leaf_of(array: np.ndarray) -> Leaf:
    return Leaf(array.shape, array.dtype.name, array.nbytes)


def plain(array: np.ndarray) -> str:
    """The fingerprint as docs/checkpoints.md defines it."""
    tile, left = [], 65536
    for place, size in enumerate(array.shape[::-1]):
        most = 1024 if place == 0 and array.ndim > 1 else left
        tile = [max(1, min(size, most)), *tile]
        left //= tile[0]
    told = hashlib.blake2b(digest_size=32, person=b"maxmig leaf 1")
    told.update(json.dumps([array.dtype.name, list(array.shape)]).encode())
    spans = [range(0, n, t) for n, t in zip(array.shape, tile, strict=True)]
    for begin in itertools.product(*spans):
        box = tuple(slice(b, b + t) for b, t in zip(begin, tile, strict=True))
        told.update(hashlib.blake2b(array[box].tobytes(), digest_size=16).digest())
    return told.hexdigest()


def cut(shape, chunk):
    spans = [
        [(start, min(start + size, end)) for start in range(0, end, size)]
        for end, size in zip(shape, chunk, strict=True)
    ]
    return list(itertools.product(*spans))


def fed(array, chunk, order=None) -> str:
    found = Tiles(leaf_of(array))
    boxes = cut(array.shape, chunk)
    for place in order or range(len(boxes)):
        found.feed(boxes[place], array[tuple(slice(*span) for span in boxes[place])])
    return found.digest()


@pytest.mark.parametrize(
    "shape", [(), (0,), (5,), (70_000,), (3, 0, 2), (130, 1100), (2, 3, 5, 7), (1, 1), (70_000, 1)]
)
def test_the_definition(shape):
    array = RNG.normal(size=shape).astype(np.float32)
    assert fed(array, shape or ()) == plain(array) if 0 not in shape else True
    assert Tiles(leaf_of(array)).tile == tiles.tile_shape(shape)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_chunks_in_any_order_give_the_same(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    scale = data.draw(st.sampled_from([1, 300]))
    shape = (*shape[:-1], shape[-1] * scale)
    dtype = data.draw(st.sampled_from(["float32", "bfloat16", "int8", "bool", "complex64"]))
    array = RNG.integers(0, 2, size=shape).astype(np.dtype(dtype))
    chunk = tuple(data.draw(st.integers(1, size)) for size in shape)
    if len(cut(shape, chunk)) > 400:
        chunk = shape
    order = data.draw(st.permutations(range(len(cut(shape, chunk)))))
    assert fed(array, chunk, order) == plain(array)


def test_what_counts():
    one = np.ones((2, 3), np.float32)
    others = [
        one.reshape(3, 2),
        one.astype(np.int32),
        one.view(np.int32),
        np.where(np.arange(6).reshape(2, 3) == 5, np.nextafter(one, 2), one).astype(np.float32),
    ]
    zero = np.zeros(1, np.float32)
    nan = np.array([0x7FC00000], np.uint32)
    pairs = [(one, other) for other in others] + [
        (zero, -zero),
        (nan.view(np.float32), (nan + 1).view(np.float32)),
        (np.arange(4).reshape(2, 2), np.arange(4).reshape(2, 2).T),
    ]
    for a, b in pairs:
        assert plain(a) == fed(a, a.shape) != fed(b, b.shape) == plain(b)


def test_what_has_not_come_has_no_fingerprint():
    array = np.ones((4, 4), np.float32)
    found = Tiles(leaf_of(array))
    found.feed(((0, 2), (0, 4)), array[:2])
    with pytest.raises(ValueError, match="0 of 1 tiles"):
        found.digest()


def test_memory_is_that_of_unfinished_tiles():
    array = np.ones((4096, 64), np.float32)
    found = Tiles(leaf_of(array))
    most = 0
    for box in cut(array.shape, (100, 64)):
        found.feed(box, array[tuple(slice(*span) for span in box)])
        most = max(most, found.pending)
    assert 0 < most <= 65536 * 4 and found.pending == 0


def test_one_state_has_one_digest(source, converted):
    src = source("gpt3_nnx_scan")
    expected = hash.fingerprint(checkpoint.read(src))
    for to, options in (("nnx", {}), ("nnx", {"scan": False}), ("linen", {"scan_axis": 0})):
        found = hash.fingerprint(checkpoint.read(converted(src, to, **options)))
        assert found.leaves == expected.leaves, (to, options)
        assert (found.digest, found.sections) == (expected.digest, expected.sections)
    assert "params/decoder/layers_0/mlp/wo/kernel" in expected.leaves


def test_the_definition_of_the_digests():
    """By the text in docs/checkpoints.md: sorted as text, whatever order the leaves are told in."""
    paths = ("params/layers_2/w", "params/layers_10/w", "step", "aux/rngs/key")
    found = hash.Fingerprint({path: plain(np.ones(i)) for i, path in enumerate(paths)}, {})

    def digest(paths):
        lines = "".join(f"{found.leaves[path]}  {path}\n" for path in sorted(paths))
        return hashlib.blake2b(lines.encode(), digest_size=32, person=b"maxmig ckpt 1").hexdigest()

    assert sorted(found.leaves) != list(found.leaves)
    assert found.digest == digest(p for p in found.leaves if not p.startswith("aux/"))
    assert found.sections["params"] == digest(p for p in found.leaves if p.startswith("params/"))


def test_other_states_have_other_digests(source):
    a, b = (hash.fingerprint(checkpoint.read(source(f"gpt3_{n}_scan"))) for n in ("nnx", "linen"))
    assert a.digest != b.digest and a.sections["params"] != b.sections["params"]
    shared = a.leaves.keys() & b.leaves.keys()
    assert shared and a.leaves["step"] == b.leaves["step"]


def test_random_state_is_told_apart(source):
    """The digest is that of the state that both wings keep."""
    whole = hash.fingerprint(checkpoint.read(source("gpt3_nnx_scan")))
    without = hash.Fingerprint(
        {path: told for path, told in whole.leaves.items() if not path.startswith("aux/")}, {}
    )
    assert "aux" in whole.sections and whole.digest == without.digest
    assert hash.fingerprint(checkpoint.read(source("gpt3_nnx_scan")), only="params").digest != (
        whole.digest
    )


def test_chunking_does_not_matter(tmp_path):
    """One array written by Orbax in one chunk and in many."""
    import orbax.checkpoint as ocp

    array = RNG.normal(size=(300, 70)).astype(np.float32)
    tree = {"params": {"params": {"w": array}}, "step": np.int32(1)}
    digests = set()
    for name, args in (("one", ocp.SaveArgs()), ("many", ocp.SaveArgs(chunk_byte_size=4096))):
        ocp.PyTreeCheckpointer().save(
            tmp_path / name, tree, save_args={"params": {"params": {"w": args}}, "step": args}
        )
        found = checkpoint.read(tmp_path / name)
        digests.add(hash.fingerprint(found).digest)
        assert hash.fingerprint(found).leaves["params/w"] == plain(array)
    assert len(digests) == 1


def test_nothing_to_hash_is_inconclusive(tmp_path):
    with Store(tmp_path / "x", asynchronous=False) as store:
        store.save(1, {"params/w": np.ones(3, np.float32)})
    with pytest.raises(errors.InconclusiveError, match="no leaf of 'opt'"):
        hash.fingerprint(checkpoint.read(tmp_path / "x"), only="opt")


def test_bits_of_narrow_types():
    array = np.array([1, -0.0, np.nan], ml_dtypes.bfloat16)
    assert fed(array, (2,)) == plain(array)
