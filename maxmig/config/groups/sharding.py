"""The mesh of devices and the rules from logical axes to it."""

import difflib
from typing import Any, Literal

from pydantic import field_validator, model_validator

from maxmig.config.groups.base import Contradiction, Group, key

# mesh axis -> the middle of its ici_*/dcn_* keys; these can be larger than 1
SIZED_AXES = ("data", "fsdp", "fsdp_transpose", "tensor", "expert")
MESH_AXES = (
    "diloco",
    "data",
    "stage",
    "fsdp",
    "fsdp_transpose",
    "context",
    "context_usp_ulysses",
    "context_autoregressive",
    "tensor",
    "tensor_sequence",
    "expert",
    "autoregressive",
)

Rule = tuple[str, tuple[str, ...]]


class Sharding(Group):
    """Axes of the mesh, their sizes, and the logical axis rules."""

    mesh_axes: tuple[str, ...] = key(MESH_AXES, "Names of the mesh axes, in order.", min_length=1)
    ici_data_parallelism: int = key(1, "Devices of a slice along data; -1 takes what is left.")
    ici_fsdp_parallelism: int = key(-1, "Devices of a slice along fsdp; -1 takes what is left.")
    ici_fsdp_transpose_parallelism: int = key(
        1, "Devices of a slice along fsdp_transpose; -1 takes what is left."
    )
    ici_tensor_parallelism: int = key(1, "Devices of a slice along tensor; -1 takes what is left.")
    ici_expert_parallelism: int = key(1, "Devices of a slice along expert; -1 takes what is left.")
    dcn_data_parallelism: int = key(-1, "Slices along data; -1 takes what is left.")
    dcn_fsdp_parallelism: int = key(1, "Slices along fsdp; -1 takes what is left.")
    dcn_fsdp_transpose_parallelism: int = key(
        1, "Slices along fsdp_transpose; -1 takes what is left."
    )
    dcn_tensor_parallelism: int = key(1, "Slices along tensor; -1 takes what is left.")
    dcn_expert_parallelism: int = key(1, "Slices along expert; -1 takes what is left.")
    override_logical_axis_rules: bool = key(
        False, "The rules of a file replace all inherited ones, not only those of the same name."
    )
    logical_axis_rules: tuple[Rule, ...] = key(
        (), "Pairs of a logical axis and the mesh axes that split it; the first that fits wins."
    )
    data_sharding: tuple[tuple[str, ...], ...] = key(
        (MESH_AXES[1:],), "Mesh axes that split each dimension of a batch."
    )
    shard_mode: Literal["auto"] = key("auto", "Who places the intermediate arrays: the compiler.")

    @field_validator("logical_axis_rules", mode="before")
    @classmethod
    def _normal_rules(cls, value: Any) -> Any:
        """Accepts `[name, axis]`, `[name, [axes]]` and `[name, null]`."""
        if not isinstance(value, tuple):
            return value
        rules = []
        for rule in value:
            if not isinstance(rule, tuple) or len(rule) != 2 or not isinstance(rule[0], str):
                raise ValueError(
                    f"logical_axis_rules: expected pairs [logical axis, [mesh axes]], got {rule!r}"
                )
            axes = () if rule[1] is None else (rule[1],) if isinstance(rule[1], str) else rule[1]
            rules.append((rule[0], axes))
        return tuple(rules)

    @field_validator("data_sharding", mode="before")
    @classmethod
    def _nested(cls, value: Any) -> Any:
        if isinstance(value, tuple) and value and all(isinstance(axis, str) for axis in value):
            return (value,)
        return value

    @model_validator(mode="after")
    def _known_axes(self) -> "Sharding":
        _check_names("mesh_axes", self.mesh_axes, MESH_AXES)
        if len(set(self.mesh_axes)) != len(self.mesh_axes):
            raise Contradiction(("mesh_axes",), "mesh_axes: an axis is named twice")
        known = tuple(dict.fromkeys((*self.mesh_axes, *MESH_AXES)))
        for name, axes in self.logical_axis_rules:
            _check_names("logical_axis_rules", axes, known, f"the rule of {name!r}: ")
        for axes in self.data_sharding:
            _check_names("data_sharding", axes, known)
        return self

    @model_validator(mode="after")
    def _sizes(self) -> "Sharding":
        for network in ("ici", "dcn"):
            keys = [f"{network}_{axis}_parallelism" for axis in SIZED_AXES]
            open_keys = [name for name in keys if getattr(self, name) == -1]
            if len(open_keys) > 1:
                raise Contradiction(
                    open_keys,
                    f"{' and '.join(open_keys)} are both -1: at most one {network} axis can take "
                    "what is left",
                )
            for name, axis in zip(keys, SIZED_AXES, strict=True):
                size = getattr(self, name)
                if size != -1 and size < 1:
                    raise Contradiction(
                        (name,), f"{name}: expected an integer >= 1, or -1, got {size}"
                    )
                if axis not in self.mesh_axes and size > 1:
                    raise Contradiction(
                        (name, "mesh_axes"),
                        f"{name} is {size}, but mesh_axes has no axis {axis!r}",
                    )
        return self

    @property
    def ici(self) -> tuple[int, ...]:
        """Devices of a slice along each of `mesh_axes`; one may be -1."""
        return self._along("ici")

    @property
    def dcn(self) -> tuple[int, ...]:
        """Slices along each of `mesh_axes`; one may be -1."""
        return self._along("dcn")

    def _along(self, network: str) -> tuple[int, ...]:
        return tuple(
            getattr(self, f"{network}_{axis}_parallelism") if axis in SIZED_AXES else 1
            for axis in self.mesh_axes
        )


def _check_names(
    name_of_key: str, names: tuple[str, ...], known: tuple[str, ...], where: str = ""
) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise Contradiction(
                (name_of_key,), f"{name_of_key}: {where}there is no mesh axis {name!r}{hint}"
            )
