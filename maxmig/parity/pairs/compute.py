"""What is computed on both sides, as functions from flat dicts to flat dicts with equal names."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
from maxmig.parity.pairs.sown import SOWN, Sown, match
from maxmig.parity.pairs.values import named, nested, positions, same, sorted_leaves, weighted

Flat = dict[str, Any]
OUTPUTS, GRADIENTS, STEP = "outputs", "gradients", "step"
OF_INPUTS = "input_gradients"
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
        more = {name: theirs.values[path] for path, name in self._own_names.items()}
        left = {f"nnx/{path}": self.nnx.values[path] for path in self.unmapped}
        weights = {path: jnp.asarray(leaf) for path, leaf in self.linen.variables.items()}
        return more | dict(own.values) | weights | left

    @property
    def unmapped(self) -> tuple[str, ...]:
        """NNX leaves that no Linen leaf fills: they keep their own values."""
        made = {entry.target for entry in self.mapping.entries}
        return tuple(path for path in self.nnx.leaves if path not in made)

    def functions(
        self, name: str, keys: tuple[streams.Table, streams.Table] | None = None
    ) -> tuple[Callable[[Flat], Flat], Callable[[Flat], Flat]]:
        """The function of each side called `outputs`, `gradients` or `step`.

        Args:
            name: of the function.
            keys: in place of the computation's own.
        """
        both = {
            OUTPUTS: (self._linen_outputs, self._nnx_outputs),
            GRADIENTS: (self._linen_gradients, self._nnx_gradients),
            STEP: (self._linen_steps, self._nnx_steps),
        }[name]
        return tuple(  # type: ignore[return-value]
            shared(function, table) for function, table in zip(both, keys or self.keys, strict=True)
        )

    @functools.cached_property
    def asked(self) -> tuple[list[streams.Request], list[streams.Request]]:
        """What each side asks of random streams in one call."""
        return self.asks(0), self.asks(1)

    def asks(self, side: int) -> list[streams.Request]:
        """What one side asks of random streams in one call."""
        _ = self.output_names  # lest the control is traced while the candidate is
        return streams.requests((self._linen_outputs, self._nnx_outputs)[side], self.inputs)

    @functools.cached_property
    def keys(self) -> tuple[streams.Table, streams.Table]:
        """Which random key each side is given at which place."""
        return streams.align(*self.asked) or ({}, {})

    def item(self, name: str) -> str:
        """What a report calls it: the mode, or the last of the optimizer steps."""
        return f"step {self.pair.steps}" if name == STEP else self.mode

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

    def compiled(self, name: str, side: int) -> Callable[..., Flat]:
        """Runs one side's program on the inputs of the pair, or on others."""
        program = self.program(name, side)
        key = (name, side)
        if key not in self._runs:
            self._runs[key] = jax.jit(jaxpr_as_fun(program.jaxpr))

        def run(inputs: Flat | None = None) -> Flat:
            given = self.inputs if inputs is None else inputs
            found = self._runs[key](*(given[p] for p in program.inputs))
            return dict(zip(program.outputs, found, strict=True))

        return run

    @functools.cached_property
    def _runs(self) -> dict[tuple[str, int], Callable[..., Any]]:
        return {}

    @functools.cached_property
    def _programs(self) -> dict[tuple[str, int], programs.Program]:
        return {}

    def _linen_run(self, flat: Flat) -> tuple[Any, Flat]:
        args, kwargs = self.given[0].put(flat)
        return self.linen.run(flat, args, kwargs, self.mode)

    def _nnx_arguments(self, flat: Flat) -> tuple[tuple, dict]:
        own, theirs = self.given
        names = self._own_names
        if self.pair.nnx_inputs is None:  # the same arrays, under the Linen side's names
            names = dict(zip(theirs.values, own.values, strict=False))
        return theirs.put({path: flat[names.get(path, path)] for path in theirs.values})

    @property
    def own_inputs(self) -> tuple[str, ...]:
        """The NNX side's inputs that are no inputs of the control."""
        return tuple(self._own_names.values())

    @property
    def _own_names(self) -> dict[str, str]:
        """The NNX side's inputs of its own: path -> name, where no input of Linen's is the same."""
        own, theirs = self.given
        if self.pair.nnx_inputs is None:
            return {}
        return {
            path: f"nnx/{path}"
            for path, array in theirs.values.items()
            if path not in own.values or not same(own.values[path], array)
        }

    def nnx_leaves(self, flat: Flat) -> Flat:
        """The NNX leaves, made of Linen leaves or their own."""
        own = {path: flat[f"nnx/{path}"] for path in self.unmapped}
        return own | self.mapping.forward(flat)

    def _linen_outputs(self, flat: Flat) -> Flat:
        out, state = self._linen_run(flat)
        kept = {f"state/{p}": state[p] for p in self.linen.state if p in state}
        return named(out) | kept | self._sown_of(0, state)

    def _nnx_outputs(self, flat: Flat) -> Flat:
        args, kwargs = self._nnx_arguments(flat)
        out, state = self.nnx.run(self.nnx_leaves(flat), args, kwargs, self.mode)
        return self._renamed(named(out)) | self._state(state) | self._sown_of(1, state)

    @property
    def sown(self) -> Sown:
        """What both sides sow, as far as both are there."""
        sides = self._seen_sown
        return match(sides[0], sides[1]) if len(sides) == 2 else Sown(({}, {}), ((), ()))

    @functools.cached_property
    def _seen_sown(self) -> dict[int, dict[str, tuple[int, ...]]]:
        """By side, noted when it is traced for the first time."""
        return {}

    def _sown_of(self, side: int, state: Flat) -> Flat:
        own = {path: leaf for path, leaf in state.items() if path.startswith(SOWN)}
        self._seen_sown[side] = {path: tuple(jnp.shape(leaf)) for path, leaf in own.items()}
        return {name: jnp.asarray(own[path]) for path, name in self.sown.names[side].items()}

    def _renamed(self, outputs: Flat) -> Flat:
        """The outputs under the control's names, where there are as many, of the same shapes."""
        names = self.output_names
        if outputs.keys() == names.keys() or len(outputs) != len(names):
            return outputs
        if not (positions(outputs) or positions(names)):
            return outputs  # both have names, and other ones: a caller would not find them
        if [tuple(x.shape) for x in outputs.values()] != list(names.values()):
            return outputs
        return dict(zip(names, outputs.values(), strict=True))

    @functools.cached_property
    def output_names(self) -> dict[str, tuple[int, ...]]:
        """The control's outputs with their shapes, in order."""
        return self.outputs_of_control()

    def outputs_of_control(self) -> dict[str, tuple[int, ...]]:
        """The same, traced."""
        found: dict[str, tuple[int, ...]] = {}

        def run(flat: Flat) -> None:
            found.update({n: tuple(x.shape) for n, x in named(self._linen_run(flat)[0]).items()})

        jax.eval_shape(shared(run), self.inputs)
        return found

    def _linen_gradients(self, flat: Flat) -> Flat:
        loss, (_, gradients) = self._linen_grad(flat, self.differentiable)
        return {"loss": loss} | {_gradient(p): g for p, g in gradients.items()}

    @property
    def differentiable(self) -> tuple[str, ...]:
        """The inputs whose gradients are compared: floats that both sides are given."""
        alone = self.alone
        return tuple(path for path in self._float_inputs if path not in alone)

    @property
    def alone(self) -> tuple[str, ...]:
        """The control's float inputs that the candidate is not given as they are."""
        if self.pair.nnx_inputs is None:
            return ()
        theirs, other = self.given[1].values, self._own_names
        return tuple(p for p in self._float_inputs if p in other or p not in theirs)

    @property
    def _float_inputs(self) -> list[str]:
        values = self.given[0].values.items()
        return [p for p, x in values if x.size and jnp.issubdtype(x.dtype, jnp.floating)]

    def _linen_grad(self, flat: Flat, inputs: Sequence[str] = ()) -> tuple[Any, tuple[Flat, Flat]]:
        params = {path: flat[path] for path in (*self.linen.params, *inputs)}

        def loss(params: Flat) -> tuple[Any, Flat]:
            out, state = self._linen_run(flat | params)
            return self.loss(out, 0, flat | params), state

        (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return value, (state, gradients)

    def _nnx_gradients(self, flat: Flat) -> Flat:
        leaves = self.nnx_leaves(flat)
        params = {path: leaves[path] for path in self.nnx.params}
        given = {path: flat[path] for path in self.differentiable}

        def loss(params: Flat, given: Flat) -> Any:
            args, kwargs = self._nnx_arguments(flat | given)
            out, _ = self.nnx.run(leaves | params, args, kwargs, self.mode)
            return self.loss(out, 1, flat | given)

        value, (gradients, more) = jax.value_and_grad(loss, argnums=(0, 1))(params, given)
        of_inputs = {_gradient(path): gradient for path, gradient in more.items()}
        return {"loss": value} | self._back("gradients/", gradients) | of_inputs

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
        tree = nested(params)
        moments = tx.init(tree)
        for _ in range(self.pair.steps):
            _, (state, gradients) = self._linen_grad(flat | params)
            updates, moments = tx.update(nested(gradients), moments, tree)
            tree = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), tree, updates)
            params = dict(zip(sorted(params), sorted_leaves(tree, params), strict=True))
            flat = flat | state
        return {f"params/{path.partition('/')[2]}": leaf for path, leaf in params.items()}

    def _nnx_step(self, flat: Flat) -> Flat:
        args, kwargs = self._nnx_arguments(flat)
        model = self.nnx.model(self.nnx_leaves(flat), self.mode)
        optimizer = nnx.Optimizer(model, self.pair.optimizer, wrt=nnx.Param)
        for _ in range(self.pair.steps):
            graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]

            def loss(params: Any, graphdef: Any = graphdef, rest: Any = rest) -> Any:
                trial = nnx.merge(graphdef, params, nnx.clone(rest))
                out = self.nnx.call_model(trial, args, kwargs)
                return self.loss(out, 1, flat), nnx.state(trial, nnx.Not(nnx.Param))

            gradients, after = jax.grad(loss, has_aux=True)(params)
            nnx.update(model, after)
            optimizer.update(model, gradients)
        return {
            f"params/{p.partition('/')[2]}": leaf
            for p, leaf in self._back("", self.nnx.params_of(model)).items()
        }

    def loss(self, out: Any, side: int, flat: Flat) -> Any:
        """The scalar whose gradients are compared."""
        given = self.pair.loss
        if given is None:
            return weighted(out)
        args, kwargs = self._inputs_of(side, flat)
        with told(f"pair {self.pair.title}: the loss raised"):
            several = len(inspect.signature(given).parameters) > 1
            value = given(out, kwargs or args) if several else given(out)
        if jnp.shape(value) != ():
            raise errors.ConfigError(
                f"pair {self.pair.title}: loss: expected a scalar, got shape "
                f"{list(jnp.shape(value))}"
            )
        return value

    def _inputs_of(self, side: int, flat: Flat) -> tuple[tuple, dict]:
        """All inputs of a side as the user gave them, with the arrays of `flat`."""
        own = side == 1 and self.pair.nnx_inputs is not None
        args, kwargs = self.pair.arguments(("linen", "nnx")[side])
        call = dataclasses.replace(
            (self.nnx if own else self.linen).call, args=args, kwargs=kwargs, open=True
        )
        found = arguments.arrays(call, arguments.CALL)
        names = self._own_names if own else {}
        return found.put(
            {path: flat.get(names.get(path, path), array) for path, array in found.values.items()}
        )

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


def shared(
    function: Callable[[Flat], Any], table: streams.Table | None = None
) -> Callable[[Flat], Any]:
    """The function with random keys from the source that both sides share."""

    def run(flat: Flat) -> Any:
        with streams.shared(table):
            return function(flat)

    return run


def _gradient(path: str) -> str:
    """The name of the gradient of a parameter, or of an input, whose scale is another."""
    kind, _, rest = path.partition("/")
    return f"{OF_INPUTS}/{rest}" if kind == "inputs" else f"{GRADIENTS}/{path}"
