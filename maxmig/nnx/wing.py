"""NNX behind the Backend protocol."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from maxmig import optim
from maxmig import view as views
from maxmig.core import decoder, part
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache
from maxmig.nnx import layers, state

Array = jax.Array
Flat = dict[str, Any]


class Wing:
    """Runs an NNX module; see `maxmig.backend.Backend` for what each method promises."""

    def __init__(self, cfg: decoder.Model, module: Callable[[nnx.Rngs], nnx.Module] | None = None):
        """
        Args:
            cfg: description of the model.
            module: makes what runs; by default the NNX model of the description.
        """
        self.cfg = cfg
        self.spec = part.spec(cfg)
        make = module or (lambda rngs: layers.build(cfg, rngs))
        self.module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self._graphdef, params = nnx.split(self.module)
        self._params = views.View(params, _param_path)

    def create(self, params: Mapping[str, Array], tx: optax.GradientTransformation) -> state.State:
        model = nnx.merge(self._graphdef, self._params.native(params))
        return state.create(model, optim.on_canonical_trees(tx, _param_path))

    def view(self, tx: optax.GradientTransformation) -> views.View:
        abstract = {name: param.abstract for name, param in self.spec.items()}
        return _StateView(nnx.eval_shape(lambda p: self.create(p, tx), abstract))

    def params(self, native: state.State) -> Flat:
        return self._params.flat(nnx.state(native.model))

    def apply(
        self,
        params: Mapping[str, Array],
        tokens: Array,
        context: Context,
        cache: Cache | None = None,
    ) -> decoder.Output:
        return nnx.merge(self._graphdef, self._params.native(params))(tokens, context, cache)

    def update(self, native: state.State, grads: Mapping[str, Array], **kwargs: Any) -> state.State:
        return native.apply_gradients(grads=self._params.native(grads), **kwargs)


class _StateView(views.View):
    """A view of the whole module, through its split.

    nnx.Optimizer counts steps in uint32, TrainState in int32: the canonical form has int32.
    """

    def __init__(self, native: state.State):
        self._graphdef, split = nnx.split(native)
        super().__init__(split, _state_path)
        self.abstract["step"] = jax.ShapeDtypeStruct((), jnp.int32)

    def flat(self, native: state.State) -> Flat:
        flat = super().flat(nnx.state(native))
        return flat | {"step": _counter(flat["step"], jnp.int32)}

    def native(self, flat: Mapping[str, Any]) -> state.State:
        flat = {**flat, "step": _counter(flat["step"], jnp.uint32)}
        return nnx.merge(self._graphdef, super().native(flat))


def _param_path(keys: tuple[Any, ...]) -> str:
    return views.model_path(views.parts(keys))


def _state_path(keys: tuple[Any, ...]) -> str:
    kind, *rest = views.parts(keys)
    return f"params/{views.model_path(rest)}" if kind == "model" else "/".join(map(str, rest))


def _counter(step: Any, dtype: Any) -> Any:
    if isinstance(step, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(step.shape, dtype)
    return step.astype(dtype)
