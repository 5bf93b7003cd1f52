"""The computations of one side, traced on abstract values: no weights, no devices, any size."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from maxmig import data, errors
from maxmig.config import Config, Stage
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache
from maxmig.train.runtime import Runtime

Abstract = dict[str, jax.ShapeDtypeStruct]
Flat = dict[str, Any]

NAMES = ("forward", "loss", "gradients", "train_step", "eval", "prefill", "decode")
FORWARD = ("eval", "prefill", "decode")  # what a train step has no part of


@dataclasses.dataclass(frozen=True)
class Program:
    """One computation of one side.

    Attributes:
        name: which: one of `NAMES` for a rung of the ladder.
        jaxpr: what it computes.
        inputs: canonical names of its flat inputs: `params/decoder/...`, `batch/inputs`, `step`.
        outputs: canonical names of its flat outputs: `logits`, `gradients/decoder/...`.
    """

    name: str
    jaxpr: ClosedJaxpr
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind, names, places in (
            ("inputs", self.inputs, self.jaxpr.in_avals),
            ("outputs", self.outputs, self.jaxpr.out_avals),
        ):
            if len(names) != len(places) or len(set(names)) != len(names):
                raise errors.ConfigError(
                    f"program {self.name!r}: expected a name of its own for each of the "
                    f"{len(places)} {kind}, got {len(names)} ({len(set(names))} different)"
                )


def trace(name: str, fn: Callable[[Flat], Mapping[str, Any]], inputs: Abstract) -> Program:
    """Traces `fn`, from a flat dict of arrays to a flat dict of arrays.

    Args:
        name: of the program.
        fn: what is traced; it sees tracers only.
        inputs: shape and dtype of each input, by canonical name.
    """
    jaxpr, out = jax.make_jaxpr(fn, return_shape=True)(dict(inputs))
    # A dict is flattened in the order of its sorted keys.
    return Program(name, jaxpr, tuple(sorted(inputs)), tuple(sorted(out)))


def of_rung(
    cfg: Config,
    stage: Stage | str,
    *,
    only: Iterable[str] | None = None,
    rows: int | None = None,
    length: int | None = None,
) -> dict[str, Program]:
    """The programs of one rung of the ladder, by name.

    Meshes are left out: where an array lies does not change what is computed.

    Args:
        cfg: the configuration; its flags are replaced by the rung's.
        stage: the rung.
        only: names out of `NAMES`; all by default.
        rows, length: B and L of the batch; by default those of the configuration on one device.

    Raises:
        ConfigError: a name is unknown.
    """
    return Tracer(Runtime(on_one_device(cfg, stage), jax.devices()[:1]), rows, length).all(only)


def on_one_device(cfg: Config, stage: Stage | str) -> Config:
    """The configuration of a rung without a mesh."""
    sizes = {key: 1 for key in cfg.flat() if key.startswith(("ici_", "dcn_"))}
    return cfg.replace(**sizes, **Stage(stage).flags.as_dict())


@dataclasses.dataclass(frozen=True)
class Tracer:
    """Traces the programs of a runtime.

    Attributes:
        runtime: the side.
        rows: B, rows of the batch; None for the configuration's.
        length: L, tokens of a row; None for the configuration's.
    """

    runtime: Runtime
    rows: int | None = None
    length: int | None = None

    def all(self, only: Iterable[str] | None = None) -> dict[str, Program]:
        """The programs called `only`, or all.

        Raises:
            ConfigError: a name is unknown.
        """
        names = tuple(NAMES if only is None else only)
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise errors.ConfigError(f"program {unknown[0]!r} is not one of {', '.join(NAMES)}")
        return {name: getattr(self, f"_{name}")() for name in names}

    def abstract(self, name: str) -> Abstract:
        """Shape and dtype of each input of a program."""
        if name in ("prefill", "decode"):
            return self._params() | self._cached(name)
        if name == "train_step":
            return self._state() | self._batch()
        return self._params() | self._batch()

    def _forward(self) -> Program:
        r = self.runtime
        return self._trace("forward", lambda f: {"logits": r.logits(self._leaves(f), _batch(f))})

    def _loss(self) -> Program:
        r = self.runtime

        def loss(flat: Flat) -> Flat:
            return _named("loss", r.gradients(self._leaves(flat), _batch(flat))[0].named())

        return self._trace("loss", loss)

    def _gradients(self) -> Program:
        r = self.runtime

        def gradients(flat: Flat) -> Flat:
            loss, grads = r.gradients(self._leaves(flat), _batch(flat))
            return _named("loss", loss.named()) | {f"gradients/{p}": g for p, g in grads.items()}

        return self._trace("gradients", gradients)

    def _train_step(self) -> Program:
        r = self.runtime

        def step(flat: Flat) -> Flat:
            leaves, metrics = r.train(tuple(flat[p] for p in r.view.paths), _batch(flat))
            return r.state(leaves) | {f"metrics/{k}": v for k, v in metrics.items()}

        return self._trace("train_step", step)

    def _eval(self) -> Program:
        r = self.runtime

        def evaluate(flat: Flat) -> Flat:
            return _named("eval", vars(r.evaluate(self._leaves(flat), _batch(flat))))

        return self._trace("eval", evaluate)

    def _prefill(self) -> Program:
        return self._trace("prefill", self._with_cache)

    def _decode(self) -> Program:
        return self._trace("decode", self._with_cache)

    def _with_cache(self, flat: Flat) -> Flat:
        """One call of the model with a cache, as `maxmig.infer` makes it."""
        context = Context(flat["batch/inputs_position"], flat["batch/inputs_segmentation"])
        params = {p: flat[f"params/{p}"] for p in self.runtime.param_paths}
        _, tree = jax.tree.flatten(self._cache())
        leaves = [flat[name] for name in self._cache_names()]
        cache: Cache = jax.tree.unflatten(tree, leaves)
        out = self.runtime.backend.apply(params, flat["batch/inputs"], context, cache)
        written = dict(zip(self._cache_names(), jax.tree.leaves(out.cache), strict=True))
        return {"logits": out.logits[:, -1], **written}

    def _trace(self, name: str, fn: Callable[[Flat], Flat]) -> Program:
        return trace(name, fn, self.abstract(name))

    def _leaves(self, flat: Flat) -> tuple[Any, ...]:
        return tuple(flat[f"params/{path}"] for path in self.runtime.param_paths)

    def _state(self) -> Abstract:
        return {p: _bare(leaf) for p, leaf in self.runtime.abstract.items()}

    def _params(self) -> Abstract:
        return {p: leaf for p, leaf in self._state().items() if p.startswith("params/")}

    def _shape(self) -> tuple[int, int]:
        train = self.runtime.cfg.train
        pieces = train.gradient_accumulation_steps
        least = max(1, int(train.per_device_batch_size)) * pieces
        return self.rows or least, self.length or train.max_target_length

    def _batch(self) -> Abstract:
        shape = self._shape()
        return {f"batch/{key}": jax.ShapeDtypeStruct(shape, jnp.int32) for key in data.KEYS}

    def _cached(self, name: str) -> Abstract:
        rows, length = self._shape()
        shape = (rows, length if name == "prefill" else 1)
        keys = ("inputs", "inputs_position", "inputs_segmentation")
        tokens = {f"batch/{key}": jax.ShapeDtypeStruct(shape, jnp.int32) for key in keys}
        leaves = jax.tree.leaves(self._cache())
        return tokens | dict(zip(self._cache_names(), leaves, strict=True))

    def _cache(self) -> Any:
        rows, length = self._shape()
        return jax.eval_shape(lambda: self.runtime.model.empty_cache(rows, length + 1))

    def _cache_names(self) -> tuple[str, ...]:
        paths = jax.tree_util.tree_flatten_with_path(self._cache())[0]
        return tuple(
            "cache/" + jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths
        )


def _batch(flat: Flat) -> Flat:
    return {p.removeprefix("batch/"): x for p, x in flat.items() if p.startswith("batch/")}


def _named(kind: str, values: Mapping[str, Any]) -> Flat:
    return {f"{kind}/{name}": value for name, value in values.items()}


def _bare(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
