"""Everything that a configuration builds for training: model, backend, optimizer, mesh, programs.

The state is carried through jit as a flat tuple of arrays in canonical order. Flattening a
framework's own container at each call costs milliseconds (an nnx.State 10 to 15 times as much as a
dict); a tuple costs microseconds, and is the same on every rung.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from maxmig import backend as backends
from maxmig import models, optim, sharding
from maxmig.config import Config
from maxmig.core import losses, part, partition
from maxmig.core.context import Context
from maxmig.sharding import Rules
from maxmig.train import step as steps

Array = jax.Array
Leaves = tuple[Array, ...]
Flat = dict[str, Any]


class Runtime:
    """The programs of one configuration.

    Attributes:
        cfg: the configuration.
        model: description of the model.
        backend: what runs it.
        tx: the optimizer, for canonical trees.
        view: of the backend's training state.
        rules: logical axis rules with the mesh; None on a single device.
        shardings: of each leaf of the state, by canonical path; None on a single device.
        abstract: shape, dtype and sharding of each leaf of the state.
    """

    def __init__(self, cfg: Config, devices: Sequence[jax.Device] | None = None):
        self.cfg = cfg
        self.model = models.build(cfg)
        self.backend = backends.select(cfg, self.model)
        self.tx = optim.build(cfg, self.backend.spec)
        self.view = self.backend.view(self.tx)
        mesh = sharding.mesh_from_config(cfg, devices)
        self.devices = mesh.size
        self.rules = Rules(cfg.sharding.logical_axis_rules, mesh) if mesh.size > 1 else None
        self.abstract = self.view.abstract
        self.shardings: dict[str, NamedSharding] | None = None
        if self.rules is not None:
            self.shardings = sharding.named_shardings(self.abstract, self.backend.spec, self.rules)
            self.abstract = sharding.with_named_shardings(self.abstract, self.shardings)
        self.settings = steps.Settings(
            seed=cfg.train.init_weights_seed,
            dropout=models.dropout_rate(cfg) > 0,
            accumulation=cfg.train.gradient_accumulation_steps,
            clip=cfg.optimizer.gradient_clipping_threshold,
            z_loss=cfg.train.z_loss_multiplier,
            grad_dtype=jnp.dtype(cfg.numerics.grad_dtype),
            schedule=optim.learning_rate(cfg),
        )

    @functools.cached_property
    def proof(self) -> backends.Proof:
        """Which rung runs, told by the objects."""
        return backends.prove(self.backend, self.view.native(self.view.abstract))

    @functools.cached_property
    def skeleton(self) -> Any:
        """The containers of the optimizer's state, for a checkpoint's metadata."""
        params = {path: param.abstract for path, param in self.backend.spec.items()}
        return optim.skeleton(self.tx, params)

    def init(self) -> Leaves:
        """A state at step 0, from the seed; sharded from the start."""

        def create() -> Leaves:
            key = part.stream(jax.random.key(self.settings.seed), "params")
            params = part.initialise(self.backend.spec, key)
            return self._leaves(self.view.flat(self.backend.create(params, self.tx)))

        return self._jit(create, out=self._placed(self.view.paths))()

    def state(self, leaves: Leaves) -> Flat:
        """Leaves by canonical path."""
        return dict(zip(self.view.paths, leaves, strict=True))

    def leaves(self, flat: Mapping[str, Any]) -> Leaves:
        """Arrays by canonical path as the tuple that the programs take, put on their devices."""
        return tuple(
            jax.device_put(flat[path], self.shardings[path] if self.shardings else None)
            for path in self.view.paths
        )

    def params(self, leaves: Leaves) -> Leaves:
        """The parameters alone, as `evaluate` and `logits` take them."""
        return tuple(
            leaf
            for path, leaf in zip(self.view.paths, leaves, strict=True)
            if path.startswith("params/")
        )

    @functools.cached_property
    def param_paths(self) -> tuple[str, ...]:
        """Canonical paths of `params`, without `params/`."""
        return tuple(p.removeprefix("params/") for p in self.view.paths if p.startswith("params/"))

    @functools.cached_property
    def train(self) -> Callable[[Leaves, Mapping[str, Any]], tuple[Leaves, dict[str, Array]]]:
        """(state, batch) -> (next state, metrics). The state given is consumed."""

        def program(leaves: Leaves, batch: Any) -> tuple[Leaves, dict[str, Array]]:
            state, metrics = steps.train_step(
                self.backend, self.view, self.settings, self.state(leaves), batch
            )
            return self._leaves(state), metrics

        placed = self._placed(self.view.paths)
        return self._jit(program, placed, self._batched(), out=(placed, None), donate=(0,))

    @functools.cached_property
    def evaluate(self) -> Callable[[Leaves, Mapping[str, Any]], losses.TokenLosses]:
        """(parameters, batch) -> sums over the counted targets, dropout off."""

        def program(params: Leaves, batch: Any) -> losses.TokenLosses:
            out = self._apply(params, batch)
            return losses.token_losses(out, batch["targets"], batch["targets_segmentation"])

        return self._jit(program, self._param_shardings(), self._batched(), out=None)

    @functools.cached_property
    def logits(self) -> Callable[[Leaves, Mapping[str, Any]], Array]:
        """(parameters, batch) -> logits [B, L, V], dropout off."""
        return self._jit(self._apply, self._param_shardings(), self._batched(), out=None)

    @functools.cached_property
    def gradients(self) -> Callable[[Leaves, Mapping[str, Any]], tuple[steps.Loss, Flat]]:
        """(parameters, batch) -> (loss, its gradient by canonical path), dropout off, unclipped."""

        def program(params: Leaves, batch: Any) -> tuple[steps.Loss, Flat]:
            return steps.loss_and_gradients(
                self.backend,
                dict(zip(self.param_paths, params, strict=True)),
                batch,
                None,
                z_loss=self.settings.z_loss,
                accumulation=self.settings.accumulation,
            )

        return self._jit(program, self._param_shardings(), self._batched(), out=None)

    def place(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """This host's rows of a batch as arrays over all hosts; on one host nothing needs doing."""
        if jax.process_count() == 1:
            return batch
        placed = self._batched()
        return {k: jax.make_array_from_process_local_data(placed, v) for k, v in batch.items()}

    def _apply(self, params: Leaves, batch: Any) -> Array:
        context = Context(batch["inputs_position"], batch["inputs_segmentation"])
        flat = dict(zip(self.param_paths, params, strict=True))
        return self.backend.apply(flat, batch["inputs"], context).logits

    def _leaves(self, flat: Mapping[str, Any]) -> Leaves:
        return tuple(flat[path] for path in self.view.paths)

    def _placed(self, paths: Sequence[str]) -> Any:
        return tuple(self.shardings[path] for path in paths) if self.shardings else None

    def _param_shardings(self) -> Any:
        return self._placed([f"params/{path}" for path in self.param_paths])

    def _batched(self) -> Any:
        if self.rules is None:
            return None
        return self.rules.sharding(("activation_embed_and_logits_batch", None))

    def _jit(self, program: Any, *ins: Any, out: Any, donate: tuple[int, ...] = ()) -> Any:
        constrain = None if self.rules is None else self.rules.constrain

        @functools.wraps(program)
        def constrained(*args: Any) -> Any:
            with partition.constraints(constrain):
                return program(*args)

        if self.rules is None:
            return jax.jit(constrained, donate_argnums=donate)
        return jax.jit(constrained, in_shardings=ins, out_shardings=out, donate_argnums=donate)
