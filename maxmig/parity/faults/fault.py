"""Faults to put into the candidate on purpose: a check that has never failed proves nothing.

For tests and for showing what a failure looks like; a report always says that there was one.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from maxmig.backend import Backend

State = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
Params = Callable[[dict[str, Any]], dict[str, Any]]
Patch = Callable[[], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with the candidate.

    Attributes:
        name: what it is, for the report.
        settings: configuration keys that only this side has.
        state: changes the state that the candidate starts from.
        params: changes the parameters that its forward pass reads; they are trained nevertheless.
        patch: replaces functions while its forward pass is traced.
        side: `control` for a fault (but of the state) in the side that is trusted.
    """

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    state: State | None = None
    params: Params | None = None
    patch: Patch | None = None
    side: str = "candidate"

    def broken(self, backend: Backend) -> "Backend | Broken":
        """The backend with what is wrong in its forward pass."""
        if self.params is None and self.patch is None:
            return backend
        return Broken(backend, self.params, self.patch)


def setting(**settings: Any) -> Fault:
    """Another configuration on the candidate's side."""
    told = ", ".join(f"{key}={value}" for key, value in settings.items())
    return Fault(f"the candidate runs with {told}", settings)


def perturbed(path: str, index: tuple[int, ...], by: float) -> Fault:
    """One number of one parameter is off, as after a faulty conversion."""

    def state(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        leaf = flat[f"params/{path}"].copy()
        leaf[index] += by
        return flat | {f"params/{path}": leaf}

    return Fault(f"{path} {list(index)} is off by {by:g}", state=state)


def swapped(
    first: int, second: int, axis: int, *, stored: bool = True, stack: str = "decoder/layers/"
) -> Fault:
    """Two layers of a scanned stack change places.

    Args:
        first: number of one layer.
        second: number of the other.
        axis: where the layers are, `param_scan_axis`.
        stored: True swaps the weights, as a faulty conversion does; False leaves them and lets the
            forward pass read them in the wrong order.
        stack: what the paths of the stack start with.
    """

    def swap(flat: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        start = prefix + stack
        return {
            path: _swap(leaf) if path.startswith(start) else leaf for path, leaf in flat.items()
        }

    def _swap(leaf: Any) -> Any:
        at = min(axis, leaf.ndim - 1)
        order = np.arange(leaf.shape[at])
        order[[first, second]] = order[[second, first]]
        return leaf.take(order, axis=at)

    if stored:
        name = f"the weights of layers {first} and {second} are swapped"
        return Fault(name, state=lambda flat: swap(flat, "params/"))
    return Fault(f"layers {first} and {second} are read in the wrong order", params=swap)


def dropped_gradient(path: str) -> Fault:
    """A parameter is used, but its gradient is lost."""

    def params(flat: dict[str, Any]) -> dict[str, Any]:
        return flat | {path: jax.lax.stop_gradient(flat[path])}

    return Fault(f"the gradient of {path} is dropped", params=params)


class Broken:
    """A backend whose forward pass is wrong; all else is the backend's.

    It reads changed parameters, or some functions are others while it is traced.
    """

    def __init__(self, backend: Backend, params: Params | None = None, patch: Patch | None = None):
        self._backend = backend
        self._params, self._patch = params, patch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def apply(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The wrapped backend's output, with what is wrong."""
        given = dict(params) if self._params is None else self._params(dict(params))
        with self._patch() if self._patch else contextlib.nullcontext():
            return self._backend.apply(given, *args, **kwargs)
