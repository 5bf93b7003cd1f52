"""The record of checksums: damage that decodes to other numbers is found without another copy."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from damaging import flip, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from maxmig.checkpoint import Store
from maxmig.converters import checkpoint, convert, storage
from maxmig.converters.compare import record, recorded
from maxmig.converters.engine import check, pieces
from maxmig.converters.engine.options import Options
from maxmig.converters.leaves import Leaf

SQUARE = "params/decoder/square/kernel"


def linked(source, made):
    """The same files under new names: TensorStore remembers what it read by path."""
    shutil.copytree(source, made, copy_function=os.link)
    return made


def data_files(place):
    """The files that hold arrays and what leads to them: all below the tree's directory."""
    found = checkpoint.read(place).place.items.rglob("*")
    return [path for path in sorted(found) if path.is_file() and path.suffix != ".txt"]


def values(place):
    opened = storage.open(place)
    leaves = [path for path, leaf in opened.tree().items() if isinstance(leaf, Leaf)]
    return {path: opened.read(path).tobytes() for path in leaves}


def record_of(place):
    return record.of(storage.open(place))


@pytest.fixture
def made(good, tmp_path, maxmig):
    """A source of its own, and what was converted from it by reference: (source, result)."""
    source, result = tmp_path / "src", tmp_path / "dst"
    shutil.copytree(good, source)
    code, _, err = maxmig("ckpt", "convert", source, result, "--to", "nnx")
    assert code == 0, err
    return source, result


def test_any_byte_of_any_data_file(made, tmp_path, maxmig):
    """It is found and named, or is a byte of which no array is made, proved by every value."""
    _, result = made
    good, found = values(result), Counter()
    files = data_files(result)
    todo = [(file, at) for file in files for at in range(file.stat().st_size)]
    step = len(todo) // 24 + 1  # every so many bytes, begun at another place in each run of sizes
    for number, (file, at) in enumerate(todo[step // 2 :: step]):
        flip(file, at)
        place = linked(result, tmp_path / f"flipped_{number}")
        code, out, err = maxmig("ckpt", "verify", place)
        found[code] += 1
        if code:
            assert code == 4 and ("! " in out or "damaged" in err), (file, at, out, err)
        else:
            assert values(place) == good, (file, at)
        flip(file, at)
    assert found[4] > found[0]
    assert maxmig("ckpt", "verify", linked(result, tmp_path / "whole"))[0] == 0


@pytest.fixture
def quiet(made, tmp_path):
    """The same after a flip in a file of both sides that decodes to other numbers."""
    source, result = made
    good = values(source)
    file, begin, length = stored(source, SQUARE)[0]
    for at in range(begin + length // 2, begin + length - 40):
        flip(source / file, at)
        seen = linked(source, tmp_path / f"seen_{at}")
        try:
            if values(seen) != good:
                return seen, linked(result, tmp_path / "damaged_result")
        except Exception:  # it breaks the decoding: another one
            pass
        flip(source / file, at)
    raise AssertionError("no flip decodes to other numbers")


def test_damage_that_both_sides_share(quiet, tmp_path, maxmig):
    """Files are the same, and so is every number on both sides: only the record tells."""
    source, result = quiet
    for words in (
        ("verify", result),
        ("verify", result, "--against", source),
        ("diff", source, result),
        ("hash", result),
        ("convert", result, tmp_path / "back", "--to", "linen"),
        ("convert", result, tmp_path / "back", "--to", "linen", "--scan"),
        ("convert", result, tmp_path / "back", "--to", "linen", "--dtype", "bfloat16"),
    ):
        code, out, err = maxmig("ckpt", *words)
        assert code == 4 and "decoder/square/kernel" in out + err, (words, out, err)
        assert "chunk [0, 0]" in out + err and "recorded" in out + err
    assert not (tmp_path / "back").exists()
    items = checkpoint.read(result).place.items
    (items / record.FILE).unlink()  # without it nothing can tell, and says so
    code, out, _ = maxmig("ckpt", "verify", result)
    assert code == 3 and "nothing is recorded" in out
    code, out, err = maxmig("ckpt", "verify", result, "--against", source)
    assert code == 0 and "would not be seen" in err


def test_a_record_where_there_was_none(made, maxmig):
    """Only on request, and never over damage."""
    source, _ = made
    before = sorted(path.name for path in source.iterdir())
    assert maxmig("ckpt", "verify", source)[0] == 3
    assert sorted(path.name for path in source.iterdir()) == before
    code, out, _ = maxmig("ckpt", "verify", source, "--record")
    assert code == 0 and "12 are recorded now" in out
    code, out, _ = maxmig("--json", "ckpt", "verify", source)
    assert code == 0 and json.loads(out)["as_recorded"] == 12


def test_a_record_is_sealed(made, tmp_path, maxmig):
    _, result = made
    items = checkpoint.read(result).place.items
    whole = (items / record.FILE).read_bytes()
    for text in (whole.replace(b'"float32"', b'"float16"', 1), whole[:-1], b"[]", b"{}"):
        (items / record.FILE).write_bytes(text)
        code, _, err = maxmig("ckpt", "verify", result)
        assert code == 4 and "record of checksums is damaged" in err
    (items / record.FILE).write_bytes(whole)
    assert maxmig("ckpt", "verify", result)[0] == 0


def test_a_lost_or_another_array_is_named(made):
    _, result = made
    opened = storage.open(result)
    known = record.of(opened)
    lost = dict(known.arrays) | {("more",): record.Sums(Leaf((), "int32", 4), (), (0,))}
    step = known.arrays["optimizer", "step"]
    lost["optimizer", "step"] = record.Sums(Leaf((), "int32", 4), (), step.values)
    record.write(opened.items, record.Record(lost))
    report = recorded.hold(opened)
    told = [str(line) for line in report.lines if line.sign == "!"]
    assert report.exit_code == 4 and len(told) == 2
    assert "not there any more" in told[0] and "uint32[] now" in told[1]


@pytest.mark.parametrize("options", [{}, {"scan": True}, {"copy": True}])
def test_checksums_go_with_what_is_moved(options, good, tmp_path, monkeypatch, maxmig):
    """By reference and by chunk, renamed and stacked, nothing is decoded: they are carried over."""
    source = tmp_path / "src"
    shutil.copytree(good, source)
    assert maxmig("ckpt", "verify", source, "--record")[0] == 0
    monkeypatch.setattr(check, "SMALL", 0)
    monkeypatch.setattr(check, "_SAMPLE", 0)
    scan, link = options.get("scan"), not options.get("copy")
    todo = convert.plan(checkpoint.read(source), "nnx", scan=scan)
    convert.run(todo, tmp_path / "dst", options=Options(link=link))
    told = record_of(tmp_path / "dst")
    opened = storage.open(tmp_path / "dst")
    assert len(told.arrays) == len(values(tmp_path / "dst"))
    (Path(opened.items) / record.FILE).unlink()
    assert recorded.hold(opened, add=True).exit_code == 0
    assert record_of(tmp_path / "dst") == told
    # Of a source without a record only what was made anew is known, and verify says so.
    convert.run(convert.plan(checkpoint.read(good), "nnx"), tmp_path / "other")
    assert record_of(tmp_path / "other").arrays.keys() == {("optimizer", "step")}
    code, out, _ = maxmig("ckpt", "verify", tmp_path / "other")
    assert code == 3 and "of 11 nothing is recorded" in out


def test_a_resumed_conversion_has_a_whole_record(good, tmp_path, monkeypatch):
    from maxmig import errors
    from maxmig.converters.engine import pool, tasks

    monkeypatch.setattr(tasks, "_GROUP", 2000)
    perform, count = pieces.perform, 0

    def some(*args):
        nonlocal count
        count += 1
        if count > 2:
            raise pool.Stopped
        return perform(*args)

    options = Options(zarr=2 if storage.open(good).told.zarr == 3 else 3, threads=1)
    todo = convert.plan(checkpoint.read(good), "nnx")
    monkeypatch.setattr(pieces, "perform", some)
    with pytest.raises(errors.Interrupted):
        convert.run(todo, tmp_path / "dst", options=options)
    monkeypatch.setattr(pieces, "perform", perform)
    convert.run(todo, tmp_path / "dst", options=options, resume=True)
    report = recorded.hold(storage.open(tmp_path / "dst"))
    assert report.exit_code == 0 and len(report.lines) == 12


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_records_what_it_saves(asynchronous, tmp_path, maxmig):
    import jax
    import jax.numpy as jnp

    flat = {
        "params/a/kernel": jnp.arange(12.0).reshape(3, 4),
        "params/b/scale": jnp.ones((3,), jnp.bfloat16),
        "aux/rngs/key": jax.random.split(jax.random.key(0), 2),
        "step": jnp.int32(1),
    }
    step = jax.jit(lambda flat: jax.tree.map(lambda x: x, flat), donate_argnums=0)
    with Store(tmp_path / "run", layout="nnx", asynchronous=asynchronous) as store:
        store.save(0, dict(flat))
        given = step({"params/a/kernel": flat.pop("params/a/kernel")})  # training goes on
        flat["params/a/kernel"] = given["params/a/kernel"] + 1
    code, out, _ = maxmig("ckpt", "verify", tmp_path / "run")
    assert code == 0 and "4 arrays hold" in out
    with Store(tmp_path / "off", layout="nnx", checksums="off") as store:
        store.save(0, flat)
    assert maxmig("ckpt", "verify", tmp_path / "off")[0] == 3


def test_others_read_a_checkpoint_with_a_record(made):
    """Orbax looks at no file that its own metadata do not name."""
    import jax
    import orbax.checkpoint as ocp

    try:
        from orbax.checkpoint import v1
    except ImportError:
        from orbax.checkpoint.experimental import v1

    _, result = made
    step = checkpoint.read(result).place
    assert (step.items / record.FILE).is_file()
    restored = jax.tree.leaves(ocp.PyTreeCheckpointer().restore(step.items))
    good = [np.asarray(value).tobytes() for value in restored]
    assert len(good) == 12
    with ocp.StandardCheckpointer() as checkpointer:
        found = jax.tree.leaves(checkpointer.restore(step.items))
    assert [np.asarray(value).tobytes() for value in found] == good
    assert len(jax.tree.leaves(v1.load_checkpointables(step.step_dir))) == 12


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_boxes_give_the_checksums_of_whole_chunks(data):
    """Whatever the chunks, and however boxes of whole chunks are cut out of the array."""
    shape = tuple(data.draw(st.lists(st.integers(1, 7), max_size=3)))
    chunk = tuple(data.draw(st.integers(1, size)) for size in shape)
    array = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    found = {}
    axis = data.draw(st.integers(0, max(0, len(shape) - 1)))
    cuts = range(0, shape[axis], chunk[axis]) if shape else [0]
    for cut in cuts:
        box = tuple(
            (cut, min(cut + chunk[axis], size)) if each == axis else (0, size)
            for each, size in enumerate(shape)
        )
        index = tuple(slice(*span) for span in box)
        found |= record.sums(shape, chunk, box, array[index])
    boxes = list(record.boxes(shape, chunk))
    assert found == {
        place: record.checksum(array[tuple(slice(*span) for span in box)])
        for place, box in enumerate(boxes)
    }
    assert record.count(shape, chunk) == len(boxes)
    sums = record.Sums(Leaf(shape, "uint8", 0), chunk, ())
    assert [sums.find(box) for box in boxes] == list(range(len(boxes)))
