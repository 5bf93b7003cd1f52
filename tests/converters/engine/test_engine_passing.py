"""Chunks that are cast and cut while they are decoded: the same result as by any other way."""

import json

import ml_dtypes
import numpy as np
import pytest
from engine_cases import FORMS, convert, renamed, save

from maxmig import errors
from maxmig.converters import casts, storage
from maxmig.converters.compare import record
from maxmig.converters.engine import passing, tasks
from maxmig.converters.leaves import Leaf
from maxmig.converters.ops import Same
from maxmig.converters.storage import decode, orbax
from maxmig.converters.transfers import Transfer

SHAPE = (331, 3, 700)  # more than one chunk of the result, the last of which is padded
LIMIT = {"chunk": 512 << 10, "threads": 1}


@pytest.fixture(scope="module")
def numbers():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture(scope="module", params=FORMS, ids=str)
def source(request, tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("source")
    save(path, {"w": numbers, "n": np.int32(3)}, **request.param)
    return path


def cast(path, dtype="bfloat16"):
    """A conversion that casts `w`."""
    found = storage.open(path)
    leaf = Leaf(SHAPE, dtype, np.dtype(dtype).itemsize * int(np.prod(SHAPE)))
    return renamed(found, transfers=[Transfer(("w",), leaf, (("w",),), Same(), cast=True)])


def pieces(todo):
    return [
        task
        for task in tasks.cut(todo.conversion, todo.pieces, todo.options)
        if isinstance(task, tasks.Piece) and task.passes
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_numbers_are_cast(source, numbers, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(casts, "BLOCK", 4099)
    todo, _ = convert(cast(source, dtype), tmp_path / "made", **LIMIT)
    assert pieces(todo)
    made = storage.open(tmp_path / "made")
    wanted = numbers.astype(np.dtype(dtype))
    assert made.read(("w",)).tobytes() == wanted.tobytes()
    assert not record.missing(made)
    assert record.checked(made).read(("w",)).tobytes() == wanted.tobytes()


def test_what_is_not_decoded_here_is_made_anew(source, numbers, tmp_path, monkeypatch):
    """Whether that shows at once, or in the midst of a value."""
    whole = orbax.Orbax.blocks

    def broken(self, path, box):
        blocks = whole(self, path, box)
        yield next(blocks)
        raise decode.Unknown

    monkeypatch.setattr(orbax.Orbax, "blocks", broken)
    convert(cast(source), tmp_path / "made", **LIMIT)
    made = storage.open(tmp_path / "made").read(("w",))
    assert made.tobytes() == numbers.astype(ml_dtypes.bfloat16).tobytes()


def test_nothing_is_left_over(source, monkeypatch):
    """A value that holds more or less than its metadata tell is not taken."""
    todo = cast(source)
    found = todo.storage
    box = tuple((0, size) for size in SHAPE)
    blocks = list(map(np.array, found.blocks(("w",), box)))
    assert sum(block.size for block in blocks) == np.prod(SHAPE)
    for told in (blocks[:-1], [*blocks, blocks[0]]):
        piece = tasks.Piece(((_route(todo), box),), 0, 0, (("w",), box), passes=True)
        monkeypatch.setattr(found, "blocks", lambda *_, told=told: iter(told))
        with pytest.raises(decode.Unknown):
            list(passing.writes(piece, found))


def _route(conversion):
    from maxmig.converters.engine import plan
    from maxmig.converters.engine.options import Options

    todo = plan.plan(conversion, "/nowhere", Options())
    return next(route for route in todo.routes if route.transfer.target == ("w",))


def test_a_number_that_would_become_infinite_is_refused(tmp_path, numbers):
    bad = numbers.copy()
    bad[200, 1, 5] = 3.4e38
    save(tmp_path / "source", {"w": bad, "n": np.int32(3)})
    with pytest.raises(errors.ConvertError, match=r"w: the number 3.4e\+38 does not fit bfloat16"):
        convert(cast(tmp_path / "source"), tmp_path / "made", **LIMIT)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("same_chunks", [True, False])
def test_what_was_recorded_is_held_against(source, numbers, tmp_path, same_chunks):
    """A source with a record: its own chunks while they pass, others as they are read."""
    found = storage.open(source)
    chunk = SHAPE if same_chunks else (100, 3, 700)
    leaf = found.tree()["w",]
    sums = record.sums(leaf.shape, chunk, record.whole(leaf.shape), numbers)
    values = [sums[at] for at in range(len(sums))]
    home = record.home(found)
    try:
        record.write(home[0], record.Record({("w",): record.Sums(leaf, chunk, tuple(values))}))
        convert(cast(source), tmp_path / "good", **LIMIT)
        values[-1] ^= 1
        record.write(home[0], record.Record({("w",): record.Sums(leaf, chunk, tuple(values))}))
        with pytest.raises(errors.CheckpointError, match="other bits than were recorded"):
            convert(cast(source), tmp_path / "bad", **LIMIT)
        assert not (tmp_path / "bad").exists()
    finally:
        (source / "9" / "items" / record.FILE).unlink()


def test_damage_is_told_as_ever(tmp_path, numbers):
    save(tmp_path / "source", {"w": numbers, "n": np.int32(3)}, use_ocdbt=False)
    (file,) = (
        p for p in (tmp_path / "source").rglob("*") if p.is_file() and p.stat().st_size > 9999
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)
    with pytest.raises(errors.CheckpointError, match=r"w.*is damaged or missing"):
        convert(cast(tmp_path / "source"), tmp_path / "made", **LIMIT)
    assert not (tmp_path / "made").exists()
    assert json.loads((tmp_path / "source" / "9" / "items" / "_METADATA").read_bytes())
