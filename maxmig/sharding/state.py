"""The sharding of each leaf of a training state, by canonical path: the same on every rung."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from maxmig.backend import Backend
from maxmig.core.part import Param
from maxmig.sharding.rules import Rules

Abstract = dict[str, jax.ShapeDtypeStruct]


def abstract_state(
    backend: Backend, tx: optax.GradientTransformation, rules: Rules | None = None
) -> Abstract:
    """Shapes, dtypes and (with rules) shardings of a state, by canonical path; without arrays."""
    abstract = backend.view(tx).abstract
    if rules is None:
        return abstract
    return with_named_shardings(abstract, named_shardings(abstract, backend.spec, rules))


def partition_specs(
    abstract: Mapping[str, Any], spec: Mapping[str, Param], rules: Rules
) -> dict[str, PartitionSpec]:
    """How each leaf is split.

    A leaf of the optimizer's state that has a parameter's path and shape is split like it, and all
    other leaves are whole on every device.
    """
    return {path: _spec(path, leaf, spec, rules) for path, leaf in abstract.items()}


def named_shardings(
    abstract: Mapping[str, Any], spec: Mapping[str, Param], rules: Rules
) -> dict[str, NamedSharding]:
    """`partition_specs` as shardings on the rules' mesh."""
    specs = partition_specs(abstract, spec, rules)
    return {path: NamedSharding(rules.mesh, s) for path, s in specs.items()}


def with_named_shardings(
    abstract: Mapping[str, Any], shardings: Mapping[str, NamedSharding]
) -> Abstract:
    """The same leaves, each with its sharding."""
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path])
        for path, leaf in abstract.items()
    }


def _spec(path: str, leaf: Any, spec: Mapping[str, Param], rules: Rules) -> PartitionSpec:
    parts = path.split("/")
    for start in range(1, len(parts)):
        param = spec.get("/".join(parts[start:]))
        if param is not None and param.shape == leaf.shape:
            return rules.spec(param.axes, param.shape)
    return PartitionSpec()
