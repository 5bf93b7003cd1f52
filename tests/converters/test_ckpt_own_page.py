"""docs/your-own-modules.md, "Your checkpoints": the whole way of a user's project, as it stands."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training import train_state

from maxmig.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-own-modules.md"
NAMES = {"first": "Dense_1", "second": "Dense_0", "norm": "BatchNorm_0", "head": "Dense_2"}


class _State(train_state.TrainState):
    batch_stats: Any


def _table() -> str:
    lines = []
    for nnx_name, name in NAMES.items():
        one, other = ("scale", "bias") if nnx_name == "norm" else ("kernel", "bias")
        lines += [f"  params/{nnx_name}/{x}: params/{name}/{x}" for x in (one, other)]
    lines += [f"  batch_stats/norm/{x}: batch_stats/BatchNorm_0/{x}" for x in ("mean", "var")]
    return "\n".join(["kind: maxmig.mapping", "leaves:", *lines, ""])


def test_the_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    section = page[page.index("## Your checkpoints") : page.index("## In your tests")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "train.py").write_text("import optax\ntx = optax.adamw(1e-2)\n")
    (tmp_path / "net.yml").write_text(_table())
    code = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    names: dict[str, Any] = {"tx": optax.adamw(1e-2), "ocp": ocp, "path": tmp_path / "nnx_run"}
    exec(code, names)
    linen, x = names["LinenNet"](), names["inputs"]()["x"]
    shapes = jax.eval_shape(lambda: linen.init(jax.random.key(0), jnp.ones((4, 8)), train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.uniform(0.5, 1, s.shape).astype(s.dtype), shapes)
    state = _State.create(apply_fn=None, tx=names["tx"], **variables)
    with ocp.CheckpointManager(tmp_path / "linen_run") as manager:
        manager.save(1, args=ocp.args.StandardSave(state))
    there, *back = re.findall(r"^\$ (maxmig ckpt .*)$", section, re.MULTILINE)
    assert main(shlex.split(there)[1:]) == 0
    exec(re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[0], names)
    names["model"].eval()
    wanted = linen.apply(variables, x, train=False)
    np.testing.assert_array_equal(names["model"](x), wanted)
    nnx, manager = names["nnx"], names["manager"]
    saved = {"model": nnx.state(names["model"]), "optimizer": nnx.state(names["optimizer"])}
    manager.save(2, args=ocp.args.StandardSave(saved))
    manager.close()
    assert len(back) == 2
    for command in back:
        assert main(shlex.split(command)[1:]) == 0
    with ocp.CheckpointManager(tmp_path / "linen_again") as manager:
        again = manager.restore(2, args=ocp.args.StandardRestore(state))
    jax.tree.map(np.testing.assert_array_equal, again.opt_state, state.opt_state)
    found = linen.apply({"params": again.params, "batch_stats": again.batch_stats}, x, train=False)
    np.testing.assert_array_equal(found, wanted)
