"""MaxText's NNX runs go on from what is converted for them, as its Linen runs did.

The tree that such a run asks Orbax for is made here, of the model's variables and a plain
`nnx.Optimizer`. What Orbax puts into it is trained on; MaxText's numbers are in `resume.json`.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import mapping_cases
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from maxmig import trees, view
from maxmig.config.flags import Stage
from maxmig.optim import spikes
from maxmig.optim.build import matrices
from maxmig.train.runtime import Runtime

MUON, SPIKES = "llama2_muon_linen_scan", "llama2_skipspk_linen_scan"
BATCH = ("a_inputs", "a_targets")


@pytest.fixture(scope="module", params=[MUON, SPIKES])
def run(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Linen run's checkpoint, converted for MaxText's NNX runs."""
    source, path = helpers.MAXTEXT / run / "checkpoint", tmp_path_factory.mktemp(run) / "made"
    return mapping_cases.convert(source, path, "maxtext-nnx")


def runtime(run: str) -> Runtime:
    path = helpers.MAXTEXT / run / "config.yml"
    return helpers.runtime(path, "steps=13", "learning_rate_schedule_steps=100", stage=Stage.NNX)


@functools.cache
def asked(run: str) -> dict[str, Any]:
    """What such a run asks Orbax for; the outermost container of these optimizers is a dict.

    In the state of an `nnx.Optimizer` tuples are dicts keyed by position, without what is empty.
    """
    rt = runtime(run)
    table = trees.flatten(matrices(rt.backend.spec))

    def dimensions(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda keys, _: table[view.path(keys)], params)

    def optimizer() -> nnx.Optimizer[Any]:
        tx = spikes.skip_on_spikes(optax.adamw(rt.settings.schedule), 128, 6.0)
        if run == MUON:
            tx = optax.contrib.muon(rt.settings.schedule, muon_weight_dimension_numbers=dimensions)
        return nnx.Optimizer(rt.backend.module, tx, wrt=nnx.Param)

    state = nnx.to_pure_dict(nnx.state(nnx.eval_shape(optimizer)))
    return {
        "params": {"params": nnx.to_pure_dict(nnx.state(rt.backend.module, nnx.Param))},
        "opt_state": state["opt_state"],
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }


def restored(items: Path, wanted: Any) -> Any:
    """The wanted tree, filled by Orbax, which refuses where the checkpoint holds another tree."""
    return ocp.StandardCheckpointer().restore(items, wanted)


def held(tree: Any) -> dict[str, Any]:
    """The arrays of a tree, without its holes."""
    return {p: x for p, x in trees.walk(tree) if not isinstance(x, optax.MaskedNode | None)}


def test_training_goes_on_as_maxtexts(run: str, made: Path) -> None:
    rt = runtime(run)
    wanted = json.loads((helpers.MAXTEXT / run / "resume.json").read_text())
    with np.load(helpers.MAXTEXT / "llama2_linen_scan" / "reference.npz") as arrays:
        batch = {name[2:]: arrays[name] for name in arrays if name.startswith(BATCH)}
    tree = restored(made, asked(run))
    state = held({**tree, "params": tree["params"]["params"]})
    assert set(state) == set(rt.view.paths)
    metrics, last = helpers.train(rt, rt.leaves(state), [batch] * 3)
    for got, step in zip(metrics, wanted["steps"], strict=True):
        assert abs(got["loss"] - step["loss"]) <= 1e-5
        assert got["learning_rate"] == pytest.approx(step["learning_rate"], rel=1e-6)
        assert got["raw_grad_norm"] == pytest.approx(step["raw_grad_norm"], rel=2e-5)
        assert got["param_norm"] == pytest.approx(step["param_norm"], rel=1e-6)
    for path, norm in wanted["param_l2_after_step_12"].items():
        assert np.linalg.norm(last[f"params/{path}"]) == pytest.approx(norm, rel=1e-4), path


def test_the_state_is_the_sources_leaf_by_leaf(run: str, made: Path, tmp_path: Path) -> None:
    source = mapping_cases.arrays(helpers.MAXTEXT / run / "checkpoint")
    tree = restored(made, asked(run))
    found, again = held(tree), mapping_cases.save(tmp_path / "again", tree)
    helpers.same(held(restored(again, asked(run))), found)
    linens = {re.sub("(mu|nu)/", r"\1/params/", path): leaf for path, leaf in found.items()}
    helpers.same(linens, source)


def test_orbax_refuses_the_linen_runs_own(run: str) -> None:
    """Negative control: MaxText's NNX runs fail on it in the same place."""
    with pytest.raises(ValueError, match="inner_state"):
        restored(helpers.MAXTEXT / run / "checkpoint" / "9" / "items", asked(run))


def moments(tree: Any) -> Any:
    """Those of AdamW, which keeps the embedding table's in both runs."""
    state = tree["opt_state"]
    return state.get("inner_states", {}).get("adam", state)["inner_state"][0]


def dropped(tree: Any) -> None:
    del moments(tree)["mu"]["token_embedder"]


def renamed(tree: Any) -> None:
    held = moments(tree)["nu"]
    held["embedder"] = held.pop("token_embedder")


def as_linen_has_it(tree: Any) -> None:
    held = moments(tree)
    held["nu"] = {"params": held["nu"]}


@pytest.mark.parametrize("damage", [dropped, renamed, as_linen_has_it])
def test_orbax_refuses_any_other_tree(run: str, made: Path, tmp_path: Path, damage: Any) -> None:
    """Negative controls; where MaxText restores in part, the moments would be lost in silence."""
    tree = restored(made, asked(run))
    damage(tree)
    with pytest.raises(ValueError, match=r"token_embedder|params"):
        restored(mapping_cases.save(tmp_path / "damaged", tree), asked(run))
