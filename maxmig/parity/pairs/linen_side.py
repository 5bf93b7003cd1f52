"""The control: a Linen module as functions from flat dicts of arrays to flat dicts of arrays."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from maxmig import errors
from maxmig.converters.names import escape
from maxmig.parity.pairs import arguments, streams
from maxmig.parity.pairs.arguments import SWITCHES, Call
from maxmig.parity.pairs.pair import Pair, told
from maxmig.parity.pairs.sown import SOWN

Flat = dict[str, Any]
PARAMS = "params"
_SOWN = ("intermediates", "losses")
_NOT_STATE = (*_SOWN, "perturbations")
_NUDGE = 0.1


@dataclasses.dataclass(frozen=True)
class LinenSide:
    """The Linen module of a pair.

    Attributes:
        pair: what the user gave.
        call: how it is called.
        variables: its variables by `collection/module/.../leaf`, on the host.
        nudged: leaves that were constant and got noise.
        tree: the structure of its variables, with the names of the leaves in order.
    """

    pair: Pair
    call: Call
    variables: Mapping[str, np.ndarray]
    nudged: tuple[str, ...]
    tree: tuple[Any, tuple[str, ...]]

    @property
    def params(self) -> tuple[str, ...]:
        """The leaves that are trained."""
        return tuple(p for p in self.variables if is_param(p) and _floats(self.variables[p]))

    @property
    def state(self) -> tuple[str, ...]:
        """All other leaves."""
        return tuple(p for p in self.variables if not is_param(p))

    def module(self, mode: str) -> nn.Module:
        """The module in a mode, where that is one of its attributes."""
        return _switched(self.pair.linen, mode)

    def run(self, flat: Flat, args: tuple, kwargs: dict, mode: str) -> tuple[Any, Flat]:
        """Outputs, and the state after the call, with what was sown."""
        treedef, names = self.tree
        variables = jax.tree.unflatten(treedef, [flat[name] for name in names])
        mutable = self.pair.mutable
        collections = [c for c in variables if c != PARAMS] if mutable is None else list(mutable)
        sown = _NOT_STATE if mutable is None else ()
        seeds = {"dropout": jax.random.key(0), PARAMS: jax.random.key(0)}
        streams.restart()
        with told(f"pair {self.pair.title}: the Linen module raised"):
            out, after = self.module(mode).apply(
                variables,
                *args,
                rngs=seeds,
                mutable=[*collections, *sown],
                method=self.pair.method,
                **kwargs,
            )
        state = flatten({c: v for c, v in after.items() if c != "perturbations"})[0]
        return out, {
            (SOWN if path.partition("/")[0] in _SOWN else "") + path: leaf
            for path, leaf in state.items()
        }


def make(pair: Pair, call: Call, modes: tuple[str, ...]) -> LinenSide:
    """Initialises the Linen module, or takes the variables that the pair has.

    Raises:
        ConfigError: the module raises.
    """
    variables = pair.variables
    if variables is None:
        given = arguments.arrays(call, modes[0])
        module = _switched(pair.linen, modes[0])

        def init(arrays: Flat) -> Any:
            args, kwargs = given.put(arrays)
            key = jax.random.key(pair.seed)
            return module.init(key, *args, method=pair.method, **kwargs)

        with told(f"pair {pair.title}: the Linen module raised when it was initialised"):
            variables = jax.jit(init)(dict(given.values))
    plain = {c: v for c, v in nn.meta.unbox(dict(variables)).items() if c not in _NOT_STATE}
    flat, treedef, names = flatten(plain)
    host = {name: np.array(leaf) for name, leaf in flat.items()}
    nudged = () if pair.variables is not None else _nudge(host, pair.seed)
    return LinenSide(pair, call, host, nudged, (treedef, names))


def flatten(tree: Mapping[str, Any]) -> tuple[Flat, Any, tuple[str, ...]]:
    """Leaves by path, the structure, and the paths in the structure's order."""
    found, treedef = jax.tree_util.tree_flatten_with_path(dict(tree))
    names = tuple("/".join(map(_segment, path)) for path, _ in found)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise errors.ConfigError(f"the Linen module has two variables called {twice!r}")
    return dict(zip(names, (leaf for _, leaf in found), strict=True)), treedef, names


def _segment(key: Any) -> str:
    """One key of a path; a slash inside of it (SpectralNorm, WeightNorm) as in a checkpoint."""
    return escape(jax.tree_util.keystr((key,), simple=True))


def is_param(path: str) -> bool:
    """Whether a leaf is of the collection `params`."""
    return path.startswith(PARAMS + "/")


def _switched(module: nn.Module, mode: str) -> nn.Module:
    if mode == arguments.CALL:
        return module
    own: dict[str, Any] = {
        name: SWITCHES[name] == (mode == "train") for name in arguments.fields(module)
    }
    return module.clone(**own)


def _nudge(host: dict[str, np.ndarray], seed: int) -> tuple[str, ...]:
    """Constant leaves (biases, scales, statistics) get noise, lest bugs hide behind a 0 or a 1."""
    nudged = []
    for path, leaf in host.items():
        constant = leaf.size > 0 and _floats(leaf) and bool((leaf == leaf.flat[0]).all())
        if not constant or path.startswith("cache/"):
            continue
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        noise = _NUDGE * rng.standard_normal(leaf.shape)
        if not is_param(path):
            noise = np.abs(noise)  # a variance, or a count, stays positive
        host[path] = (leaf.astype(np.float64) + noise).astype(leaf.dtype)
        nudged.append(path)
    return tuple(nudged)


def _floats(leaf: np.ndarray) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
