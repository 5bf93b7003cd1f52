"""Where the two modules of a user's pair differ first, and a script that shows it again."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.parity.findings.check import Verdict
from maxmig.parity.pairs import confirm, engine, gates, seen, steady
from maxmig.parity.pairs import pair as pairs
from maxmig.parity.pairs.compute import Computation
from maxmig.parity.pairs.engine import Traced
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.rungs import localize
from maxmig.parity.rungs.localize import INPUTS, SCRIPT, Localization

MAPPING = "mapping.yml"


def locate(
    spec: "str | Pair | Callable[[], Any]", *, mapping: Any = None, folder: Path | None = None
) -> Localization:
    """Looks for the first difference: in the outputs, the gradients, then the optimizer steps.

    Args:
        spec: `pkg.module:function`, such a function, or a pair.
        mapping: a mapping file, or a dict NNX leaf -> Linen leaf; traced by default.
        folder: where to write a script that shows the difference again, with all it needs; for
            a `spec` that is a name.

    Raises:
        ConfigError: the pair cannot be had, or a module raises.
        DataError: a mapping or an input cannot be used.
        InconclusiveError: a side is not deterministic.
        PreflightError: the folder has a script already.
    """
    if folder is not None and (folder / SCRIPT).exists():
        raise errors.PreflightError(
            f"{folder / SCRIPT} exists already; choose another folder, or remove it"
        )
    traced = engine.trace(pairs.load(spec), mapping)
    traced = engine.mapped(traced, confirm.confirm(traced.computations))
    if restless := steady.restless(traced.computations):
        raise errors.InconclusiveError(restless)
    found: Localization | None = None
    for name in gates.names(traced.computations):
        for c in traced.computations:
            if name not in gates.of_mode(c, traced.computations, (name,)):
                continue
            found = localize.between(c.program(name, 0), c.program(name, 1), c.inputs)
            if found.verdict is not Verdict.PASS:
                if folder is not None and isinstance(spec, str):
                    script = _write(folder, spec, found, traced, c, name)
                    found = dataclasses.replace(found, script=script)
                return found
    assert found is not None
    return found


def again(
    spec: str, *, mapping: str | Path, mode: str, name: str, inputs: str | Path
) -> Localization:
    """One program alone, for the weights and inputs of a file: what a written script calls.

    Args:
        spec: `pkg.module:function`.
        mapping: the mapping file.
        mode: `train`, `eval` or `call`.
        name: `outputs`, `gradients` or `step`.
        inputs: the file of arrays that stands beside the script.

    Raises:
        ConfigError, DataError: as `locate`.
    """
    traced = engine.trace(pairs.load(spec), mapping)
    modes = {c.mode: c for c in traced.computations}
    if mode not in modes:
        raise errors.ConfigError(f"{spec}: it has no mode {mode} any more: {', '.join(modes)}")
    given = {**modes[mode].inputs, **_read(Path(inputs))}
    return localize.between(modes[mode].program(name, 0), modes[mode].program(name, 1), given)


def _write(
    folder: Path, spec: str, found: Localization, traced: Traced, c: Computation, name: str
) -> Path:
    import textwrap

    folder.mkdir(parents=True, exist_ok=True)
    traced.mapping.write(folder / MAPPING)
    _keep(folder / INPUTS, {p: c.inputs[p] for p in c.program(name, 0).inputs})
    told = "\n".join(textwrap.wrap(str(found.first or found.proof.summary), 96))
    script = folder / SCRIPT
    text = _SCRIPT.format(
        told=told.replace("\\", "/").replace('"""', "'''"),
        root=os.path.relpath(_root(spec), folder).replace("\\", "/"),
        spec=spec,
        mode=c.mode,
        name=name,
    )
    script.write_text(text, "utf-8")
    return script


def _root(spec: str) -> Path:
    """The folder from which the module of a pair is imported."""
    module = spec.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return Path.cwd()
    path = Path(file)
    inside = module.count(".") + (path.name == "__init__.py")
    return path.parents[inside]


def _keep(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays of any type: NumPy's own files know neither bfloat16 nor random keys."""
    kept: dict[str, Any] = {}
    for name, array in arrays.items():
        plain, kind = seen.key_free(array)
        kept[name] = np.frombuffer(np.ascontiguousarray(plain).tobytes(), np.uint8)
        kept[f"{name}?"] = np.array([str(plain.dtype), kind, *map(str, plain.shape)])
    np.savez(path, **kept)


def _read(path: Path) -> dict[str, Any]:
    found = {}
    try:
        with np.load(path) as kept:
            for name in (n for n in kept.files if not n.endswith("?")):
                dtype, kind, *shape = (str(text) for text in kept[f"{name}?"])
                array = np.frombuffer(kept[name].tobytes(), jax.numpy.dtype(dtype))
                leaf = jax.numpy.asarray(array.reshape([int(n) for n in shape]))
                found[name] = jax.random.wrap_key_data(leaf, impl=kind) if kind else leaf
    except (OSError, ValueError, KeyError) as error:
        raise errors.DataError(f"{path}: expected the arrays of a script: {error}") from error
    return found


_SCRIPT = '''"""Two modules that differ, and where:

{told}

Run it: python repro.py
It exits with 1 as long as they differ, and with 0 when they do not.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str((HERE / "{root}").resolve()))  # where the pair's module is

from maxmig.parity.pairs import locate

found = locate.again(
    "{spec}",
    mapping=HERE / "mapping.yml",
    mode="{mode}",
    name="{name}",
    inputs=HERE / "inputs.npz",
)
print(found.verdict.value)
print(found.first or found.proof.summary)
for layer in found.layers:
    print(f"{{layer.relative:.2e}}  {{layer.path}}")
sys.exit(0 if found.verdict.value == "PASS" else 1)
'''
