"""Records one side of a pair: all that it computes, and all that the other side will need."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from maxmig import errors
from maxmig.parity.findings.subject import Origin, Side
from maxmig.parity.pairs import arguments, confirm, engine, gates, linen_side, seen, steady, tracing
from maxmig.parity.pairs import pair as pairs
from maxmig.parity.pairs.arguments import Arrays
from maxmig.parity.pairs.compute import Computation
from maxmig.parity.pairs.confirm import Confirmed
from maxmig.parity.pairs.mapping import Mapping as Map
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.pairs.streams import Request, Table
from maxmig.parity.recordings.recording import MEBIBYTE, Writer

INPUTS, WEIGHTS = "given inputs", "given weights"
SIDES = ("linen", "nnx")


@dataclasses.dataclass(frozen=True)
class Alone(Computation):
    """One side, where the other is not written yet, or gone.

    Attributes:
        arrays: of both sides' arguments.
        table: the random keys of the side that is there.
        outputs: names and shapes of the control's, where they are known.
    """

    arrays: tuple[Arrays, Arrays] = ()  # type: ignore[assignment]
    table: Table = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, tuple[int, ...]] | None = None

    @property
    def given(self) -> tuple[Arrays, Arrays]:
        """The arrays of both sides' arguments."""
        return self.arrays

    @property
    def keys(self) -> tuple[Table, Table]:
        """Which random key is given at which place."""
        return self.table, self.table

    @property
    def output_names(self) -> dict[str, tuple[int, ...]]:
        """The control's outputs with their shapes, in order."""
        return self.outputs_of_control() if self.outputs is None else dict(self.outputs)

    @property
    def unmapped(self) -> tuple[str, ...]:
        """NNX leaves that no Linen leaf fills."""
        return () if self.nnx is None else super().unmapped


def record(
    spec: "str | Pair | Callable[[], Any]",
    folder: str | Path,
    *,
    side: str = "linen",
    mapping: Any = None,
    max_bytes: int = 256 * MEBIBYTE,
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Records a side: outputs, state, loss, gradients and steps, each in float64 as well.

    Args:
        spec: `pkg.module:function`, such a function, or a pair; the NNX module may be None.
        folder: where to; it must be new or empty.
        side: `linen` or `nnx`.
        mapping: a mapping file, or a dict NNX leaf -> Linen leaf; traced by default.
        max_bytes: of all arrays together; what does not fit is hashed and sampled. Inputs and
            weights come first, since nothing can be compared without them.
        command: what repeats it.
        note: is told what is going on.

    Returns:
        The manifest.

    Raises:
        ConfigError: the pair cannot be had, a module raises, or the side is not there.
        DataError: the folder is not empty, cannot be written, or is allowed too little.
        InconclusiveError: the side is not deterministic.
    """
    if side not in SIDES:
        raise errors.ConfigError(f"--stage {side}: a pair has the sides linen and nnx")
    pair = pairs.load(spec).need("linen", *(("nnx",) if side == "nnx" else ()))
    store = Writer(Path(folder), max_bytes)
    note(f"pair {pair.title}: initialising, tracing")
    place = SIDES.index(side)
    computations, units, confirmed = _computations(pair, mapping, place)
    first = computations[0]
    names = gates.names(computations)
    inputs = _keep(first, store)
    found = seen.look(computations, names, place, note)
    origin = Origin(f"seed {pair.seed}", 0, "fresh", nudged=first.linen.nudged)
    told = {
        "spec": spec if isinstance(spec, str) else "",
        "names": list(names),
        "inputs": inputs,
        "units": [_unit(unit) for unit in units],
        "random": {c.mode: _random(c, place) for c in computations},
        "seen": seen.write(found, store),
    }
    return store.finish(
        {
            "command": command,
            "side": dataclasses.asdict(side_of(side, (pair.linen, pair.nnx)[place], units)),
            "origin": dataclasses.asdict(origin),
            "steps": pair.steps,
            "pair": told | _told(computations, confirmed),
        }
    )


def _computations(
    pair: Pair, mapping: Any, place: int
) -> tuple[Sequence[Computation], tuple[tracing.Unit, ...], Confirmed | None]:
    """What is computed, the layers of the control, and the mapping where there are two sides."""
    confirmed = None
    if pair.nnx is None:
        computations, units = linen_alone(pair)
    else:
        traced = engine.trace(pair, mapping)
        confirmed = confirm.confirm(traced.computations)
        traced = engine.mapped(traced, confirmed)
        computations, units = traced.computations, traced.units[0]
    if restless := steady.restless(computations, (place,)):
        raise errors.InconclusiveError(f"nothing was recorded: {restless}")
    return computations, units, confirmed


def _told(computations: Sequence[Computation], confirmed: Confirmed | None) -> dict[str, Any]:
    """What a recording tells of the pair, and of the mapping if there was one."""
    first, groups = computations[0], confirmed.mapping.ambiguous if confirmed else ()
    return {
        "title": first.pair.title,
        "linen": _class(first.pair.linen),
        "nnx": _class(first.pair.nnx),
        "modes": [c.mode for c in computations],
        "arguments": list(first.linen.call.names),
        "mapping": confirmed.mapping.document() if confirmed else None,
        "confirmed": gates.told(confirmed) if confirmed else None,
        "ambiguous": list(map(str, groups)),
        "outputs": {
            c.mode: [[n, list(s)] for n, s in c.output_names.items()] for c in computations
        },
    }


def linen_alone(pair: Pair) -> tuple[list[Computation], tuple[tracing.Unit, ...]]:
    """The computations of a control whose candidate is not there yet."""
    call = arguments.of_linen(pair)
    modes = arguments.modes(pair, call)
    side = linen_side.make(pair, call, modes)
    units = tracing.linen(side)
    found: list[Computation] = []
    for mode in modes:
        given = arguments.arrays(call, mode)
        bare = Alone(side, None, Map(()), mode, (given, given))  # type: ignore[arg-type]
        asked = bare.asks(0)
        table = {request.place: number for number, request in enumerate(asked)}
        found.append(dataclasses.replace(bare, table=table))
    return found, units


def _keep(c: Computation, store: Writer) -> list[list[str]]:
    """Keeps inputs and weights; returns the side, the name and the kind of key of each input."""
    told = []
    for side, given in zip(SIDES, c.given, strict=True):
        if side == "nnx" and c.pair.nnx_inputs is None:
            continue
        for name, array in given.values.items():
            plain, kind = seen.key_free(array)
            store.add((INPUTS, side, name), plain, required=True)
            told.append([side, name, kind])
    for path, leaf in c.linen.variables.items():
        store.add((WEIGHTS, WEIGHTS, path), leaf, required=True)
    return told


def _random(c: Computation, place: int) -> list[list[Any]]:
    """What the side asks of random streams, with the number of the key that it was given."""
    table = c.keys[place]
    return [[r.stream, [list(loop) for loop in r.loops], table[r.place]] for r in c.asks(place)]


def requests(rows: Sequence[Sequence[Any]]) -> list[tuple[Request, int]]:
    """The reverse of what a recording tells of random streams."""
    return [
        (Request(stream, tuple((which, length) for which, length in loops)), number)
        for stream, loops, number in rows
    ]


def side_of(name: str, module: Any, units: Sequence[tracing.Unit]) -> Side:
    """What the objects of a side prove that it is."""
    modules: dict[str, int] = {}
    for unit in units:
        if unit.module:
            modules[unit.module] = modules.get(unit.module, 0) + 1
    state = "flax.linen variables" if name == "linen" else "flax.nnx module"
    return Side(name, name, state, modules, "")


def _class(module: Any) -> str:
    return "" if module is None else type(module).__name__


def _unit(unit: tracing.Unit) -> dict[str, Any]:
    row = {f.name: getattr(unit, f.name) for f in dataclasses.fields(unit)}
    row["leaves"] = {n: [list(x.shape), str(x.dtype)] for n, x in unit.leaves.items()}
    return row


def unit(row: Mapping[str, Any]) -> tracing.Unit:
    """A layer as it was recorded."""
    leaves = {
        name: jax.ShapeDtypeStruct(tuple(shape), jax.numpy.dtype(dtype))
        for name, (shape, dtype) in row["leaves"].items()
    }
    shapes = {key: tuple(tuple(s) for s in row[key]) for key in ("inputs", "outputs")}
    return tracing.Unit(**{**row, **shapes, "leaves": leaves})
