"""What is computed on both sides, as functions from flat dicts to flat dicts with equal names."""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import jaxpr_as_fun

from maxmig import errors
from maxmig.parity import programs
from maxmig.parity.pairs import arguments, streams
from maxmig.parity.pairs.arguments import Arrays
from maxmig.parity.pairs.linen_side import LinenSide
from maxmig.parity.pairs.mapping import Mapping
from maxmig.parity.pairs.nnx_side import NnxSide
from maxmig.parity.pairs.pair import Pair, told

Flat = dict[str, Any]
OUTPUTS, GRADIENTS, STEP = "outputs", "gradients", "step"
NAMES = (OUTPUTS, GRADIENTS, STEP)


@dataclasses.dataclass(frozen=True)
class Computation:
    """All that one pair computes in one mode.

    Attributes:
        linen, nnx: the sides.
        mapping: between them.
        mode: `train`, `eval` or `call`.
    """

    linen: LinenSide
    nnx: NnxSide
    mapping: Mapping
    mode: str

    @property
    def pair(self) -> Pair:
        """What the user gave."""
        return self.linen.pair

    @functools.cached_property
    def given(self) -> tuple[Arrays, Arrays]:
        """The arrays of both sides' arguments."""
        return tuple(  # type: ignore[return-value]
            arguments.arrays(side.call, self.mode) for side in (self.linen, self.nnx)
        )

    @functools.cached_property
    def inputs(self) -> Flat:
        """Every input of both sides: weights, state and arguments, by canonical name."""
        own, theirs = self.given
        more = {} if self.pair.nnx_inputs is None else dict(theirs.values)
        left = {f"nnx/{path}": self.nnx.values[path] for path in self.unmapped}
        weights = {path: jnp.asarray(leaf) for path, leaf in self.linen.variables.items()}
        return more | dict(own.values) | weights | left

    @property
    def unmapped(self) -> tuple[str, ...]:
        """NNX leaves that no Linen leaf fills: they keep their own values."""
        made = {entry.target for entry in self.mapping.entries}
        return tuple(path for path in self.nnx.leaves if path not in made)

    def functions(self, name: str) -> tuple[Callable[[Flat], Flat], Callable[[Flat], Flat]]:
        """The function of each side called `outputs`, `gradients` or `step`."""
        both = {
            OUTPUTS: (self._linen_outputs, self._nnx_outputs),
            GRADIENTS: (self._linen_gradients, self._nnx_gradients),
            STEP: (self._linen_steps, self._nnx_steps),
        }[name]
        return tuple(_shared(function) for function in both)  # type: ignore[return-value]

    def program(self, name: str, side: int) -> programs.Program:
        """One side's function, traced once."""
        key = (name, side)
        if key not in self._programs:
            self._programs[key] = self.traced(name, side)
        return self._programs[key]

    def traced(self, name: str, side: int) -> programs.Program:
        """One side's function, traced again."""
        shapes = {
            path: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype)
            for path, leaf in self.inputs.items()
        }
        return programs.trace(f"{name} ({self.mode})", self.functions(name)[side], shapes)

    def compiled(self, name: str, side: int) -> Callable[[], Flat]:
        """Runs one side's program on the inputs of the pair."""
        program = self.program(name, side)
        run = jax.jit(jaxpr_as_fun(program.jaxpr))
        return lambda: dict(
            zip(program.outputs, run(*(self.inputs[p] for p in program.inputs)), strict=True)
        )

    @functools.cached_property
    def _programs(self) -> dict[tuple[str, int], programs.Program]:
        return {}

    def _linen_run(self, flat: Flat) -> tuple[Any, Flat]:
        args, kwargs = self.given[0].put(flat)
        return self.linen.run(flat, args, kwargs, self.mode)

    def _nnx_arguments(self, flat: Flat) -> tuple[tuple, dict]:
        own, theirs = self.given
        values = flat
        if self.pair.nnx_inputs is None:  # the same arrays, under the Linen side's names
            names = dict(zip(theirs.values, own.values, strict=False))
            values = {name: flat[names.get(name, name)] for name in theirs.values}
        return theirs.put(values)

    def _nnx_leaves(self, flat: Flat) -> Flat:
        own = {path: flat[f"nnx/{path}"] for path in self.unmapped}
        return own | self.mapping.forward(flat)

    def _linen_outputs(self, flat: Flat) -> Flat:
        out, state = self._linen_run(flat)
        return named(out) | {f"state/{p}": state[p] for p in self.linen.state if p in state}

    def _nnx_outputs(self, flat: Flat) -> Flat:
        args, kwargs = self._nnx_arguments(flat)
        out, state = self.nnx.run(self._nnx_leaves(flat), args, kwargs, self.mode)
        return self._renamed(named(out)) | self._state(state)

    def _renamed(self, outputs: Flat) -> Flat:
        """The outputs under the control's names, where there are as many, of the same shapes."""
        names = self.output_names
        if outputs.keys() == names.keys() or len(outputs) != len(names):
            return outputs
        if [tuple(x.shape) for x in outputs.values()] != list(names.values()):
            return outputs
        return dict(zip(names, outputs.values(), strict=True))

    @functools.cached_property
    def output_names(self) -> dict[str, tuple[int, ...]]:
        """The control's outputs with their shapes, in order."""
        found: dict[str, tuple[int, ...]] = {}

        def run(flat: Flat) -> None:
            found.update({n: tuple(x.shape) for n, x in named(self._linen_run(flat)[0]).items()})

        jax.eval_shape(_shared(run), self.inputs)
        return found

    def _linen_gradients(self, flat: Flat) -> Flat:
        loss, (_, gradients) = self._linen_grad(flat)
        return {"loss": loss} | {f"gradients/{p}": g for p, g in gradients.items()}

    def _linen_grad(self, flat: Flat) -> tuple[Any, tuple[Flat, Flat]]:
        params = {path: flat[path] for path in self.linen.params}

        def loss(params: Flat) -> tuple[Any, Flat]:
            out, state = self._linen_run(flat | params)
            return self.loss(out, 0), state

        (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return value, (state, gradients)

    def _nnx_gradients(self, flat: Flat) -> Flat:
        leaves = self._nnx_leaves(flat)
        args, kwargs = self._nnx_arguments(flat)
        params = {path: leaves[path] for path in self.nnx.params}

        def loss(params: Flat) -> Any:
            out, _ = self.nnx.run(leaves | params, args, kwargs, self.mode)
            return self.loss(out, 1)

        value, gradients = jax.value_and_grad(loss)(params)
        return {"loss": value} | self._back("gradients/", gradients)

    def _linen_steps(self, flat: Flat) -> Flat:
        with told(f"pair {self.pair.title}: the optimizer raised on the Linen side"):
            return self._linen_step(flat)

    def _nnx_steps(self, flat: Flat) -> Flat:
        with told(
            f"pair {self.pair.title}: the optimizer raised on the NNX side, where a state's paths "
            "end in `.value`"
        ):
            return self._nnx_step(flat)

    def _linen_step(self, flat: Flat) -> Flat:
        tx = self.pair.optimizer
        # Nested as Flax has it, since a mask may look at the paths.
        params = {path: flat[path] for path in self.linen.params}
        tree = _nested(params)
        moments = tx.init(tree)
        for _ in range(self.pair.steps):
            _, (state, gradients) = self._linen_grad(flat | params)
            updates, moments = tx.update(_nested(gradients), moments, tree)
            tree = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), tree, updates)
            params = dict(zip(sorted(params), _sorted_leaves(tree, params), strict=True))
            flat = flat | state
        return {f"params/{path.partition('/')[2]}": leaf for path, leaf in params.items()}

    def _nnx_step(self, flat: Flat) -> Flat:
        args, kwargs = self._nnx_arguments(flat)
        model = self.nnx.model(self._nnx_leaves(flat), self.mode)
        optimizer = nnx.Optimizer(model, self.pair.optimizer, wrt=nnx.Param)
        for _ in range(self.pair.steps):
            graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]

            def loss(params: Any, graphdef: Any = graphdef, rest: Any = rest) -> Any:
                trial = nnx.merge(graphdef, params, nnx.clone(rest))
                out = self.nnx.call_model(trial, args, kwargs)
                return self.loss(out, 1), nnx.state(trial, nnx.Not(nnx.Param))

            gradients, after = jax.grad(loss, has_aux=True)(params)
            nnx.update(model, after)
            optimizer.update(model, gradients)
        return {
            f"params/{p.partition('/')[2]}": leaf
            for p, leaf in self._back("", self.nnx.params_of(model)).items()
        }

    def loss(self, out: Any, side: int) -> Any:
        """The scalar whose gradients are compared."""
        given = self.pair.loss
        if given is None:
            return weighted(out)
        args, kwargs = self.pair.arguments(("linen", "nnx")[side])
        with told(f"pair {self.pair.title}: the loss raised"):
            several = len(inspect.signature(given).parameters) > 1
            value = given(out, kwargs or args) if several else given(out)
        if jnp.shape(value) != ():
            raise errors.ConfigError(
                f"pair {self.pair.title}: loss: expected a scalar, got shape "
                f"{list(jnp.shape(value))}"
            )
        return value

    def _state(self, state: Flat) -> Flat:
        return {
            name: leaf
            for name, leaf in self._back("state/", state).items()
            if name.removeprefix("state/") in self.linen.variables
            or name.removeprefix("state/").partition("@")[2]
        }

    def _back(self, prefix: str, leaves: Flat) -> Flat:
        """NNX leaves under the names of the Linen leaves; unmapped ones under their own."""
        sizes = {path: tuple(leaf.shape) for path, leaf in self.linen.variables.items()}
        found = self.mapping.backward(leaves, sizes)
        lone = {path: leaves[path] for path in self.unmapped if path in leaves}
        return {f"{prefix}{path}": leaf for path, leaf in (found | lone).items()}


def named(out: Any) -> Flat:
    """The arrays of an output by name: `outputs`, or `outputs/0`, `outputs/logits`, ..."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(out)[0]:
        rest = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | bool | complex):
            raise errors.ConfigError(
                f"outputs/{rest}: expected an array, got {type(leaf).__name__}; return arrays, or "
                "choose another method with Pair(method=...)"
            )
        found["/".join(part for part in (OUTPUTS, rest) if part)] = jnp.asarray(leaf)
    return found


def weighted(out: Any) -> jax.Array:
    """The sum of all outputs, each number weighted by a fixed random one.

    Raises:
        InconclusiveError: no output is a float, so that there is nothing to differentiate.
    """
    total = jnp.zeros((), jnp.float32)
    floats = 0
    for i, leaf in enumerate(jax.tree.leaves(out)):
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        rng = np.random.default_rng([i, zlib.crc32(str(leaf.shape).encode())])
        weights = rng.standard_normal(leaf.shape).astype(np.float32)
        total = total + jnp.sum(leaf.astype(jnp.float32) * weights)
        floats += 1
    if not floats:
        raise errors.InconclusiveError("no output is a float: no gradients can be compared")
    return total


def _shared(function: Callable[[Flat], Any]) -> Callable[[Flat], Any]:
    def run(flat: Flat) -> Any:
        with streams.shared():
            return function(flat)

    return run


def _nested(flat: Flat) -> Flat:
    """`params/a/b` -> {'a': {'b': ...}}: the tree of the collection."""
    tree: Flat = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")[1:]
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def _sorted_leaves(tree: Flat, params: Flat) -> list[Any]:
    """The leaves of a nested tree in the order of the sorted flat paths."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        found["params/" + jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    return [found[path] for path in sorted(params)]
