"""Programs that only a comparison needs: hidden states, one update, one draw of the masks.

Each is a function of flat mappings, so that it can be compiled for one side and traced for the
float64 truth alike.
"""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig.core import partition, probe
from maxmig.core.context import Context
from maxmig.parity.programs import Program
from maxmig.train import step as steps
from maxmig.train.runtime import Runtime

Flat = dict[str, Any]


class Probes:
    """The extra programs of one side."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime

    @functools.cached_property
    def hidden(self) -> Callable[..., Flat]:
        """({params}, batch) -> the residual stream after each stack's layers [N, B, L, D]."""
        return self._jit(self.hidden_states)

    @functools.cached_property
    def update(self) -> Callable[..., Flat]:
        """(state, gradients) -> the state after one update with these gradients."""
        return self._jit(self.updated)

    @functools.cached_property
    def draw(self) -> Callable[..., jax.Array]:
        """({params}, batch, step) -> the training loss with the masks of that step."""
        return self._jit(self._drawn)

    def hidden_states(self, params: Mapping[str, Any], batch: Mapping[str, Any]) -> Flat:
        """See `hidden`."""
        context = Context(batch["inputs_position"], batch["inputs_segmentation"])
        with probe.hidden_states():
            out = self._runtime.backend.apply(params, batch["inputs"], context)
        return {
            f"decoder/{name.removesuffix('/' + probe.HIDDEN)}": value
            for name, value in out.aux.items()
            if name.endswith("/" + probe.HIDDEN)
        }

    def updated(self, state: Mapping[str, Any], gradients: Mapping[str, Any]) -> Flat:
        """See `update`."""
        runtime = self._runtime
        norm = steps.global_norm(gradients)
        native = runtime.view.native(state)
        native = runtime.backend.update(native, gradients, loss=jnp.float32(1), grad_norm=norm)
        return runtime.view.flat(native)

    def _drawn(self, params: Mapping[str, Any], batch: Mapping[str, Any], step: Any) -> jax.Array:
        settings = self._runtime.settings
        key = steps.step_key(settings, step)
        found = steps.loss(self._runtime.backend, params, batch, key, z_loss=settings.z_loss)
        return found.total

    def _jit(self, program: Callable[..., Any]) -> Callable[..., Any]:
        rules = self._runtime.rules
        constrain = None if rules is None else rules.constrain

        @functools.wraps(program)
        def constrained(*args: Any) -> Any:
            with partition.constraints(constrain):
                return program(*args)

        return jax.jit(constrained)


def layers(stacked: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{stack: [N, B, L, D]} as {stack/number: [B, L, D]}."""
    return {
        f"{name}/{number}": layer
        for name, stack in stacked.items()
        for number, layer in enumerate(stack)
    }


def gradients(runtime: Runtime, seed: int) -> dict[str, np.ndarray]:
    """Made-up gradients, the same for whoever asks: normal, of size 0.01."""
    dtype = runtime.settings.grad_dtype
    return {
        path: (0.01 * _noise(seed, path, param.shape)).astype(dtype)
        for path, param in runtime.backend.spec.items()
    }


def amid(runtime: Runtime, state: Mapping[str, np.ndarray], *, moments: bool) -> Flat:
    """The state as it might be in the middle of a run, where the learning rate is not 0.

    Args:
        runtime: a side.
        state: a state at any step.
        moments: True fills what is constant in the optimizer's state with positive noise, so that
            no bug hides behind zeros; False empties it, so that only decay moves a weight.
    """
    middle = max(1, runtime.cfg.schedule_steps // 2)
    found: Flat = {}
    for path, leaf in state.items():
        if not leaf.shape and leaf.dtype.kind in "iu":
            counts = path == "step" or path.endswith("count")
            found[path] = np.full_like(leaf, middle) if counts else leaf
        elif not path.startswith("opt_state/") or leaf.dtype.kind in "iub" or not leaf.size:
            found[path] = leaf
        elif not moments:
            found[path] = np.zeros_like(leaf)
        elif (leaf == leaf.flat[0]).all():
            noise = np.abs(_noise(runtime.settings.seed, path, leaf.shape))
            found[path] = (1e-3 * noise).astype(leaf.dtype)
        else:
            found[path] = leaf
    return found


def tokens(program: Program, batch: Mapping[str, np.ndarray], seed: int) -> Flat:
    """The batch, and the cache, that a program is given.

    Args:
        program: one of a rung's; a decoding step goes on behind a full cache of earlier tokens.
        batch: [B, L] each, with at least as many rows and tokens as the program takes.
        seed: of what the cache holds.
    """
    found: Flat = {}
    takes = dict(zip(program.inputs, program.jaxpr.in_avals, strict=True))
    shape = takes["batch/inputs"].shape
    decoding = program.name == "decode"
    for name, aval in takes.items():
        kind, _, key = name.partition("/")
        if kind == "batch":
            found[name] = batch[key][: shape[0], : shape[1]]
        elif kind == "cache":
            found[name] = np.zeros(aval.shape, aval.dtype)
            if decoding and jnp.issubdtype(aval.dtype, jnp.floating):
                found[name] = _noise(seed, name, aval.shape).astype(aval.dtype)
    if decoding:
        segments = found["cache/segment_ids"]
        last = segments.shape[1] - 1
        segments[:, :last] = 1
        found["cache/length"] = np.asarray(last, np.int32)
        found["batch/inputs_position"] = np.full(shape, last, np.int32)
        found["batch/inputs_segmentation"] = np.ones(shape, np.int32)
    return found


def _noise(seed: int, path: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(path.encode()), 1])
    return rng.standard_normal(shape)
