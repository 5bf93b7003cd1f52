"""The device mesh that a configuration asks for."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from maxmig.config import Config
from maxmig.errors import ConfigError


def mesh_from_config(cfg: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `mesh_axes` and the sizes ici_*_parallelism times dcn_*_parallelism.

    Args:
        cfg: the configuration; one size of each kind may be -1, which takes what is left.
        devices: all devices of all hosts by default.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    axes = cfg.sharding.mesh_axes
    per_slice = len(devices) // slices
    dcn = _fit("dcn", axes, cfg.sharding.dcn, slices, f"{slices} slice(s)")
    ici = _fit("ici", axes, cfg.sharding.ici, per_slice, f"{per_slice} device(s) in a slice")
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(ici, dcn, devices)
    elif len(devices) == 1:
        grid = np.array(devices).reshape(ici)
    else:
        grid = mesh_utils.create_device_mesh(ici, devices)
    return Mesh(grid, axes)


def _fit(
    kind: str, axes: Sequence[str], sizes: Sequence[int], available: int, what: str
) -> list[int]:
    known = math.prod(size for size in sizes if size != -1)
    if available % known or (-1 not in sizes and known != available):
        given = [
            f"{kind}_{axis}_parallelism={size}"
            for axis, size in zip(axes, sizes, strict=True)
            if size != 1
        ]
        raise ConfigError(
            f"the mesh does not fit the devices: {', '.join(given) or f'all {kind} sizes are 1'}, "
            f"but there are {what}. The sizes must multiply to {available}; set one of them to -1 "
            "to take what is left."
        )
    return [available // known if size == -1 else size for size in sizes]
