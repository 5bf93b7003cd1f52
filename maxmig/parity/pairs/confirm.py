"""Confirms a mapping: one leaf is moved on both sides, and the outputs must move alike.

Trees cannot tell two square weights apart; this can. Where layers of one class and shape were told
apart by order alone and the outputs disagree, their permutations are tried.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Dict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig.parity.pairs.compute import OUTPUTS, Computation
from maxmig.parity.pairs.mapping import Entry, Group, Mapping

Flat = dict[str, Any]
CONFIRMED, STILL, APART = "confirmed", "without effect", "moves otherwise"

_BUDGET = 600  # permutations to try
_MOST = 1000  # leaves to move
_CLOSE = {"float32": 1e-3, "float64": 1e-3}  # how near outputs are if the weights are in place
_COARSE = 5e-2
_ALIKE = 0.1  # how far two movements may differ; swapped weights differ by about 1


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """What moving the leaves told.

    Attributes:
        mapping: the proposal, or a permutation of it.
        distance: relative difference of the outputs with the mapping in place.
        leaves: Linen leaf -> `confirmed`, `without effect`, or `moves otherwise`.
        hint: another permutation under which the outputs agree, where names say otherwise.
    """

    mapping: Mapping
    distance: float
    leaves: Dict[str, str]
    hint: str = ""

    @property
    def apart(self) -> tuple[str, ...]:
        """The leaves that move the two sides' outputs in different ways."""
        members = [p for group in self.mapping.ambiguous for p in group.linen]
        apart = [path for path, told in self.leaves.items() if told == APART]
        # Those that could have been mistaken for one another come first.
        return tuple(sorted(apart, key=lambda p: not any(f"/{m}/" in p for m in members)))

    @property
    def still(self) -> tuple[str, ...]:
        """The leaves that move nothing on either side."""
        return tuple(path for path, told in self.leaves.items() if told == STILL)


def confirm(computations: Sequence[Computation]) -> Confirmed:
    """Confirms the mapping of these computations, all of one pair in its modes."""
    probe = _Probe(computations)
    mapping, distance, hint = _settled(probe, computations[0].mapping)
    return Confirmed(mapping, distance, probe.move_all(mapping), hint)


def by_outputs(
    computations: Sequence[Computation], control: Dict[str, Dict[str, np.ndarray]]
) -> Confirmed:
    """Confirms a mapping by the control's outputs alone, by mode: the control cannot be run."""
    probe = _Recorded(computations, control)
    mapping, distance, hint = _settled(probe, computations[0].mapping)
    return Confirmed(mapping, distance, {}, hint)


def _settled(probe: "_Probe", mapping: Mapping) -> tuple[Mapping, float, str]:
    """The mapping, or a permutation of it under which the outputs agree; how far they are apart."""
    hint = ""
    distance = probe.distance(mapping)
    if not distance <= probe.close and mapping.ambiguous:
        other = next((m for m in _permuted(mapping) if probe.distance(m) <= probe.close), None)
        if other is not None and _by_name(mapping, other):
            hint = _exchange(mapping, other)
        elif other is not None:
            mapping, distance = other, probe.distance(other)
    return mapping, distance, hint


class _Probe:
    """Evaluates both sides for weights that may be moved."""

    def __init__(self, computations: Sequence[Computation]) -> None:
        self.computations = computations
        self.inputs = {c.mode: c.inputs for c in computations}
        self._linen = {c.mode: jax.jit(c.functions(OUTPUTS)[0]) for c in computations}
        self._nnx = {c.mode: jax.jit(_nnx_function(c)) for c in computations}
        self.base = self.linen({})
        kinds = {str(leaf.dtype) for leaf in self.base if _is_float(leaf)}
        self.close = max((_CLOSE.get(kind, _COARSE) for kind in kinds), default=1e-3)

    def linen(self, moved: Flat) -> list[np.ndarray]:
        """All outputs and states of the control, with some leaves replaced."""
        return _arrays(self._linen, {m: flat | moved for m, flat in self.inputs.items()})

    def nnx(self, mapping: Mapping, moved: Flat) -> list[np.ndarray]:
        """The same of the candidate."""
        return _arrays(
            self._nnx,
            {m: _as_nnx(mapping, flat | moved) for m, flat in self.inputs.items()},
        )

    def distance(self, mapping: Mapping) -> float:
        """Relative difference of the two sides' outputs."""
        theirs = self.nnx(mapping, {})
        if [a.shape for a in theirs] != [a.shape for a in self.base]:
            return float("inf")
        return _relative(_flat(self.base), _flat(theirs))

    def move_all(self, mapping: Mapping) -> dict[str, str]:
        """Moves the leaves, one at a time."""
        theirs = self.nnx(mapping, {})
        if [a.shape for a in theirs] != [a.shape for a in self.base]:
            return {}
        base = _flat(self.base), _flat(theirs)
        size = float(np.linalg.norm(base[0]))
        noise = min(float(np.linalg.norm(base[0] - base[1])), self.close * size)
        variables = self.computations[0].linen.variables
        mapped = {path for entry in mapping.entries for path in entry.sources}
        found = {}
        for path in [p for p in variables if p in mapped and _is_float(variables[p])][:_MOST]:
            moved = {path: _moved(path, variables[path], coarse=self.close == _COARSE)}
            a = _flat(self.linen(moved)) - base[0]
            b = _flat(self.nnx(mapping, moved)) - base[1]
            found[path] = _told(a, b, max(4 * noise, 1e-5 * size))
        return found


class _Recorded(_Probe):
    """The same where the control's outputs are all that is left of it."""

    def __init__(
        self, computations: Sequence[Computation], control: Dict[str, Dict[str, np.ndarray]]
    ) -> None:
        self._control = control
        super().__init__(computations)

    def linen(self, moved: Flat) -> list[np.ndarray]:
        """All outputs and states of the control, as they were recorded."""
        return _arrays({m: lambda found: found for m in self._control}, self._control)


def _told(a: np.ndarray, b: np.ndarray, noise: float) -> str:
    """Whether two movements are the same, as far as the noise lets one see."""
    size = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    if not np.isfinite(size):
        return APART
    if size <= noise:
        return STILL
    return CONFIRMED if float(np.linalg.norm(a - b)) <= max(_ALIKE * size, noise) else APART


def _nnx_function(computation: Computation) -> Callable[[Flat], Flat]:
    """The candidate's outputs from its own leaves, so that one compilation serves all mappings."""
    identity = tuple(Entry(path, (f"nnx/{path}",)) for path in computation.nnx.leaves)
    bare = dataclasses.replace(computation, mapping=Mapping(identity))
    return bare.functions(OUTPUTS, computation.keys)[1]


def _as_nnx(mapping: Mapping, flat: Flat) -> Flat:
    made = {f"nnx/{path}": leaf for path, leaf in mapping.forward(flat).items()}
    return flat | made


def _arrays(functions: Dict[str, Any], flats: Dict[str, Any]) -> list[np.ndarray]:
    found = []
    for mode, function in functions.items():
        out = function(flats[mode])
        found += [np.asarray(out[name]) for name in sorted(out) if name.startswith(OUTPUTS)]
    return found


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    parts = [
        np.nan_to_num(np.asarray(a, np.float64).ravel(), posinf=0.0, neginf=0.0)
        for a in arrays
        if _is_float(a)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    size = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / size if size else 0.0


def _moved(path: str, leaf: np.ndarray, *, coarse: bool) -> jax.Array:
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    values = leaf.astype(np.float64)
    step = rng.standard_normal(leaf.shape) * max(float(values.std()), 0.1) * (5 if coarse else 1)
    if path.endswith("/var"):
        step = np.abs(step)
    return jnp.asarray((values + step).astype(leaf.dtype))


def _is_float(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _permuted(mapping: Mapping) -> Iterator[Mapping]:
    """Other mappings in which layers of one class and shape change places, nearest first."""
    options = [(group, list(_orders(group))) for group in mapping.ambiguous]
    count = itertools.count()
    for changed in range(1, len(options) + 1):
        for chosen in itertools.combinations(options, changed):
            for orders in itertools.product(*(found for _, found in chosen)):
                if next(count) >= _BUDGET:
                    return
                made = mapping
                for (group, _), order in zip(chosen, orders, strict=True):
                    made = _reordered(made, group, order)
                yield made


def _orders(group: Group) -> Iterator[tuple[int, ...]]:
    """Permutations of a group: first the same one inside of every parent, then of all."""
    size = len(group.linen)
    same = tuple(range(size))
    parents = [path.rpartition("/")[0] for path in group.linen]
    chunks = [list(members) for _, members in itertools.groupby(same, key=lambda i: parents[i])]
    length = len(chunks[0])
    if 1 < length < size and all(len(chunk) == length for chunk in chunks):
        for order in itertools.islice(itertools.permutations(range(length)), 1, 121):
            yield tuple(chunk[i] for chunk in chunks for i in order)
    for order in itertools.islice(itertools.permutations(same), 1, 241):
        yield order


def _reordered(mapping: Mapping, group: Group, order: Sequence[int]) -> Mapping:
    """The i-th NNX layer of a group takes the weights of another Linen layer."""
    source = {new: group.linen[order[i]] for i, new in enumerate(group.nnx)}
    was = dict(zip(group.nnx, group.linen, strict=True))
    entries = tuple(_moved_entry(entry, source, was) for entry in mapping.entries)
    new = dataclasses.replace(group, linen=tuple(source.values()), how="permuted")
    groups = tuple(new if g == group else g for g in mapping.ambiguous)
    return dataclasses.replace(mapping, entries=entries, ambiguous=groups)


def _moved_entry(entry: Entry, source: Dict[str, str], was: Dict[str, str]) -> Entry:
    rest = entry.target.partition("/")[2]
    unit = next((path for path in source if rest.startswith(path + "/")), None)
    if unit is None or source[unit] == was[unit]:
        return entry
    old, new = was[unit], source[unit]
    paths = []
    for path in entry.sources:
        collection, _, inner = path.partition("/")
        paths.append(f"{collection}/{new}{inner.removeprefix(old)}")
    return dataclasses.replace(entry, sources=tuple(paths), how="permuted")


def _exchange(mapping: Mapping, other: Mapping) -> str:
    """Which layers change places from one mapping to another, in words."""
    moved = [
        f"{a} -> {target}"
        for old, new in zip(mapping.ambiguous, other.ambiguous, strict=True)
        for a, b, target in zip(new.linen, old.linen, new.nnx, strict=True)
        if a != b
    ]
    return f"the outputs agree if {', '.join(moved)}"


def _by_name(mapping: Mapping, other: Mapping) -> bool:
    """Whether the other mapping goes against names that both sides share."""
    changed = [g for g, new in zip(mapping.ambiguous, other.ambiguous, strict=True) if g != new]
    return any(group.how == "name" for group in changed)
