"""Meshes, logical axis rules, and the sharding of every array, on both wings alike."""

from maxmig.sharding.mesh import mesh_from_config
from maxmig.sharding.rules import Rules
from maxmig.sharding.state import (
    abstract_state,
    named_shardings,
    partition_specs,
    with_named_shardings,
)

__all__ = [
    "Rules",
    "abstract_state",
    "mesh_from_config",
    "named_shardings",
    "partition_specs",
    "with_named_shardings",
]
