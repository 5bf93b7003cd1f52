"""`maxmig logits`: every kind of input, every bad one, and MaxText's own numbers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import runs

from maxmig.config.flags import Stage

NAME = "llama2_linen_scan"
FIXTURE = helpers.MAXTEXT / NAME
CONFIG = str(FIXTURE / "config.yml")


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


def reference() -> dict[str, np.ndarray]:
    with np.load(FIXTURE / "reference.npz") as arrays:
        return dict(arrays)


def batch(which: str = "b", *names: str) -> dict[str, np.ndarray]:
    """MaxText's batch: A is one document a row, B is packed and padded."""
    arrays = reference()
    chosen = names or (
        "inputs", "inputs_position", "inputs_segmentation", "targets", "targets_segmentation"
    )  # fmt: skip
    return {name: arrays[f"{which}_{name}"] for name in chosen}


@pytest.fixture
def logits(run: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs the verb on arrays: (result, the arrays of OUT.npz or None, gradients or None)."""

    def call(
        arrays: dict[str, Any] | None,
        *more: str,
        stage: Stage = Stage.LINEN,
        gradients: bool = False,
    ) -> Any:
        given, out, slopes = (tmp_path / f"{n}.npz" for n in ("in", "out", "gradients"))
        out.unlink(missing_ok=True)
        if arrays is not None:
            np.savez(given, **arrays)
        argv = ["logits", CONFIG, "--checkpoint", str(FIXTURE / "checkpoint")]
        argv += ["--inputs", str(given), "--output", str(out)]
        argv += ["--gradients", str(slopes)] if gradients else []
        done = run(*argv, *more, *helpers.flags(stage))
        return done, load(out), load(slopes)

    return call


def load(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("which", ["a", "b"])
def test_it_is_maxtexts(logits: Any, wing: Stage, which: str) -> None:
    done, out, gradients = logits(batch(which), "--json", stage=wing, gradients=True)
    assert done.code == 0, done.err
    wanted = reference()
    assert set(out) == {"logits", "loss"}
    assert out["logits"].dtype == np.float32 and out["loss"].dtype == np.float32
    assert out["loss"].shape == ()
    np.testing.assert_allclose(out["logits"], wanted[f"{which}_logits"], rtol=0, atol=2e-5)
    assert abs(out["loss"] - wanted[f"{which}_loss"]) <= 1e-5
    document = done.json
    assert document["stage"] == wing.value
    assert document["logits_shape"] == list(out["logits"].shape)
    assert document["loss"] == pytest.approx(float(out["loss"]))
    assert document["checkpoint_step"] == 9
    if which == "a":
        expected = load(FIXTURE / "gradients.npz")
        assert expected is not None and set(gradients) == set(expected)
        for path, gradient in gradients.items():
            assert gradient.dtype == np.float32
            assert helpers.relative(gradient, expected[path]) <= 2e-5, path


def test_only_inputs(logits: Any, wing: Stage) -> None:
    """One document a row, counted from 0, is what is meant by leaving the rest out."""
    done, out, _ = logits(batch("a", "inputs"), stage=wing)
    assert done.code == 0
    assert set(out) == {"logits"}
    np.testing.assert_allclose(out["logits"], reference()["a_logits"], rtol=0, atol=2e-5)
    assert "logits 2x" in done.out and "loss" not in done.out


def test_what_may_be_left_out(logits: Any) -> None:
    full = batch("b")
    _, whole, _ = logits(full)
    _, some, _ = logits({k: v for k, v in full.items() if k != "targets_segmentation"})
    # The segmentation of the inputs counts the targets then; in MaxText's batches it is the same.
    np.testing.assert_array_equal(full["targets_segmentation"], full["inputs_segmentation"])
    assert some["loss"] == whole["loss"]
    _, plain, _ = logits({k: v for k, v in full.items() if k in ("inputs", "inputs_position")})
    assert set(plain) == {"logits"}
    assert np.abs(plain["logits"] - whole["logits"]).max() > 1e-2, "segments matter"


@pytest.mark.parametrize("dtype", ["int64", "uint16", "uint8", "int32"])
def test_any_integers(logits: Any, dtype: str) -> None:
    arrays = batch("b")
    arrays["inputs"] = np.minimum(arrays["inputs"], 255)
    arrays["targets"] = np.minimum(arrays["targets"], 255)
    _, wanted, _ = logits(arrays)
    done, out, _ = logits({name: a.astype(dtype) for name, a in arrays.items()})
    assert done.code == 0, done.err
    np.testing.assert_array_equal(out["logits"], wanted["logits"])
    assert out["loss"] == wanted["loss"]


def test_what_is_not_used_is_said(logits: Any) -> None:
    done, out, _ = logits(batch("a", "inputs") | {"target": batch("a")["targets"]})
    assert done.code == 0 and "loss" not in out
    assert "not used: target" in done.err
    more = batch("a") | {"targets_position": batch("a")["inputs_position"]}
    assert "not used" not in logits(more)[0].err


INPUTS = np.ones((2, 8), np.int32)
BAD: dict[str, tuple[Any, int, tuple[str, ...]]] = {
    "no inputs": ({"tokens": INPUTS}, 2, ("expected an array 'inputs'", "tokens")),
    "nothing": ({}, 2, ("expected an array 'inputs'", "none")),
    "one row": ({"inputs": INPUTS[0]}, 2, ("inputs: expected integers", "[8]")),
    "three axes": ({"inputs": INPUTS[None]}, 2, ("inputs: expected integers", "[1, 2, 8]")),
    "floats": ({"inputs": INPUTS * 1.0}, 2, ("inputs: expected integers", "float64")),
    "booleans": ({"inputs": INPUTS > 0}, 2, ("inputs: expected integers", "bool")),
    "text": ({"inputs": INPUTS.astype(str)}, 2, ("inputs: expected integers", "<U")),
    "objects": ({"inputs": INPUTS.astype(object)}, 4, ("expected an .npz file of arrays",)),
    "negative token": ({"inputs": INPUTS - 2}, 2, ("inputs: expected tokens from 0 to", "-1")),
    "large token": ({"inputs": INPUTS * 10**6}, 2, ("expected tokens from 0 to", "1000000")),
    "token past int32": (
        {"inputs": INPUTS.astype(np.int64) + 2**32}, 2, ("expected tokens", str(2**32 + 1)),
    ),
    "large target": ({"inputs": INPUTS, "targets": INPUTS * 10**6}, 2, ("targets: expected",)),
    "other shapes": (
        {"inputs": INPUTS, "targets": INPUTS[:1]}, 2, ("targets: expected integers", "[1, 8]"),
    ),
    "position": (
        {"inputs": INPUTS, "inputs_position": INPUTS - 2}, 2, ("inputs_position: expected", "-1"),
    ),
    "no rows": ({"inputs": INPUTS[:0]}, 3, ("[0, 8]", "nothing to do")),
    "no columns": ({"inputs": INPUTS[:, :0]}, 3, ("[2, 0]", "nothing to do")),
    "nothing counts": (
        {"inputs": INPUTS, "targets": INPUTS, "targets_segmentation": INPUTS * 0},
        3, ("targets_segmentation is 0 everywhere",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays(name: str, logits: Any) -> None:
    arrays, code, says = BAD[name]
    done, out, _ = logits(arrays)
    assert done.code == code, done.err
    assert out is None and done.out == ""
    for part in ("in.npz", *says):
        assert part in done.err
    assert done.err.startswith("error: ") and "Traceback" not in done.err


def test_gradients_without_targets(logits: Any) -> None:
    done, out, gradients = logits(batch("a", "inputs"), gradients=True)
    assert (done.code, out, gradients) == (2, None, None)
    assert "--gradients needs targets" in done.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file"),
        (b"", "expected an .npz file"),
        (b"PK\x03\x04 broken", "expected an .npz file"),
        (b"just text", "expected an .npz file"),
    ],
)
def test_files_that_are_no_npz(
    logits: Any, tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "in.npz").write_bytes(content)
    done, out, _ = logits(None)
    assert (done.code, out) == (4, None)
    assert "in.npz" in done.err and says in done.err and "Traceback" not in done.err


def test_a_lone_array(logits: Any, tmp_path: Path) -> None:
    with (tmp_path / "in.npz").open("wb") as file:
        np.save(file, INPUTS)
    done, _, _ = logits(None)
    assert done.code == 4
    assert "one array without a name; write it with numpy.savez" in done.err


def test_a_cut_off_npz(logits: Any, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "in.npz", inputs=np.arange(4096).reshape(2, -1) % 7)
    data = bytearray((tmp_path / "in.npz").read_bytes())
    data[200:400] = bytes(200)
    (tmp_path / "in.npz").write_bytes(data)
    done, _, _ = logits(None)
    assert done.code == 4 and "expected an .npz file of arrays" in done.err


def test_places_that_cannot_be_written(run: Any, tmp_path: Path) -> None:
    given = tmp_path / "in.npz"
    np.savez(given, **batch("a"))
    kept = given.read_bytes()
    (tmp_path / "folder").mkdir()
    base = ["logits", CONFIG, "--checkpoint", str(FIXTURE / "checkpoint"), "--inputs", str(given)]
    for out, more, code, says in (
        (tmp_path / "no" / "out.npz", [], 4, "there is no folder"),
        (tmp_path / "folder", [], 4, "is a folder"),
        (given, [], 2, "expected another file than --inputs"),
        (tmp_path / "o", ["--gradients", str(tmp_path / "o")], 2, "another file than --output"),
    ):
        done = run(*base, "--output", str(out), *more)
        assert done.code == code and says in done.err, done.err
    assert given.read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in.npz"]


def test_longer_than_the_positions(run: Any, tmp_path: Path, wing: Stage) -> None:
    fixture = helpers.MAXTEXT / "gpt3_linen_scan"
    np.savez(tmp_path / "in.npz", inputs=np.ones((1, 4096), np.int32))
    done = run(
        "logits", str(fixture / "config.yml"), "--checkpoint", str(fixture / "checkpoint"),
        "--inputs", str(tmp_path / "in.npz"), "--output", str(tmp_path / "out.npz"),
        *helpers.flags(wing),
    )  # fmt: skip
    assert done.code == 2
    assert "positions up to 4095" in done.err and "trainable_position_size" in done.err


def test_eight_devices_and_two_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **batch("b"))
    env = helpers.environment()
    done = subprocess.run(
        [
            sys.executable, "-m", "maxmig", "logits", CONFIG,
            "--checkpoint", str(FIXTURE / "checkpoint"), "--simulate-devices", "8",
            "--inputs", "in.npz", "--output", "out.npz", "--gradients", "g.npz", "--json",
        ],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out, wanted = load(tmp_path / "out.npz"), reference()
    assert out is not None and json.loads(done.stdout)["logits_shape"] == list(out["logits"].shape)
    np.testing.assert_allclose(out["logits"], wanted["b_logits"], rtol=0, atol=2e-5)
    assert abs(out["loss"] - wanted["b_loss"]) <= 1e-5
