"""Linen behind the Backend protocol."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from maxmig import optim
from maxmig import view as views
from maxmig.core import decoder, part
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache
from maxmig.linen import layers, state

Array = jax.Array
Flat = dict[str, Any]


class Wing:
    """Runs a Linen module; see `maxmig.backend.Backend` for what each method promises."""

    def __init__(self, cfg: decoder.Model, module: nn.Module | None = None):
        """
        Args:
            cfg: description of the model.
            module: what runs; by default the Linen model of the description.
        """
        self.cfg = cfg
        self.spec = part.spec(cfg)
        self.module = layers.build(cfg) if module is None else module
        tokens = jax.ShapeDtypeStruct((1, 1), "int32")
        variables = jax.eval_shape(self._init, tokens)
        self._params = views.View(variables["params"], _param_path)

    def create(self, params: Mapping[str, Array], tx: optax.GradientTransformation) -> state.State:
        native = self._params.native(params)
        return state.create(self.module.apply, native, optim.on_canonical_trees(tx, _param_path))

    def view(self, tx: optax.GradientTransformation) -> views.View:
        abstract = {name: param.abstract for name, param in self.spec.items()}
        return views.View(jax.eval_shape(lambda p: self.create(p, tx), abstract), _state_path)

    def params(self, native: state.State) -> Flat:
        return self._params.flat(native.params)

    def apply(
        self,
        params: Mapping[str, Array],
        tokens: Array,
        context: Context,
        cache: Cache | None = None,
    ) -> decoder.Output:
        native = {"params": self._params.native(params)}
        out: Any = self.module.apply(native, tokens, context, cache)
        return out

    def update(self, native: state.State, grads: Mapping[str, Array], **kwargs: Any) -> state.State:
        return native.apply_gradients(grads=self._params.native(grads), **kwargs)

    def _init(self, tokens: Array) -> Any:
        return self.module.init(jax.random.key(0), tokens, Context.of(tokens))


def _param_path(keys: tuple[Any, ...]) -> str:
    return views.model_path(views.parts(keys))


def _state_path(keys: tuple[Any, ...]) -> str:
    kind, *rest = views.parts(keys)
    return f"params/{views.model_path(rest)}" if kind == "params" else views.path(keys)
