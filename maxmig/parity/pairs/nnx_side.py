"""The candidate: an NNX module as functions from flat dicts of arrays to flat dicts of arrays."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from maxmig.converters.names import escape
from maxmig.parity.pairs import arguments, streams
from maxmig.parity.pairs.arguments import Call
from maxmig.parity.pairs.pair import Pair, told
from maxmig.parity.pairs.sown import SOWN
from maxmig.parity.pairs.streams import MARK

Flat = dict[str, Any]
RAW = "raw"  # arrays that are no variables: not trained, not saved
PARAMS = "params"


@dataclasses.dataclass(frozen=True)
class NnxSide:
    """The NNX module of a pair.

    Attributes:
        pair: what the user gave.
        call: how it is called.
    """

    pair: Pair
    call: Call

    @functools.cached_property
    def leaves(self) -> Mapping[str, Any]:
        """Shape and dtype of each variable by `collection/module/.../leaf`; no random state."""
        flat = _flat(nnx.state(self.pair.nnx))
        return {
            name: jax.ShapeDtypeStruct(_value(leaf).shape, _value(leaf).dtype)
            for name, (_, leaf) in flat.items()
            if not isinstance(leaf, nnx.RngState | nnx.Intermediate)
        }

    @functools.cached_property
    def values(self) -> Mapping[str, Any]:
        """What the module's own variables hold."""
        flat = _flat(nnx.state(self.pair.nnx))
        return {name: _value(leaf) for name, (_, leaf) in flat.items() if name in self.leaves}

    @property
    def params(self) -> tuple[str, ...]:
        """The leaves that are trained: `nnx.Param` and its kin."""
        floats = jax.numpy.floating
        return tuple(
            n
            for n, leaf in self.leaves.items()
            if n in self._trained and jax.numpy.issubdtype(leaf.dtype, floats)
        )

    @functools.cached_property
    def _trained(self) -> frozenset[str]:
        flat = _flat(nnx.state(self.pair.nnx))
        return frozenset(n for n, (_, leaf) in flat.items() if isinstance(leaf, nnx.Param))

    @functools.cached_property
    def training(self) -> tuple[str, ...]:
        """Submodules that are in training mode, as `path: attribute=value`."""
        found = []
        for path, module in nnx.iter_modules(self.pair.nnx):
            for name in ("deterministic", "use_running_average"):
                if getattr(module, name, None) is False:
                    found.append(f"{'/'.join(map(str, path)) or 'itself'}: {name}=False")
        return tuple(found)

    def split(self, mode: str) -> tuple[Any, Any]:
        """The module's definition and state in a mode, every module marked with its path."""
        return self._split[mode]

    @functools.cached_property
    def _split(self) -> dict[str, tuple[Any, Any]]:
        found = {}
        for mode in (*arguments.MODES, arguments.CALL):
            model = nnx.merge(*nnx.split(self.pair.nnx))
            nnx.pop(model, nnx.Intermediate)  # of a call before
            if mode == "train":
                model.train()
            elif mode == "eval":
                model.eval()
            for path, node in nnx.iter_graph(model):
                # An attribute of a Dict would be an entry of it.
                if isinstance(node, nnx.Module | nnx.RngStream) and not isinstance(node, nnx.Dict):
                    setattr(node, MARK, "/".join(map(str, path)))
            found[mode] = nnx.split(model)
        return found

    def model(self, flat: Flat, mode: str) -> nnx.Module:
        """The module with these leaves."""
        graphdef, state = self.split(mode)
        return nnx.merge(graphdef, _with(state, flat))

    def run(self, flat: Flat, args: tuple, kwargs: dict, mode: str) -> tuple[Any, Flat]:
        """Outputs, and the state after the call: everything but parameters."""
        model = self.model(flat, mode)
        return self.call_model(model, args, kwargs), self.state_of(model)

    def call_model(self, model: nnx.Module, args: tuple, kwargs: dict) -> Any:
        """The outputs of one call, which may change the module."""
        method = self.pair.nnx_method or self.pair.method
        streams.restart()
        with told(f"pair {self.pair.title}: the NNX module raised"):
            return getattr(model, method)(*args, **kwargs)

    def state_of(self, model: nnx.Module) -> Flat:
        """The module's variables that are neither parameters nor random state; what is new is sown.

        Where the pair says which collections may change, others are not looked at.
        """
        found: Flat = {}
        allowed = self.pair.mutable
        for name, (_, leaf) in _flat(nnx.state(model)).items():
            if isinstance(leaf, nnx.Param | nnx.RngState):
                continue
            if name in self.leaves:
                found[name] = _value(leaf)
            elif allowed is None or name.partition("/")[0] in allowed:
                values = jax.tree.leaves(_value(leaf))
                found |= {f"{SOWN}{name}/{i}": value for i, value in enumerate(values)}
        return found

    def params_of(self, model: nnx.Module) -> Flat:
        """The module's parameters."""
        return {n: _value(leaf) for n, (_, leaf) in _flat(nnx.state(model, nnx.Param)).items()}

    def counts(self, model: nnx.Module) -> Flat:
        """The counters of the module's random streams."""
        flat = nnx.to_flat_state(nnx.state(model, nnx.RngCount))
        return {_join(path): _value(leaf) for path, leaf in flat}


def collection(leaf: Any) -> str:
    """The Linen collection that a variable's type stands for."""
    if not isinstance(leaf, nnx.Variable):
        return RAW
    if isinstance(leaf, nnx.Param):
        return PARAMS
    return nnx.variable_name_from_type(type(leaf), allow_register=True)


def make(pair: Pair, call: Call) -> NnxSide:
    """The NNX side of a pair."""
    side = NnxSide(pair, call)
    with told(f"pair {pair.title}: the NNX module cannot be split into definition and state"):
        _ = side.leaves, side._split
    return side


def _flat(state: Any) -> dict[str, tuple[tuple, Any]]:
    found = {}
    for path, leaf in nnx.to_flat_state(state):
        found[f"{collection(leaf)}/{_join(path)}"] = (path, leaf)
    return found


def _join(path: tuple) -> str:
    # A key that is a tuple (SpectralNorm, WeightNorm) is spelt as in a checkpoint.
    return "/".join(escape(repr(part) if isinstance(part, tuple) else str(part)) for part in path)


def _value(leaf: Any) -> Any:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _with(state: Any, values: Flat) -> Any:
    replaced = []
    for name, (path, leaf) in _flat(state).items():
        new = values.get(name, _value(leaf))
        # A new variable in any case: one may only change on the level of tracing it was made on.
        leaf = leaf.replace(new) if isinstance(leaf, nnx.Variable) else new
        replaced.append((path, leaf))
    return nnx.from_flat_state(replaced)
