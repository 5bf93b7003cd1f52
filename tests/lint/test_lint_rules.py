"""`maxmig lint`: each trap is found, and the right way to write it is not."""

import json
from pathlib import Path

import pytest

from maxmig import errors, lint
from maxmig.cli import main as cli
from maxmig.lint.rules import PROJECT_RULES, RULES

HEAD = """
import functools
import jax, jax.numpy as jnp, optax
import flax
from flax import linen as nn
from flax import nnx

class Block(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(jnp.zeros(3))
        self.count = nnx.BatchStat(jnp.zeros(()))
        self.linear = nnx.Linear(2, 2, rngs=rngs)
"""

# code -> (bad, good)
CASES = {
    "jit-drops-state": (
        """
@jax.jit
def step(model: Block, x):
    return model(x)
""",
        """
@jax.jit
def step(model: Block, x):
    out = model(x)
    return out, nnx.state(model)
@nnx.jit
def other(model: Block, x):
    return model(x)
@jax.jit
def pure(graphdef, state, x):
    model = nnx.merge(graphdef, state)
    return model(x)
@jax.jit
def linen(params, x):
    return nn.Dense(2).apply(params, x)
""",
    ),
    "grad-of-module": (
        "def loss(model: Block):\n    return model(1).sum()\ng = jax.grad(loss)\n",
        "def loss(model: Block):\n    return model(1).sum()\ng = nnx.grad(loss)\n"
        "def other(params, model: Block):\n    return 0\nh = jax.value_and_grad(other)\n",
    ),
    "captured-module": (
        "net = Block(0)\nforward = jax.jit(net.__call__)\n",
        "net = Block(0)\nforward = nnx.jit(net.__call__)\n"
        "outs = jax.vmap(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))(jnp.ones((2, 2)))\n"
        "f = jax.jit(lambda net, x: (net(x), nnx.state(net)))\n"
        "def other():\n    net = 3\n    return jax.jit(lambda x: net(x))\n",
    ),
    "mask-by-path": (
        "mask = lambda p: jax.tree_util.tree_map_with_path(\n"
        "    lambda path, x: getattr(path[-1], 'key', None) == 'kernel', p)\n",
        "mask = lambda p: jax.tree_util.tree_map_with_path(\n"
        "    lambda path, x: 'kernel' in jax.tree_util.keystr(path), p)\nname = parts[-1].key\n",
    ),
    "state-is-no-dict": (
        "state = nnx.state(m)\nflat = flax.traverse_util.flatten_dict(state)\n",
        "flat = flax.traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(m)))\n",
    ),
    "param-overwritten": (
        "model = Block(0)\nmodel.kernel = jnp.ones(3)\n",
        "model = Block(0)\nmodel.kernel[...] = jnp.ones(3)\nmodel.kernel = nnx.Param(jnp.ones(3))\n"
        "other.kernel = jnp.ones(3)\n",
    ),
    "value-written": (
        "model.count.value += 1\n",
        "model.count[...] += 1\nconfig.value = 3\nx = model.count.value\n",
    ),
    "list-of-modules": (
        "class M(nnx.Module):\n    def __init__(self, rngs):\n"
        "        self.layers = [nnx.Linear(2, 2, rngs=rngs) for _ in range(3)]\n",
        "class M(nnx.Module):\n    def __init__(self, rngs):\n        self.sizes = [1, 2]\n"
        "        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs)])\n"
        "class Linen(nn.Module):\n    def setup(self):\n        self.layers = [nn.Dense(2)]\n",
    ),
    "no-decode": (
        "a = nnx.MultiHeadAttention(2, 4, rngs=rngs)\n",
        "a = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)\n",
    ),
    "no-nnx-twin": (
        "cell = nn.ConvLSTMCell(3, (3,))\n",
        "cell = nn.LSTMCell(3)\nlayer = nn.Dense(3, dot_general=f)\n",
    ),
    "lossy-layer": ("cell = nn.GRUCell(3)\n", "cell = nn.OptimizedLSTMCell(3)\n"),
    "nested-names": (
        "y = nn.Dense(4)(nn.relu(nn.Dense(8)(x)))\n",
        "y = nn.Dense(4, name='b')(nn.relu(nn.Dense(8, name='a')(x)))\n"
        "y = nn.Dense(4)(nn.LayerNorm()(x))\n",
    ),
    "norm-promotion": (
        "norm = nnx.LayerNorm(4, dtype=jnp.bfloat16, rngs=rngs)\n",
        "norm = nnx.LayerNorm(4, dtype=jnp.float32, rngs=rngs)\n"
        "norm = nnx.RMSNorm(4, dtype='bfloat16', promote_dtype=f, rngs=rngs)\n",
    ),
    "optimizer-api": (
        "opt = nnx.Optimizer(model, tx)\n",
        "opt = nnx.Optimizer(model, tx, wrt=nnx.Param)\nopt.update(model, grads)\n",
    ),
    "training-mode": (
        "drop = nnx.Dropout(0.5, rngs=rngs)\n",
        "drop = nnx.Dropout(0.5, rngs=rngs)\nmodel.eval()\n",
    ),
}


def codes(folder: Path, text: str) -> list[str]:
    (folder / "code.py").write_text(HEAD + text)
    return [finding.code for finding in lint.check([folder])[0]]


def test_every_rule_has_a_case() -> None:
    assert {rule.code for rule in (*RULES, *PROJECT_RULES)} == set(CASES)


@pytest.mark.parametrize("code", CASES)
def test_found(code: str, tmp_path: Path) -> None:
    bad, good = CASES[code]
    assert codes(tmp_path, bad) == [code]
    assert codes(tmp_path, good) == []


@pytest.mark.parametrize("code", CASES)
def test_ignored_by_comment(code: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(HEAD + CASES[code][0])
    (finding,) = lint.check([tmp_path])[0]
    lines = (tmp_path / "code.py").read_text().splitlines()
    lines[finding.line - 1] += f"  # maxmig: ignore[{code}]"
    (tmp_path / "code.py").write_text("\n".join(lines))
    assert lint.check([tmp_path])[0] == []
    lines[finding.line - 1] = lines[finding.line - 1].replace(code, "another-code")
    (tmp_path / "code.py").write_text("\n".join(lines))
    assert [f.code for f in lint.check([tmp_path])[0]] == [code]


def test_other_spellings(tmp_path: Path) -> None:
    found = codes(
        tmp_path,
        """
@functools.partial(jax.jit, static_argnums=1)
def a(model: nnx.Module, x):
    return model(x)
b = jax.jit(lambda model, x: model(x))
class M(nnx.Module):
    def __init__(self, rngs):
        self.layers = []
        for _ in range(3):
            self.layers.append(Block(rngs))
    def reset(self):
        self.linear.kernel = jnp.zeros(3)
opt = nnx.Optimizer(model, tx, wrt=nnx.Param)
opt.update(grads)
ends = jax.tree_util.keystr(path).endswith("['kernel']")
""",
    )
    assert sorted(found) == [
        "jit-drops-state",
        "jit-drops-state",
        "list-of-modules",
        "mask-by-path",
        "optimizer-api",
        "param-overwritten",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("g = jax.grad(lambda m: m(1).sum())(Block(0))", ["grad-of-module"]),
        ("def loss(f, p): return f(p)\ng = jax.grad(loss, argnums=1)", []),
        ("step = jax.jit(lambda m, x: m(x))", ["jit-drops-state"]),
        ("step = jax.jit(lambda f, x: f(x), static_argnums=0)", []),
        ("step = jax.jit(lambda f, x: f(x), static_argnames='f')", []),
        (
            "fast = functools.partial(jax.jit, static_argnums=0)\n@fast\n"
            "def step(k, m): return m(k)",
            ["jit-drops-state"],
        ),
        (
            "def run():\n    m = Block(0)\n    @jax.jit\n    def f(x): return m(x)\n    return f",
            ["captured-module"],
        ),
        (
            "drop = nnx.Dropout(0.5, deterministic=False)\nout = jax.vmap(drop)(jnp.ones(3))",
            ["captured-module"],
        ),
        (
            "drop = nnx.Dropout(0.5, deterministic=False)\n"
            "out = jax.lax.scan(lambda c, x: (drop(c), None), 1.0, None, length=3)",
            ["captured-module"],
        ),
        (
            "class M(nnx.Module):\n    def __init__(self, rngs):\n        heads = []\n"
            "        for i in range(2):\n            heads.append(nnx.Linear(2, 2, rngs=rngs))\n"
            "        self.heads = heads",
            ["list-of-modules"],
        ),
        (
            "class M(nnx.Module):\n    def __init__(self, rngs):\n        heads = []\n"
            "        heads.append(nnx.Linear(2, 2, rngs=rngs))\n"
            "        self.heads = nnx.List(heads)",
            [],
        ),
        ("cell = nnx.GRUCell(2, 2, rngs=nnx.Rngs(0))", ["lossy-layer"]),
        (
            "class L(nn.Module):\n    @nn.compact\n    def __call__(self, x):\n"
            "        one = nn.Conv(4, (3,))\n        two = nn.Conv(4, (3,))\n"
            "        return one(two(x))",
            ["nested-names"],
        ),
        (
            "class L(nn.Module):\n    @nn.compact\n    def __call__(self, x):\n"
            "        one = nn.Conv(4, (3,))\n        two = nn.Conv(4, (3,))\n"
            "        return two(one(x))",
            [],
        ),
    ],
)
def test_what_a_newcomer_wrote(tmp_path: Path, text: str, found: list[str]) -> None:
    assert codes(tmp_path, text + "\n") == found


def test_a_file_that_is_no_python_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    (finding,) = lint.check([tmp_path])[0]
    assert (finding.code, finding.line) == ("unreadable", 1)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="no such file"):
        lint.check([tmp_path / "none"])
    with pytest.raises(errors.DataError, match="found none"):
        lint.check([tmp_path])
    with pytest.raises(errors.ConfigError, match="expected one of"):
        lint.check([tmp_path], ignore=["nonsense"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "code.py"
    file.write_text(HEAD + CASES["lossy-layer"][0])
    assert cli.main(["lint", str(tmp_path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    (finding,) = document["findings"]
    assert finding["code"] == "lossy-layer" and finding["line"] == 13 and finding["remedy"]
    assert cli.main(["lint", str(file)]) == 1
    assert f"{file.as_posix()}:13:8: lossy-layer: " in capsys.readouterr().out
    assert cli.main(["lint", str(file), "--ignore", "lossy-layer"]) == 0
    assert cli.main(["lint", str(tmp_path / "nothing")]) == 4
    assert cli.main(["lint", "--rules"]) == 0


def test_our_own_code_is_clean(root: Path) -> None:
    assert lint.check([root / "maxmig", root / "converters"])[0] == []
