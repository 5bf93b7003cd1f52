"""The arguments of both sides' calls, in training and in evaluation."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.parity.pairs.pair import MODES, Pair

CALL = "call"  # the one mode of modules that know no other

# Names by which modules are told their mode, and the value that means training.
SWITCHES = {
    **dict.fromkeys(("train", "training", "is_training", "is_train", "enable_dropout"), True),
    **dict.fromkeys(("deterministic", "eval", "is_eval", "use_running_average"), False),
}


@dataclasses.dataclass(frozen=True)
class Call:
    """How one side is called.

    Attributes:
        args, kwargs: what the user gave.
        names: the method's parameters.
        open: it takes any keyword.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: tuple[str, ...]
    open: bool = False

    @property
    def switches(self) -> tuple[str, ...]:
        """The parameters that tell the mode."""
        return tuple(name for name in self.names if name in SWITCHES)

    def at(self, mode: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for a mode; switches that the method does not have are left out."""
        kwargs = {
            name: value
            for name, value in self.kwargs.items()
            if self.open or name in self.names or name not in SWITCHES
        }
        args = list(self.args)
        if mode not in MODES:
            return tuple(args), kwargs
        for name in self.switches:
            value = SWITCHES[name] == (mode == "train")
            place = self.names.index(name)
            if place < len(args):
                args[place] = value
            else:
                kwargs[name] = value
        return tuple(args), kwargs


def of_sides(pair: Pair) -> tuple[Call, Call]:
    """The calls of the Linen and of the NNX side.

    Raises:
        ConfigError: a method is missing, or takes other arguments.
    """
    linen = of_linen(pair)
    return linen, of_nnx(pair, linen.names)


def of_linen(pair: Pair) -> Call:
    """The call of the Linen side alone.

    Raises:
        ConfigError: the method is missing, or takes other arguments.
    """
    call = _call(pair, "linen", pair.linen, pair.method)
    for mode in MODES:
        _check(pair, "linen", call, mode)
    return call


def of_nnx(pair: Pair, names: Sequence[str]) -> Call:
    """The call of the NNX side.

    Args:
        pair: what the user gave.
        names: the parameters of the Linen method.

    Raises:
        ConfigError: the method is missing, or takes other arguments.
    """
    call = _call(pair, "nnx", pair.nnx, pair.nnx_method or pair.method)
    if pair.nnx_inputs is None:
        call = dataclasses.replace(call, args=_without_switches(tuple(names), call))
    for mode in MODES:
        _check(pair, "nnx", call, mode)
    return call


def _call(pair: Pair, side: str, module: Any, method: str) -> Call:
    function = getattr(type(module), method, None)
    if function is None:
        raise errors.ConfigError(
            f"pair {pair.title}: {side}: {type(module).__name__} has no method {method!r}"
        )
    parameters = list(_signature(function).parameters.values())[1:]
    kinds = inspect.Parameter
    names = tuple(p.name for p in parameters if p.kind not in (kinds.VAR_KEYWORD,))
    args, kwargs = pair.arguments(side)
    return Call(args, kwargs, names, any(p.kind is kinds.VAR_KEYWORD for p in parameters))


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _without_switches(linen: tuple[str, ...], nnx: Call) -> tuple[Any, ...]:
    """Positional arguments for the NNX side: a mode that only Linen takes is left out."""
    named = list(zip(linen, nnx.args, strict=False))
    if len(named) < len(nnx.args):
        return nnx.args
    return tuple(value for name, value in named if name not in SWITCHES or name in nnx.names)


def _check(pair: Pair, side: str, call: Call, mode: str) -> None:
    module, method = (
        (pair.linen, pair.method) if side == "linen" else (pair.nnx, pair.nnx_method or pair.method)
    )
    args, kwargs = call.at(mode)
    try:
        _signature(getattr(type(module), method)).bind(None, *args, **kwargs)
    except TypeError as error:
        given = [*(f"argument {i}" for i in range(len(args))), *kwargs]
        raise errors.ConfigError(
            f"pair {pair.title}: {side}: {type(module).__name__}.{method}"
            f"({', '.join(call.names)}) cannot be called with {', '.join(given) or 'nothing'}: "
            f"{error}; give it inputs of its own with Pair(nnx_inputs=...)"
        ) from None


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The arrays among arguments, by name, and how to put them back.

    Attributes:
        values: `inputs/x`, `inputs/batch/image`, ... -> array.
    """

    values: Mapping[str, jax.Array]
    _names: tuple[str | None, ...]
    _static: tuple[Any, ...]
    _tree: Any

    def put(self, arrays: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these arrays."""
        pairs = zip(self._names, self._static, strict=True)
        leaves = [static if name is None else arrays[name] for name, static in pairs]
        return jax.tree.unflatten(self._tree, leaves)


def arrays(call: Call, mode: str) -> Arrays:
    """Takes the arrays out of a side's arguments."""
    args, kwargs = call.at(mode)
    named = {n: i for i, n in enumerate(call.names)}
    found, tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=lambda x: x is None)
    places = {str(i): name for name, i in named.items()}
    names: list[str | None] = []
    static: list[Any] = []
    values = {}
    for path, leaf in found:
        words = [jax.tree_util.keystr((key,), simple=True) for key in path]
        where, rest = words[0], words[1:]
        if where == "0":
            rest[0] = places.get(rest[0], rest[0])
        is_array = isinstance(leaf, np.ndarray | np.generic | jax.Array)
        name = "/".join(["inputs", *rest]) if is_array else None
        names.append(name)
        static.append(None if is_array else leaf)
        if name is not None:
            if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OUSMm":
                raise errors.ConfigError(f"{name}: expected numbers, got dtype {leaf.dtype}")
            with jax.ensure_compile_time_eval():  # also where a function is being traced
                values[name] = jax.numpy.asarray(leaf)
    return Arrays(values, tuple(names), tuple(static), tree)


def modes(pair: Pair, linen: Call) -> tuple[str, ...]:
    """The modes to compare in: those asked for, else those that the Linen module has."""
    if pair.modes is not None:
        return pair.modes or (CALL,)
    return MODES if linen.switches or fields(pair.linen) else (CALL,)


def fields(module: Any) -> tuple[str, ...]:
    """Attributes of a Linen module that tell the mode."""
    return tuple(name for name in SWITCHES if name in getattr(module, "__dataclass_fields__", {}))
