"""Initial values: the distribution of every leaf; a stream depends on (seed, path, layer) alone."""

import dataclasses
import math

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig import models
from maxmig.core import part

WIDE = ("base_emb_dim=64", "base_mlp_dim=128", "head_dim=16", "base_num_decoder_layers=3")
TRUNCATION = 2 / 0.87962566103423978  # where jax cuts the normal, in units of the final deviation


def initial(name: str, *overrides: str, seed: int = 0) -> tuple[dict, dict]:
    cfg = helpers.config(name, *WIDE, *overrides)
    spec = part.spec(models.build(cfg))
    return spec, helpers.numpy(part.initialise(spec, jax.random.key(seed)))


def expected(path: str, name: str) -> tuple[float, bool]:
    """(standard deviation, whether it is cut off) of a kernel, from its fan-in."""
    d, m, n, h = 64, 128, (2 if name == "tiny_gpt3" else 4), 16
    *_, above, leaf = path.split("/")
    leaf = above if leaf == "kernel" else leaf  # experts are bare arrays
    fan = {"wo": m, "out": n * h}.get(leaf, d)
    fold = math.sqrt(h) if leaf == "query" else 1.0
    return 1 / math.sqrt(fan) / fold, not (name == "tiny_gpt3" and "self_attention" in path)


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_every_leaf_has_maxtexts_distribution(name: str) -> None:
    _, values = initial(name)
    kinds = set()
    for path, value in values.items():
        kind = path.rsplit("/", 1)[-1]
        kinds.add(kind)
        if kind == "scale":
            assert np.all(value == (0 if name == "tiny_gpt3" else 1)), path
        elif kind == "bias":
            assert np.all(value == 0), path
        else:
            std, cut = (1.0, False) if kind == "embedding" else expected(path, name)
            n = value.size
            assert abs(value.mean()) < 4 * std / math.sqrt(n), path
            assert value.std() == pytest.approx(std, rel=4 / math.sqrt(2 * n)), path
            largest = np.abs(value).max() / std
            assert (largest <= TRUNCATION * 1.0001) == cut, (path, largest)
    more = {"tiny_gpt3": {"bias"}, "tiny_mixtral": {"wi_0", "wi_1", "wo"}}
    assert kinds == {"scale", "kernel", "embedding"} | more.get(name, set())


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_dense_init_scale_is_the_variance_times_fan_in(scale: float) -> None:
    _, values = initial("tiny_llama2", f"dense_init_scale={scale}")
    kernel = values["decoder/layers/mlp/wi_0/kernel"]
    assert kernel.std() == pytest.approx(math.sqrt(scale / 64), rel=4 / math.sqrt(2 * kernel.size))


@pytest.mark.parametrize("name", helpers.FAMILIES)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_stack_draws_what_its_layers_would_draw_alone(name: str, axis: int) -> None:
    _, stacked = initial(name, f"param_scan_axis={axis}")
    _, apart = initial(name, "scan_layers=false")
    helpers.same(stacked, helpers.restack(apart, axis))


def test_streams_differ_between_leaves_layers_and_seeds() -> None:
    _, values = initial("tiny_llama2", "scan_layers=false")
    drawn = {path: v for path, v in values.items() if not path.endswith("scale")}
    first = {path: float(value.flat[0]) for path, value in drawn.items()}
    # wi_0 of two layers, wi_0 and wi_1 of one layer: no two leaves start with the same number.
    assert len(set(first.values())) == len(first) == 3 * 7 + 2
    _, again = initial("tiny_llama2", "scan_layers=false")
    helpers.same(values, again)
    _, other = initial("tiny_llama2", "scan_layers=false", seed=1)
    assert all((other[path] != value).any() for path, value in drawn.items())


def test_a_stream_depends_on_its_name_alone() -> None:
    spec, values = initial("tiny_llama2")
    few = {path: spec[path] for path in reversed(list(spec)) if "mlp" in path}
    some = part.initialise(few, jax.random.key(0))
    assert len(some) == 3
    helpers.same(some, {path: values[path] for path in few})


def test_stacking_puts_the_layer_axis_where_it_is_asked_for() -> None:
    param = part.Param((4, 6), ("embed", "mlp"), lambda k, s, d: jnp.zeros(s, d), jnp.float32, (0,))
    one = param.stacked(3, 1, "layers")
    assert (one.shape, one.axes, one.fan_in) == ((4, 3, 6), ("embed", "layers", "mlp"), (0,))
    zero = param.stacked(3, 0, "layers")
    assert (zero.shape, zero.axes, zero.fan_in) == ((3, 4, 6), ("layers", "embed", "mlp"), (1,))
    experts = dataclasses.replace(
        param, shape=(2, 4, 6), axes=("exp",) * 3, fan_in=(1,), batch=(0,)
    )
    one, zero = experts.stacked(3, 1, "layers"), experts.stacked(3, 0, "layers")
    assert (one.shape, one.fan_in, one.batch) == ((2, 3, 4, 6), (2,), (0,))
    assert (zero.shape, zero.fan_in, zero.batch) == ((3, 2, 4, 6), (2,), (1,))
    scale = part.Param((4,), ("norm",), lambda k, s, d: jnp.zeros(s, d), jnp.float32)
    assert scale.stacked(3, 1, "layers").shape == (4, 3)
    assert part.Param((), (), scale.init, jnp.float32).stacked(3, 1, "layers").shape == (3,)
