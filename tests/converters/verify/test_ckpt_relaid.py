"""A converted checkpoint against its source, where names and arrays differ: all is `=`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import checkpoint
from maxmig.converters.compare import diff, hash
from maxmig.converters.mapping import files

HIDDEN, INPUTS, LAYERS = 3, 4, 2
CELLS = ("OptimizedLSTMCell_0", "LSTMCell_0", "GRUCell_0", "SimpleCell_0")


def cell(name: str, stack: tuple[int, ...] = ()) -> dict[str, Any]:
    """The leaves of a cell as Linen has them, or of a stack of such cells on axis 0."""
    rng = np.random.default_rng(1)

    def array(*shape: int) -> np.ndarray:
        return rng.normal(size=(*stack, *shape)).astype(np.float32)

    gates = {"GRUCell_0": "rzn", "SimpleCell_0": ("",)}.get(name, "ifgo")
    found: dict[str, Any] = {}
    for gate in gates:
        one: dict[str, Any] = {"kernel": array(INPUTS, HIDDEN)}
        two: dict[str, Any] = {"kernel": array(HIDDEN, HIDDEN)}
        (two if "LSTM" in name else one)["bias"] = array(HIDDEN)
        if gate == "n":
            two["bias"] = np.zeros((*stack, HIDDEN), np.float32)
        found |= {f"i{gate}": one, f"h{gate}": two}
    return found


def save(path: Path, params: Any) -> Path:
    """A TrainState with moments."""
    import orbax.checkpoint as ocp

    adam = {"count": np.array(1, np.int32), "mu": params, "nu": params}
    tree = {"params": params, "opt_state": [adam, None], "step": np.array(1, np.int32)}
    ocp.PyTreeCheckpointer().save(path, tree)
    return path


def digests(*places: Path) -> set[str]:
    return {hash.fingerprint(checkpoint.read(place)).digest for place in places}


def unremembered(found: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    """The same checkpoint, as if another program had written it."""
    return dataclasses.replace(found, metadata={})


@pytest.mark.parametrize("kind", CELLS)
def test_recurrent_cells(kind, converted, tmp_path):
    """In both directions, moments too; one digest; and one wrong number is named."""
    params = {"enc": {kind: cell(kind)}, "out": {"kernel": np.ones((HIDDEN, 2), np.float32)}}
    source = save(tmp_path / "source", params)
    result = converted(source, "nnx")
    a, b = checkpoint.read(source), checkpoint.read(result)
    assert a.leaves.keys() != b.leaves.keys()
    for one, two in ((a, b), (b, a)):
        report = diff.diff(one, two)
        assert report.exit_code == 0 and report.compared >= len(a.leaves), report.lines
    assert diff.diff(a, unremembered(b)).exit_code == 0  # nor need it be told
    assert len(digests(source, result)) == 1

    last = "hn" if kind == "GRUCell_0" else "ho" if "LSTM" in kind else "i"
    params["enc"][kind][last]["bias"][1] += 1  # of GRU's hn, zero before: NNX has no place for it
    other = save(tmp_path / "other", params)
    path = f"enc/{kind}/{last}/bias"
    for one, two in ((checkpoint.read(other), b), (b, checkpoint.read(other))):
        bad = {line.path: line.first for line in diff.diff(one, two).lines if line.sign == "*"}
        assert bad == dict.fromkeys(
            [f"params/{path}", f"opt_state/0/mu/{path}", f"opt_state/0/nu/{path}"], (1,)
        )
    assert len(digests(source, other)) == 2


def test_cells_in_a_stack(converted, tmp_path):
    """Stacked and apart, of a kind whose gates are joined."""
    layers = {"layers": {"LSTM": cell("OptimizedLSTMCell_0", (LAYERS,))}}
    rule = "maxmig_map: 1\nrules:\n- {layer: layers/LSTM, kind: optimized-lstm, to: nnx}\n"
    (tmp_path / "map.yml").write_text(rule)
    source = save(tmp_path / "source", layers)
    result = converted(source, "nnx", map_file=files.read(tmp_path / "map.yml"))
    apart = converted(result, "nnx", scan=False)
    for place in (result, apart):
        report = diff.diff(checkpoint.read(source), checkpoint.read(place))
        assert report.exit_code == 0 and report.compared, report.lines
    assert len(digests(source, result, apart)) == 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Two towers of layers with no known name."""
    rng = np.random.default_rng(2)

    def dense() -> dict[str, Any]:
        return {"kernel": rng.normal(size=(4, 4)).astype(np.float32)}

    params = {"old": {"a": dense(), "b": dense()}, "head": dense(), "gone": dense()}
    return save(tmp_path_factory.mktemp("plain") / "source", params)


def mapped(text: str) -> files.Document:
    return files.parse({"maxmig_map": 1, "rules": json.loads(text)}, "test")


@pytest.mark.parametrize("to", ["nnx", "linen-state"])
def test_what_a_mapping_file_did_is_remembered(to, plain, converted):
    """Renamed and turned leaves are equal through what the result records; dropped ones are `-`."""
    document = mapped(
        '[{"rename": "old", "to": "new"}, {"transpose": "head/kernel", "axes": [1, 0]},'
        ' {"drop": "gone", "reason": "test"}]'
    )
    a, b = (checkpoint.read(p) for p in (plain, converted(plain, to, map_file=document)))
    for one, two, sign in ((a, b, "-"), (b, a, "+")):
        report = diff.diff(one, two)
        bad = {line.path: line.sign for line in report.lines if line.sign not in "=~"}
        assert bad == dict.fromkeys(
            ["params/gone/kernel", "opt_state/0/mu/gone/kernel", "opt_state/0/nu/gone/kernel"], sign
        )
        assert any("compared as the conversion" in note for note in report.notes)
    assert diff.diff(a, unremembered(b)).counts["+"] > 3  # else a rename is a difference


def test_a_wrapped_layer(converted, tmp_path):
    """Which layer SpectralNorm wraps only the result's metadata tell."""
    import orbax.checkpoint as ocp

    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(4, 3)).astype(np.float32)
    kept = {"u": rng.normal(size=(1, 3)).astype(np.float32), "sigma": np.float32(1.5)}
    stats = {f"Dense_0/kernel/{name}": np.asarray(array) for name, array in kept.items()}
    tree = {"params": {"Dense_0": {"kernel": kernel}}, "batch_stats": {"SpectralNorm_0": stats}}
    ocp.PyTreeCheckpointer().save(tmp_path / "source", tree)
    a = checkpoint.read(tmp_path / "source")
    b = checkpoint.read(converted(tmp_path / "source", "nnx"))
    report = diff.diff(a, b)
    assert report.counts == {"=": 3}, report.lines
    assert ">" in diff.diff(a, unremembered(b)).counts


def test_a_recorded_cast_still_has_to_be_declared(plain, converted):
    a = checkpoint.read(plain)
    b = checkpoint.read(
        converted(plain, "nnx", map_file=mapped('[{"rename": "old", "to": "x"}]'), dtype="bfloat16")
    )
    report = diff.diff(a, b)
    assert report.counts["*"] == 4 and report.exit_code == 1
    assert diff.diff(a, b, cast=True).exit_code == 0


def test_a_record_that_does_not_fit_is_no_error(plain, converted, tmp_path):
    """Another checkpoint of the same layout is compared by its own names."""
    b = checkpoint.read(converted(plain, "nnx", map_file=mapped('[{"rename": "old", "to": "x"}]')))
    other = save(tmp_path / "other", {"else": {"kernel": np.ones((2, 2), np.float32)}})
    report = diff.diff(checkpoint.read(other), b)
    assert report.exit_code == 1 and not report.notes


def test_a_digest_after_rules_leaves_no_number_out(converted, tmp_path):
    params = {"GRUCell_0": cell("GRUCell_0")}
    params["GRUCell_0"]["hn"]["bias"][0] = 1
    source = checkpoint.read(save(tmp_path / "source", params))
    rules = mapped('[{"layer": "GRUCell_0", "kind": "gru", "to": "nnx"}]').rules
    with pytest.raises(errors.ConvertError, match="GRUCell_0/hn/bias: expected zeros"):
        hash.fingerprint(source, rules=rules)
    params["GRUCell_0"]["hn"]["bias"][0] = 0
    result = checkpoint.read(converted(save(tmp_path / "zero", params), "nnx"))
    report = diff.diff(source, result, rules=rules)
    assert report.counts["*"] == 3 and "GRUCell_0/hn/bias" in report.summary()
    assert diff.diff(checkpoint.read(tmp_path / "zero"), result, rules=rules).exit_code == 0


def test_an_undeclared_cast_does_not_hold(plain, maxmig, tmp_path):
    """Another program's copy with narrower numbers: a difference, unless it is declared."""
    import jax
    import orbax.checkpoint as ocp

    tree = ocp.PyTreeCheckpointer().restore(plain)
    narrow = jax.tree.map(lambda x: x.astype(np.float16) if x.ndim else x, tree["params"])
    ocp.PyTreeCheckpointer().save(tmp_path / "narrow", tree | {"params": narrow})
    words = ("ckpt", "verify", tmp_path / "narrow", "--against", plain)
    code, out, err = maxmig(*words)
    assert code == 1 and out.count("float32[4, 4] in A, float16[4, 4] in B") >= 4
    assert "does not hold" in out and "4 leaves" in err and "say --cast" in err
    code, out, err = maxmig(*words, "--cast")
    assert code == 0 and " holds " in out and "say --cast" not in err
    code, out, err = maxmig("ckpt", "verify", plain, "--cast")
    assert code == 2 and "--cast needs --against" in err
