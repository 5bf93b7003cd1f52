"""The border: what a framework must offer, and the only place that chooses one.

All subsystems are written against `Backend` and canonical flat trees ({path: array}); which of the
five rungs of the ladder runs is decided here, by `select`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from maxmig.config import Config
from maxmig.config.flags import Stage
from maxmig.core import census, decoder
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache
from maxmig.core.part import Param
from maxmig.view import View

Array = jax.Array
Flat = dict[str, Any]


class Backend(Protocol):
    """One way to run a model: Linen, NNX, or one inside the other.

    Attributes:
        cfg: description of the model.
        spec: its parameters, by canonical path.
        module: the framework's module (without arrays).
    """

    module: Any
    cfg: decoder.Model
    spec: dict[str, Param]

    def create(self, params: Mapping[str, Array], tx: optax.GradientTransformation) -> Any:
        """The framework's own training state at step 0, with these parameters."""

    def view(self, tx: optax.GradientTransformation) -> View:
        """The bijection between that state and {params/..., opt_state/..., step}."""

    def params(self, native: Any) -> Flat:
        """The parameters of a state, by canonical path."""

    def apply(
        self,
        params: Mapping[str, Array],
        tokens: Array,
        context: Context,
        cache: Cache | None = None,
    ) -> decoder.Output:
        """Runs the model on tokens int32 [B, L]."""

    def update(self, native: Any, grads: Mapping[str, Array], **kwargs: Any) -> Any:
        """The state after one step of its optimizer; `kwargs` go to the optimizer."""


@dataclasses.dataclass(frozen=True)
class Proof:
    """Which rung ran, told by the objects that ran.

    Attributes:
        stage: the rung.
        state: class of the training state, with its module; empty when there was none.
        modules: how often each class was called, or read one of its arrays, in a forward pass.
    """

    stage: Stage
    state: str
    modules: Mapping[str, int]

    def __str__(self) -> str:
        return (
            f"{self.stage.value}: {', '.join(sorted(self.modules))}; state {self.state or 'none'}"
        )


def select(cfg: Config, model: decoder.Model) -> Backend:
    """The backend of the rung that the configuration's flags name."""
    return at(cfg.flags.stage, model)


def at(stage: Stage, model: decoder.Model) -> Backend:
    """The backend of one rung."""
    if stage is Stage.LINEN:
        from maxmig.linen import wing as linen_wing

        return linen_wing.Wing(model)
    from maxmig.nnx import wing as nnx_wing

    if stage is Stage.NNX:
        return nnx_wing.Wing(model)
    from maxmig import bridge
    from maxmig.linen import wing as linen_wing
    from maxmig.nnx.decoder import Model

    if stage is Stage.HYBRID:
        builders = bridge.nnx_over_linen()
        return nnx_wing.Wing(model, lambda rngs: Model(model, rngs=rngs, builders=builders))
    inside = bridge.nnx_over_linen() if stage is Stage.BRIDGED_DECODER else None
    return linen_wing.Wing(model, bridge.linen_over_nnx(model, inside))


def prove(backend: Backend, state: Any = None) -> Proof:
    """Finds out by tracing which rung `backend`, and the state it made, really are.

    Args:
        backend: what runs.
        state: a training state of its own, if there is one.
    """
    params = {path: param.abstract for path, param in backend.spec.items()}
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    with census.counting() as owners:
        jax.eval_shape(lambda p, t: backend.apply(p, t, Context.of(t)).logits, params, tokens)
    model = {framework for framework, name in owners if name == "Model"}
    inner = {framework for framework, name in owners if name == "Decoder"}
    holder = census.framework(type(backend.module if state is None else state))
    modules = {f"{framework}.{name}": n for (framework, name), n in sorted(owners.items())}
    stage = _RUNGS.get((holder, *model, *inner))
    if stage is None:
        raise RuntimeError(f"no rung has a state of {holder} and modules {modules}")
    kind = "" if state is None else f"{type(state).__module__}.{type(state).__qualname__}"
    return Proof(stage, kind, modules)


# (framework of the state, of the model, of the decoder inside it) of each rung.
_RUNGS: dict[tuple[str, ...], Stage] = {
    ("linen", "linen", "linen"): Stage.LINEN,
    ("linen", "nnx", "linen"): Stage.BRIDGED_DECODER,
    ("linen", "nnx", "nnx"): Stage.BRIDGED,
    ("nnx", "nnx", "linen"): Stage.HYBRID,
    ("nnx", "nnx", "nnx"): Stage.NNX,
}
