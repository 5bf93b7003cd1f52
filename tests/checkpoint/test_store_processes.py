"""Two real processes that save one state: each records the chunks that it holds."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest

from maxmig import errors
from maxmig.cli import main
from maxmig.converters import storage
from maxmig.converters.compare import parts, record
from maxmig.converters.compare.parts import Part
from maxmig.converters.leaves import Leaf

PROGRAM = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from maxmig.checkpoint import Store

directory, address, index = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))

def spread(array, *axes):
    return jax.make_array_from_callback(
        array.shape, NamedSharding(mesh, P(*axes)), lambda place: array[place])

random = np.random.default_rng(0)
numbers = lambda *shape: random.normal(size=shape).astype(np.float32)
state = {
    "params/decoder/rows/kernel": spread(numbers(4, 6), "x", None),
    "params/decoder/both/kernel": spread(numbers(4, 6), "x", "y"),
    "params/decoder/inner/kernel": spread(numbers(4, 6), None, "y"),
    "params/decoder/whole/scale": spread(numbers(6)),
    "aux/decoder/dropout/key": jax.jit(
        lambda: jax.random.key(3), out_shardings=NamedSharding(mesh, P()))(),
    "step": spread(np.array(3, np.int32)),
}
with Store(directory, layout="linen", asynchronous=True) as store:
    store.save(2, state)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The items that two processes wrote."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = helpers.environment() | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", PROGRAM, str(folder), address]
    both = [
        subprocess.Popen([*command, str(i)], env=env, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        told = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], told
    return folder / "2" / "items"


def verify(place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main.main(["ckpt", "verify", str(place)])
    out, err = capsys.readouterr()
    return code, out + err


def test_every_chunk_is_recorded(saved, capsys):
    """Also of arrays that no process holds whole; each by one process only."""
    assert not (saved / record.FILE).exists()
    held = [json.loads((saved / parts.name(i)).read_bytes()) for i in range(2)]
    chunks = [{entry[0][-2:][0]: entry[-1] for entry in each["parts"]} for each in held]
    assert chunks[0]["both"] == [0, 1] and chunks[1]["both"] == [2, 3]
    assert chunks[0]["rows"] == [0] and chunks[1]["rows"] == [1]
    assert "whole" in chunks[0] and "whole" not in chunks[1]
    found = record.of(storage.open(saved))
    assert found is not None and len(found.arrays) == 6
    code, out = verify(saved, capsys)
    assert code == 0 and "6 arrays hold the bits that were recorded" in out


def test_damage_in_any_process_s_chunks(saved, tmp_path, capsys):
    """Whoever wrote them; and what is not recorded is no success."""
    mine = shutil.copytree(saved.parent, tmp_path / "2") / "items"
    opened = storage.open(mine)
    path = next(path for path in opened.tree() if "both" in path)
    array = opened._opened(path)
    array[3:4, 5:6].write(np.full((1, 1), 7, np.float32)).result()  # the last process's chunk
    again = shutil.copytree(mine.parent, tmp_path / "again" / "2") / "items"
    code, out = verify(again, capsys)
    assert code == 4 and "both" in out and "chunk [1, 1]" in out and "other bits" in out
    (again / parts.name(1)).unlink()
    code, out = verify(again, capsys)
    assert code == 3 and "of 2 nothing is recorded" in out
    whole = shutil.copytree(saved.parent, tmp_path / "whole" / "2") / "items"
    (whole / parts.name(1)).unlink()
    assert main.main(["ckpt", "verify", str(whole), "--record"]) == 0
    assert verify(whole, capsys)[0] == 0 and (whole / record.FILE).exists()


def test_parts_that_do_not_fit(tmp_path):
    """A chunk with two checksums, a chunk that cannot be, an array of two kinds."""
    leaf = Leaf((4,), "float32", 0)
    good = {("w",): Part(leaf, (2,), {0: 5})}
    parts.write(str(tmp_path), 0, 2, good)
    assert parts.together(str(tmp_path)) == {}
    parts.write(str(tmp_path), 1, 2, {("w",): Part(leaf, (2,), {0: 5, 1: 6})})
    assert parts.together(str(tmp_path)) == {("w",): record.Sums(leaf, (2,), (5, 6))}
    for bad in (
        Part(leaf, (2,), {0: 4}),
        Part(leaf, (1,), {1: 6}),
        Part(Leaf((4,), "int32", 0), (2,), {1: 6}),
    ):
        parts.write(str(tmp_path), 1, 2, {("w",): bad})
        with pytest.raises(errors.CheckpointError, match=r"process_1\.json: w: .*does not fit"):
            parts.together(str(tmp_path))
    parts.write(str(tmp_path), 1, 2, {("w",): Part(leaf, (2,), {7: 6})})
    with pytest.raises(errors.CheckpointError, match="record of checksums is damaged"):
        parts.together(str(tmp_path))
