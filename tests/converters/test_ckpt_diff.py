"""Comparison: equal across layouts, and every kind of damage found and named."""

import dataclasses
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from maxmig import errors
from maxmig.checkpoint import Store
from maxmig.converters import checkpoint
from maxmig.converters.compare import diff
from maxmig.converters.compare.diff import Tolerance
from maxmig.converters.storage.orbax import Orbax

RNG = np.random.default_rng(0)


def state() -> dict[str, np.ndarray]:
    """Two scanned layers with a moment each, float32."""
    flat = {
        f"{section}/decoder/layers/{name}": RNG.normal(size=(4, 2, 3)).astype(np.float32)
        for section in ("params", "opt_state/mu")
        for name in ("wi", "wo")
    }
    return flat | {"opt_state/count": np.int32(3), "step": np.int32(3)}


@pytest.fixture
def pair(tmp_path):
    """Saves a state twice, the second in a changed form: pair(change, layout_b) -> (A, B)."""

    def save(change=None, layout="linen"):
        flat, root = state(), tmp_path / str(len(list(tmp_path.iterdir())))
        for name, kind in (("a", "linen"), ("b", layout)):
            with Store(root / name, layout=kind, asynchronous=False) as store:
                store.save(2, flat)
            flat = {path: np.array(array) for path, array in flat.items()}
            if name == "a" and change:
                flat = change(flat) or flat
        return checkpoint.read(root / "a"), checkpoint.read(root / "b")

    return save


def lines(report, sign):
    return {line.path: line for line in report.lines if line.sign == sign}


def test_layouts_do_not_matter(pair):
    report = diff.diff(*pair(layout="nnx"))
    assert report and report.exit_code == 0
    assert report.counts == {"=": 5, "~": 1}
    assert "uint32 in B" in lines(report, "~")["step"].detail


def test_scan_layouts_do_not_matter(source, converted):
    a = checkpoint.read(source("gpt3_nnx_noscan"))
    b = checkpoint.read(converted(source("gpt3_nnx_noscan"), "nnx", scan=True, scan_axis=0))
    for report in (diff.diff(a, b), diff.diff(b, a)):
        assert report and report.compared == len(b.leaves)


def test_one_flipped_bit_is_found_and_named(pair):
    def flip(flat):
        flat["opt_state/mu/decoder/layers/wo"].view(np.uint32)[3, 1, 0] ^= 1

    report = diff.diff(*pair(flip, "nnx"))
    assert not report and report.exit_code == 1
    line = lines(report, "*").pop("opt_state/mu/decoder/layers/wo")
    assert (line.differing, line.elements, line.max_ulp, line.first) == (1, 24, 1, (3, 1, 0))
    assert "1 of 24 elements" in report.summary() and "first at [3,1,0]" in report.summary()
    assert diff.diff(*pair(flip), only="params")


def test_swapped_layers_are_found(pair):
    def swap(flat):
        flat["params/decoder/layers/wi"] = flat["params/decoder/layers/wi"][:, ::-1]

    report = diff.diff(*pair(swap))
    assert set(lines(report, "*")) == {"params/decoder/layers/wi"}
    assert report.counts["*"] == 1


def test_swapped_weights_are_found(pair):
    def swap(flat):
        wi, wo = "params/decoder/layers/wi", "params/decoder/layers/wo"
        flat[wi], flat[wo] = flat[wo], flat[wi]

    assert diff.diff(*pair(swap)).counts["*"] == 2


def test_a_dropped_leaf_is_found(pair):
    def drop(flat):
        for path in [path for path in flat if path.endswith("wo")]:
            del flat[path]

    report = diff.diff(*pair(drop))
    assert set(lines(report, "-")) == {"params/decoder/layers/wo", "opt_state/mu/decoder/layers/wo"}
    assert report.exit_code == 1


def test_a_renamed_leaf_is_found_by_its_bits(pair):
    def rename(flat):
        return {path.replace("/wo", "/out"): array for path, array in flat.items()}

    report = diff.diff(*pair(rename))
    assert lines(report, ">")["params/decoder/layers/wo"].detail.startswith(
        "is params/decoder/layers/out in B"
    )
    assert report.counts[">"] == 2 and report.exit_code == 1


def test_another_type_or_shape_differs(pair):
    def narrow(flat):
        flat["params/decoder/layers/wi"] = flat["params/decoder/layers/wi"].astype(np.float16)

    line = lines(diff.diff(*pair(narrow)), "*")["params/decoder/layers/wi"]
    assert line.detail == "float32[4, 2, 3] in A, float16[4, 2, 3] in B"


def test_nothing_compared_is_inconclusive(pair, source):
    a, _ = pair()
    b = checkpoint.read(source("gpt3_linen_scan"))
    report = diff.diff(a, b, only="params")
    assert report.exit_code == 3 and not report


def test_damaged_data_are_found_and_named(source, tmp_path):
    """Orbax stores no checksums, so a flipped byte may decode to other numbers: diff finds both."""
    damaged = tmp_path / "damaged"
    shutil.copytree(source("llama2_linen_scan"), damaged)
    files = (damaged / "9" / "items" / "ocdbt.process_0" / "d").iterdir()
    largest = max(files, key=lambda file: file.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    largest.write_bytes(bytes(raw))
    report = diff.diff(checkpoint.read(source("llama2_linen_scan")), checkpoint.read(damaged))
    assert report.exit_code in (1, 4)
    assert len([line for line in report.lines if line.sign in "*!"]) == 1
    assert report.counts["="] == 38


def test_an_unreadable_leaf_is_named_and_the_rest_compared(pair, monkeypatch):
    a, b = pair()
    bad = b.places["params/decoder/layers/wi"]

    def read(storage, path, box=None):
        if path == bad and storage.url == str(b.place):
            raise errors.CheckpointError("checksum does not match")
        return plain(storage, path, box)

    plain = Orbax.read
    monkeypatch.setattr(Orbax, "read", read)
    report = diff.diff(a, b)
    assert report.exit_code == 4 and report.counts == {"=": 5, "!": 1}
    assert "checksum does not match" in lines(report, "!")["params/decoder/layers/wi"].detail


def test_random_keys_are_compared_with_their_kind(source, converted):
    a = checkpoint.read(source("gpt3_nnx_scan"))
    b = checkpoint.read(converted(source("gpt3_nnx_scan"), "nnx"))
    report = diff.diff(a, b)
    keys = [line for line in report.lines if line.path.endswith("/key")]
    assert len(keys) == 15 and all(line.sign == "=" for line in keys)


def test_tolerances():
    one = np.ones(4, np.float32)
    near = np.nextafter(one, 2).astype(np.float32)
    assert diff.compare("x", one, near, Tolerance()).sign == "*"
    assert diff.compare("x", one, near, Tolerance(ulp=1)).sign == "~"
    assert diff.compare("x", one, near, Tolerance(rtol=1e-6)).sign == "~"
    assert diff.compare("x", one, one + 1, Tolerance(rtol=1e-6)).sign == "*"
    assert diff.compare("x", one, one + 1, Tolerance(atol=1.0)).sign == "~"
    nan = np.float32([np.nan, 1, 1, 1])
    for vast in (Tolerance(ulp=10**20), Tolerance(rtol=1e300), Tolerance(atol=1e300)):
        assert diff.compare("x", nan, one, vast).sign == "*"
        assert diff.compare("x", one, 2 * one, vast).sign == "~"
    largest, infinite = np.float32([3.4028235e38]), np.float32([np.inf])
    for pair in ((largest, infinite), (infinite, largest), (-infinite, infinite)):
        for vast in (
            Tolerance(ulp=1),
            Tolerance(rtol=1e-5),
            Tolerance(rtol=1.0),
            Tolerance(atol=9),
        ):
            assert diff.compare("x", *pair, vast).sign == "*"
    line = diff.compare("x", one, near, Tolerance(atol=1.0))
    assert "within rtol 0, atol 1" in line.detail


@pytest.mark.parametrize(
    ("a", "b", "ulp"),
    [
        (np.float32([0.0]), np.float32([-0.0]), 0),
        (np.float32([1e-45]), np.float32([-1e-45]), 2),
        (np.array([1], ml_dtypes.bfloat16), np.array([1.0078125], ml_dtypes.bfloat16), 1),
        (np.float64([1.0]), np.nextafter([1.0], 2), 1),
        (np.float32([np.nan]), np.float32([1.0]), np.iinfo(np.int64).max),
    ],
)
def test_distance_in_units_of_the_last_place(a, b, ulp):
    line = diff.compare("x", a, b, Tolerance())
    assert (line.sign, line.max_ulp, line.first) == ("*", ulp, (0,))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array(True), np.array(False)),
        (np.uint32(4), np.uint32(5)),
        (np.complex64([1 + 2j]), np.complex64([1 + 3j])),
        (np.array([1, 2], np.int8), np.array([1, 3], np.int8)),
    ],
)
def test_types_without_units_of_the_last_place(a, b):
    line = diff.compare("x", a, b, Tolerance(ulp=4))
    assert (line.sign, line.max_ulp, line.differing) == ("*", None, 1)


def test_equal_nan_is_equal():
    nan = jnp.array([np.nan, 1.0])
    assert diff.compare("x", np.asarray(nan), np.asarray(nan), Tolerance()).sign == "="


def test_both_layouts_can_be_compared_with_themselves(pair):
    for name in ("linen", "nnx"):
        a, b = pair(layout=name)
        assert diff.diff(b, b).counts == {"=": 6}, (a, name)


@pytest.fixture
def towers(tmp_path):
    """Layers apart as `block_{i}`, and stacked as `blocks`: towers(axis, change) -> (A, B)."""
    import orbax.checkpoint as ocp

    def save(axis, change=lambda stack: None):
        def layers():
            made = RNG.normal(size=(4, 3, 5)).astype(np.float32)
            return {f"block_{i}": {"kernel": made[i], "gate": made[i, 0, :2]} for i in range(4)}

        sections = [layers(), layers()]
        stacks = []
        for each in sections:
            kernels, gates = (
                [each[f"block_{i}"][name] for i in range(4)] for name in ("kernel", "gate")
            )
            stacks.append(
                {"kernel": np.stack(kernels, axis), "gate": np.stack(gates, min(axis, 1))}
            )
        change(stacks[0])
        places = []
        for name, parts in (("a", sections), ("b", [{"blocks": each} for each in stacks])):
            head = {"kernel": np.ones((3, 2), np.float32)}
            model, mu = ({"tower": part, "head": head} for part in parts)
            adam = {"count": np.int32(3), "mu": {"params": mu}, "nu": {"params": mu}}
            tree = {"params": {"params": model}, "opt_state": [adam, None], "step": np.int32(3)}
            places.append(tmp_path / f"{axis}_{name}_{len(list(tmp_path.iterdir()))}")
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                checkpointer.save(places[-1], args=ocp.args.PyTreeSave(tree))
        return tuple(checkpoint.read(place) for place in places)

    return save


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacks_under_any_name(axis, towers):
    """They are found by structure, moments with them, on any axis and on either side."""
    a, b = towers(axis)
    for one, other, side in ((a, b, "A"), (b, a, "B")):
        report = diff.diff(one, other)
        assert report.exit_code == 0 and report.counts == {"=": 11}, report.lines
        line = lines(report, "=")["params/tower/blocks/kernel"]
        assert f"{side} has its 4 layers apart, as params/tower/block_0/kernel" in line.detail
        assert f"(axis {axis})" in line.detail


def test_a_number_in_such_a_stack_differs(towers):
    def change(stack):
        stack["kernel"][1, 2, 0] += 1

    report = diff.diff(*towers(0, change))
    assert report.counts == {"=": 10, "*": 1}
    line = lines(report, "*")["params/tower/blocks/kernel"]
    assert line.first == (1, 2, 0) and line.differing == 1


def test_another_stack_is_not_taken_for_them(towers):
    """Without an equal leaf, names and shapes are no reason."""

    def change(stack):
        stack["kernel"] += 1
        stack["gate"] += 1

    report = diff.diff(*towers(0, change), only="params")
    assert report.counts == {"=": 1, "+": 2, "-": 8}


def test_a_mapping_file_says_what_is_a_stack(towers, tmp_path, maxmig):
    """One digest and one state by the file's rules; the other way the rules do not fit."""
    a, b = (side.place.items for side in towers(0))
    file = tmp_path / "map.yml"
    file.write_text(
        "maxmig_map: 1\nto: linen\nrules:\n- stack: tower/block_{}\n  to: tower/blocks\n  axis: 0\n"
    )
    digests = [maxmig("ckpt", "hash", side, *more)[1].split()[0] for side, *more in ((a,), (b,))]
    assert digests[0] != digests[1]  # nothing tells that these names are a stack's
    assert maxmig("ckpt", "hash", a, "--map", file)[1].split()[0] == digests[1]
    code, out, _ = maxmig("ckpt", "diff", a, b, "--map", file)
    assert code == 0 and "layers apart" not in out
    code, out, _ = maxmig("ckpt", "verify", b, "--against", a, "--map", file)
    assert code == 0 and "(by mapping file)" in out
    code, _, err = maxmig("ckpt", "hash", b, "--map", file)
    assert code == 2 and "matches nothing" in err


@pytest.mark.parametrize("options", [{"scan": False}, {"scan_axis": 1}, {}])
def test_a_layer_axis_that_only_the_conversion_was_told(options, converted, tmp_path):
    """As many layers as features: B's metadata say on which axis A's layers are."""
    import orbax.checkpoint as ocp

    mlp = {"kernel": RNG.normal(size=(3, 3, 3)).astype(np.float32)}
    mlp["bias"] = RNG.normal(size=(3, 3)).astype(np.float32)
    tree = {"params": {"params": {"decoder": {"layers": {"mlp": mlp}}}}}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "a", args=ocp.args.PyTreeSave(tree))
        mlp["kernel"][0, 1, 2] += 1
        checkpointer.save(tmp_path / "other", args=ocp.args.PyTreeSave(tree))
    b = checkpoint.read(converted(tmp_path / "a", "nnx", from_scan_axis=0, **options))
    a, other = (checkpoint.read(tmp_path / name) for name in ("a", "other"))
    for one, two in ((a, b), (b, a)):
        report = diff.diff(one, two)
        assert report.exit_code == 0, report.lines
        assert any("to be on axis 0" in note for note in report.notes) == bool(options)
    (line,) = [line for line in diff.diff(other, b).lines if line.sign != "="]
    assert line.differing == 1
    if "scan" in options:  # where nothing records it, the stack is no equal of any layers
        alone = dataclasses.replace(b, metadata={"maxmig": {**b.own, "converted_from": None}})
        report = diff.diff(a, alone)
        assert report.exit_code == 3 and any("nor shapes tell" in note for note in report.notes)
