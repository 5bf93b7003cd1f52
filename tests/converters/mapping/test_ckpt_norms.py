"""SpectralNorm and WeightNorm: real modules of both kinds, both ways, and what is refused."""

from pathlib import Path
from typing import Any

import mapping_cases
import pytest

from maxmig import errors

SPECTRAL = "- {layer: SpectralNorm_0, kind: spectral-norm, wraps: Dense_0, to: nnx}"
WEIGHT = "- {layer: WeightNorm_0, kind: KIND, wraps: Dense_1, to: nnx}"
RENAMED = "- {rename: SpectralNorm_0, to: sn}\n- {rename: WeightNorm_0, to: wn}\n"


def linen_model() -> Any:
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            x = nn.SpectralNorm(nn.Dense(4))(x, update_stats=train)
            return nn.Dense(2, name="out")(nn.WeightNorm(nn.Dense(3))(x))

    return Model()


def native_model() -> Any:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.sn = nnx.SpectralNorm(nnx.Linear(5, 4, rngs=rngs), rngs=rngs)
            self.wn = nnx.WeightNorm(nnx.Linear(4, 3, rngs=rngs), rngs=rngs)
            self.out = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(self.wn(self.sn(x, update_stats=False)))

    return Model(nnx.Rngs(3))


def inputs() -> Any:
    import jax

    return jax.random.normal(jax.random.key(1), (3, 5))


def variables() -> Any:
    """Variables in which no leaf has its initial value."""
    import jax
    import numpy as np

    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda x: x + jax.numpy.asarray(rng.uniform(0.1, 0.4, x.shape), x.dtype),
        linen_model().init(jax.random.key(0), inputs()),
    )


def raw() -> bool:
    """Whether this flax keeps WeightNorm's scales as raw arrays."""
    from flax import nnx

    return not isinstance(native_model().wn.scales[("kernel",)], nnx.Variable)


def mapping(path: Path, kind: str | None = None) -> Path:
    kind = kind or ("weight-norm-raw" if raw() else "weight-norm")
    path.write_text(f"maxmig_map: 1\nrules:\n{SPECTRAL}\n{WEIGHT.replace('KIND', kind)}\n{RENAMED}")
    return path


def restored(directory: Path) -> Any:
    import orbax.checkpoint as ocp
    from flax import nnx

    model = native_model()
    nnx.update(model, ocp.PyTreeCheckpointer().restore(directory, item=nnx.state(model)))
    return model


def test_linen_to_nnx_and_back(tmp_path: Path) -> None:
    import numpy as np

    tree = variables()
    source = mapping_cases.save(tmp_path / "linen", tree)
    file = mapping(tmp_path / "map.yml")
    made = mapping_cases.convert(source, tmp_path / "nnx", "nnx-state", map_file=file)
    wanted = linen_model().apply(tree, inputs())
    assert not np.allclose(wanted, native_model()(inputs()), atol=1e-3)  # the check can fail
    np.testing.assert_array_equal(restored(made)(inputs()), wanted)

    back = mapping_cases.convert(tmp_path / "nnx", tmp_path / "back", "linen-variables")
    a, b = mapping_cases.arrays(source), mapping_cases.arrays(back)
    assert a.keys() == b.keys()
    assert [path for path in a if not mapping_cases.same_bits(a[path], b[path])] == []
    assert "batch_stats/SpectralNorm_0/Dense_0/kernel/u" in a


def test_nnx_to_linen_and_back(tmp_path: Path) -> None:
    import numpy as np
    import orbax.checkpoint as ocp
    from flax import nnx

    model = native_model()
    state = nnx.state(model)
    source = mapping_cases.save(tmp_path / "nnx", state)
    with pytest.raises(errors.ConvertError, match="under a name that an NNX tree does not hold"):
        mapping_cases.convert(source, tmp_path / "none", "linen-variables")
    file = tmp_path / "map.yml"
    file.write_text(
        "maxmig_map: 1\nrules:\n"
        "- {layer: sn, kind: spectral-norm, wraps: Dense_0, to: linen}\n"
        "- {layer: wn, kind: weight-norm, wraps: Dense_1, to: linen}\n"
        "- {rename: sn, to: SpectralNorm_0}\n- {rename: wn, to: WeightNorm_0}\n"
    )
    made = mapping_cases.convert(source, tmp_path / "linen", "linen-variables", map_file=file)
    tree = ocp.PyTreeCheckpointer().restore(made, item=variables())
    found = linen_model().apply(tree, inputs())
    np.testing.assert_array_equal(found, model(inputs()))
    back = mapping_cases.convert(tmp_path / "linen", tmp_path / "back", "nnx-state")
    a, b = mapping_cases.arrays(source), mapping_cases.arrays(back)
    assert a.keys() == b.keys()
    assert [path for path in a if not mapping_cases.same_bits(a[path], b[path])] == []


def test_moments_follow(tmp_path: Path) -> None:
    """A training state: found without a file; the scale's moments have a place where it is one."""
    import jax
    import optax
    from flax.training import train_state

    class State(train_state.TrainState):
        batch_stats: Any = None

    tree = dict(variables())
    state = State.create(
        apply_fn=None, params=tree["params"], tx=optax.adam(1e-2), batch_stats=tree["batch_stats"]
    )
    state = state.apply_gradients(grads=jax.tree.map(lambda x: x + 1, state.params))
    source = mapping_cases.save(tmp_path / "linen", state)
    made = mapping_cases.convert(source, tmp_path / "nnx", "nnx-optimizer")
    a, b = mapping_cases.arrays(source), mapping_cases.arrays(made)
    inside = "opt_state/0/mu/WeightNorm_0"
    assert mapping_cases.same_bits(
        a[f"{inside}/Dense_1/kernel/scale"], b[f"{inside}/scales/('kernel',)/value"]
    )
    assert mapping_cases.same_bits(
        a["opt_state/0/nu/Dense_0/kernel"],
        b["opt_state/0/nu/SpectralNorm_0/layer_instance/kernel/value"],
    )
    back = mapping_cases.arrays(
        mapping_cases.convert(tmp_path / "nnx", tmp_path / "back", "linen-state")
    )
    assert a.keys() == back.keys()
    assert [path for path in a if not mapping_cases.same_bits(a[path], back[path])] == []
    with pytest.raises(errors.ConfigError, match="which NNX's optimizer does not train"):
        file = mapping(tmp_path / "map.yml", "weight-norm-raw")
        mapping_cases.convert(source, tmp_path / "raw", "nnx-optimizer", map_file=file)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("- {layer: SpectralNorm_0, kind: spectral-norm, to: nnx}", "wraps"),
        ("- {layer: SpectralNorm_0, kind: gru, wraps: Dense_0, to: nnx}", "wraps"),
        (
            "- {layer: SpectralNorm_0, kind: spectral-norm, wraps: Dense_9, to: nnx}",
            "expected the wrapped layer at Dense_9",
        ),
        (
            "- {layer: SpectralNorm_0, kind: spectral-norm, wraps: Dense_1, to: nnx}",
            "expected a name Dense_1/",
        ),
        (
            "- {layer: WeightNorm_0, kind: spectral-norm, wraps: Dense_1, to: nnx}",
            r"expected a name Dense_1/\.\.\./u\|sigma",
        ),
    ],
)
def test_refused(rule: str, expected: str, tmp_path: Path) -> None:
    source = mapping_cases.save(tmp_path / "linen", variables())
    file = tmp_path / "map.yml"
    file.write_text(f"maxmig_map: 1\nrules:\n{rule}\n")
    with pytest.raises((errors.ConvertError, errors.ConfigError), match=expected):
        mapping_cases.convert(source, tmp_path / "nnx", "nnx-state", map_file=file)


def test_a_layer_that_is_not_beside_its_wrapper(tmp_path: Path) -> None:
    tree = variables()
    del tree["params"]["Dense_0"]
    source = mapping_cases.save(tmp_path / "linen", tree)
    with pytest.raises(errors.ConvertError, match="Dense_0/kernel, which is not there; say where"):
        mapping_cases.convert(source, tmp_path / "nnx", "nnx-state")


def test_a_list_inside_has_no_place(tmp_path: Path) -> None:
    import numpy as np

    stats = {("layers", 0, "kernel", "u"): np.ones((1, 2)), ("kernel", "u"): np.ones((1, 2))}
    tree = {"sn": {"layer_instance": {"kernel": np.ones((2, 2))}, "batch_stats": stats}}
    source = mapping_cases.save(tmp_path / "nnx", {**tree, "rngs": {"count": np.uint32(0)}})
    file = tmp_path / "map.yml"
    file.write_text(
        "maxmig_map: 1\nrules:\n- {layer: sn, kind: spectral-norm, wraps: a, to: linen}\n"
    )
    with pytest.raises(errors.ConfigError, match="a list inside the wrapped layer has no place"):
        mapping_cases.convert(source, tmp_path / "linen", "linen-variables", map_file=file)
