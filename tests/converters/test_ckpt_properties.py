"""Random trees, optimizers, layouts, stackings and chunkings: there and back is the identity.

What comes back has the same disk tree, holes included, and in it the same bytes; the fingerprint of
the state is one on every stop of the way.
"""

import itertools
import logging
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxmig import errors
from maxmig.converters import checkpoint, convert
from maxmig.converters.compare import diff, hash, verify
from maxmig.converters.leaves import Leaf

RULES = settings(
    max_examples=14,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NAMES = ("wi", "wo", "kernel", "scale", "values", "a_1", "norm", "B", "count", "mu")
MODULES = ("Dense", "Conv", "LayerNorm", "value", "Block", "params")
LEAVES = ("kernel", "bias", "scale", "values", "embedding", "0")
OPTIMIZERS = {
    "none": None,
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "nested": lambda: optax.chain(optax.chain(optax.clip(1.0), optax.adam(0.1)), optax.ema(0.9)),
    "multi steps": lambda: optax.MultiSteps(optax.adam(0.1), 4).gradient_transformation(),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "lion": lambda: optax.lion(0.1),
}


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Parameters of a model with layers apart, at most a few KiB."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = np.dtype(draw(st.sampled_from(["float32", "bfloat16", "float16"])))

    def array(shape: tuple[int, ...]) -> np.ndarray:
        made = random.normal(size=shape).astype(dtype)
        if made.size:
            made.flat[0] = draw(st.sampled_from([0.0, -0.0, np.nan, np.inf, 1.5]))
        return made

    shapes = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    one = {name: draw(shapes) for name in names}
    layers = {
        f"layers_{i}": {"block": {name: array(shape) for name, shape in one.items()}}
        for i in range(draw(st.sampled_from([1, 2, 11])))
    }
    other = {"embedder": {"table": array(draw(shapes))}}
    return {"decoder": {**layers, "norm": {"scale": array((3,))}}, **other}


def stacked(tree: Any, axis: int) -> Any:
    """The same model scanned."""
    layers = [tree["decoder"][f"layers_{i}"]["block"] for i in range(len(tree["decoder"]) - 1)]
    block = {
        name: np.stack([layer[name] for layer in layers], min(axis, layers[0][name].ndim))
        for name in layers[0]
    }
    decoder = {"layers": {"block": block}, "norm": tree["decoder"]["norm"]}
    return {**tree, "decoder": decoder}


def filled(tree: Any, seed: int) -> Any:
    """An optimizer's state with other numbers than zeros."""
    import jax

    random = np.random.default_rng(seed)

    def fill(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        if leaf.dtype.kind in "iub":
            return np.asarray(random.integers(0, 2, leaf.shape)).astype(leaf.dtype)
        return np.asarray(random.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(fill, tree)


def save(path: Path, tree: Any, chunk: int | None, **ways: bool) -> Path:
    import jax
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=chunk), tree)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**ways)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree, save_args=args))
    return path


@st.composite
def sources(draw: st.DrawFn) -> tuple[Any, int | None, dict[str, bool], str]:
    """A training state, its chunks, how it is kept, and what it is in words."""
    params = draw(models())
    axis = draw(st.sampled_from([None, 0, 1]))
    if axis is not None:
        params = stacked(params, axis)
    kind = draw(st.sampled_from(sorted(OPTIMIZERS)))
    make = OPTIMIZERS[kind]
    tree: dict[str, Any] = {"params": {"params": params}, "step": np.int32(7)}
    if make is not None:
        tree["opt_state"] = filled(make().init({"params": params}), draw(st.integers(0, 9)))
    ways = {"use_ocdbt": draw(st.booleans()), "use_zarr3": draw(st.booleans())}
    chunk = draw(st.sampled_from([None, 16, 100]))
    return tree, chunk, ways, f"{kind}, axis {axis}, {ways}, chunks of {chunk}"


def same(a: Path, b: Path) -> None:
    """Fails unless two checkpoints have one disk tree and, in it, the same bytes."""
    one, two = checkpoint.read(a), checkpoint.read(b)
    assert one.tree == two.tree
    for path, leaf in one.tree.items():
        if isinstance(leaf, Leaf):
            mine, other = (each.storage.read(path) for each in (one, two))
            assert (mine.dtype, mine.shape, mine.tobytes()) == (
                other.dtype,
                other.shape,
                other.tobytes(),
            ), path


def to(path: Path, made: Path, layout: str, **options: Any) -> Path:
    convert.run(convert.plan(checkpoint.read(path), layout, **options), made)
    return made


@RULES
@given(source=sources())
def test_linen_to_nnx_and_back(source):
    tree, chunk, ways, told = source
    with tempfile.TemporaryDirectory() as place:
        src = save(Path(place) / "src", tree, chunk, **ways)
        native = to(src, Path(place) / "native", "nnx")
        back = to(native, Path(place) / "back", "linen")
        same(src, back)
        prints = {hash.fingerprint(checkpoint.read(each)).digest for each in (src, native, back)}
        assert len(prints) == 1, told
        report = diff.diff(checkpoint.read(src), checkpoint.read(native))
        assert report and report.compared == len(report.lines), report.summary()
        proof, _ = verify.checkpoints(checkpoint.read(native), checkpoint.read(src))
        assert proof, proof.summary()


@st.composite
def modules(draw: st.DrawFn) -> dict[str, Any]:
    """Nested modules as Flax names them, more than ten of one kind, with scalars."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)  # Orbax saves no empty arrays

    def leaves() -> dict[str, Any]:
        names = draw(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=3, unique=True))
        return {name: random.normal(size=draw(shapes)).astype(np.float32) for name in names}

    kinds = draw(st.lists(st.sampled_from(MODULES), min_size=1, max_size=3, unique=True))
    found: dict[str, Any] = {}
    for kind in kinds:
        for index in range(draw(st.sampled_from([1, 2, 12]))):
            inner = leaves()
            if draw(st.booleans()):
                inner["inner"] = leaves()
            found[f"{kind}_{index}"] = inner
    return found


@RULES
@given(params=modules(), statistics=st.booleans(), kind=st.sampled_from(sorted(OPTIMIZERS)))
def test_any_flax_project_and_back(params, statistics, kind):
    """Linen's variables and TrainState to nnx.State and nnx.Optimizer, and back."""
    make = OPTIMIZERS[kind]
    tree: dict[str, Any] = {"params": params}
    if statistics:
        tree["batch_stats"] = {"BatchNorm_0": {"mean": np.ones(3, np.float32)}}
    if make is not None:
        tree |= {"step": np.int32(3), "opt_state": filled(make().init(params), 4)}
    with tempfile.TemporaryDirectory() as place:
        src = save(Path(place) / "src", tree, None, use_ocdbt=True, use_zarr3=True)
        native = to(src, Path(place) / "native", "nnx")
        assert checkpoint.read(native).layout.family == "nnx"
        same(src, to(native, Path(place) / "back", "linen"))
        proof, basis = verify.checkpoints(checkpoint.read(native), checkpoint.read(src))
        assert proof and basis == "recorded conversion", proof.summary()
        assert len({hash.fingerprint(checkpoint.read(each)).digest for each in (src, native)}) == 1


@RULES
@given(source=sources(), dtype=st.sampled_from(["bfloat16", "float16", "float32"]))
def test_a_narrowed_checkpoint_is_the_exact_cast(source, dtype):
    tree, chunk, ways, told = source
    with tempfile.TemporaryDirectory() as place:
        src = save(Path(place) / "src", tree, chunk, **ways)
        narrow = to(src, Path(place) / "narrow", "nnx", dtype=dtype)
        proof, _ = verify.checkpoints(checkpoint.read(narrow), checkpoint.read(src))
        assert proof, (told, proof.summary())
        report = diff.diff(checkpoint.read(src), checkpoint.read(narrow), cast=True)
        assert report, (told, report.summary())
        kinds = {
            leaf.dtype
            for path, leaf in checkpoint.read(narrow).leaves.items()
            if "params/" in path[:7]
        }
        assert kinds == {dtype}


@RULES
@given(source=sources(), data=st.data())
def test_restacked_and_back(source, data):
    """Over another scan layout, in either framework's spelling."""
    tree, chunk, ways, told = source
    with tempfile.TemporaryDirectory() as place:
        src = save(Path(place) / "src", tree, chunk, **ways)
        first = checkpoint.read(src)
        scanned = bool(first.scan_layers)
        layout = data.draw(st.sampled_from(["linen", "nnx"]))
        own = {} if not scanned else {"from_scan_axis": int(told.split("axis ")[1][0])}
        try:
            other = to(src, Path(place) / "other", layout, scan=not scanned, **own)
        except Exception as error:  # two axes that the shapes do not tell apart, or odd statistics
            assert "axis" in str(error) or "restack" in str(error), error
            return
        options = {"scan": scanned} | ({"scan_axis": own["from_scan_axis"]} if own else {})
        back = to(other, Path(place) / "back", "linen", **options)
        same(src, back)
        left, right = (
            hash.fingerprint(checkpoint.read(each), only="params") for each in (other, back)
        )
        assert left.digest == right.digest, told


@RULES
@given(source=sources(), data=st.data())
def test_one_changed_bit_is_found(source, data):
    """Wherever it is, in whatever layout, stacking and chunking the other copy is."""
    tree, chunk, ways, told = source
    import jax

    with tempfile.TemporaryDirectory() as place:
        src = save(Path(place) / "src", tree, chunk, **ways)
        flat, structure = jax.tree.flatten(tree)
        flat = [np.array(leaf) for leaf in flat]
        index = data.draw(st.sampled_from([i for i, leaf in enumerate(flat) if leaf.size]))
        words = flat[index].reshape(-1).view(np.uint8)
        words[data.draw(st.integers(0, words.size - 1))] ^= 1 << data.draw(st.integers(0, 6))
        changed = jax.tree.unflatten(structure, flat)
        if flat[index].dtype == bool or int(changed["step"]) < 0:
            return
        bad = save(Path(place) / "bad", changed, None, use_ocdbt=True, use_zarr3=True)
        native = to(bad, Path(place) / "native", data.draw(st.sampled_from(["linen", "nnx"])))
        report = diff.diff(checkpoint.read(src), checkpoint.read(native))
        assert report.exit_code == 1, told
        (line,) = [line for line in report.lines if line.sign == "*"]
        assert line.differing == 1
        a, b = (hash.fingerprint(checkpoint.read(each)) for each in (src, native))
        wrong = {path for path in a.leaves if a.leaves[path] != b.leaves[path]}
        assert len(wrong) == 1 and a.digest != b.digest


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_cast_is_the_exact_one(dtype):
    """Of every class of number: rounded, subnormal, infinite, NaN; what overflows is refused."""
    numbers = [0.0, -0.0, 1.0, 1 + 2**-9, 65519.0, 1e-8, 1e-41, np.inf, -np.inf, np.nan]
    both = np.array(list(itertools.chain(numbers, (-x for x in numbers))), np.float32)
    from maxmig.converters import casts

    leaf = Leaf(both.shape, dtype, both.size * np.dtype(dtype).itemsize)
    expected = both.astype(np.dtype(dtype))
    assert casts.cast(both, leaf, "x").tobytes() == expected.tobytes()
    over = {"float16": 65520.0, "bfloat16": 3.4e38}.get(dtype)
    for number in () if over is None else (over, -over):
        both[3] = number
        with pytest.raises(errors.ConvertError, match=r"x: the number .* would become infinite"):
            casts.cast(both, leaf, "x")
    assert expected.dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
