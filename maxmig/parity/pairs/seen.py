"""What one side of a pair computes, kept so that it can be compared when the side is gone."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.parity import shadow
from maxmig.parity import static as proving
from maxmig.parity.pairs import gates
from maxmig.parity.pairs.compute import Computation
from maxmig.parity.recordings.recording import Recording, Writer, sampled

# The program (`outputs`), the mode, the name of the array.
Key = tuple[str, str, str]
_TRUTH = "float64 "


@dataclasses.dataclass(frozen=True)
class Kept:
    """One array, or a sample of it.

    Attributes:
        array: all numbers, or at most 4,096 of them.
        sha256: of all bytes.
        shape: of the whole.
        whole: whether all numbers are there.
    """

    array: np.ndarray
    sha256: str
    shape: tuple[int, ...]
    whole: bool = True

    @classmethod
    def of(cls, array: np.ndarray) -> "Kept":
        """The whole array."""
        raw = np.ascontiguousarray(array).tobytes()
        return cls(array, hashlib.sha256(raw).hexdigest(), array.shape)

    def numbers(self, *, whole: bool) -> np.ndarray:
        """The array, or a sample."""
        return self.array if whole or not self.whole else sampled(self.array)


@dataclasses.dataclass(frozen=True)
class Seen:
    """All that one side computes.

    Attributes:
        arrays: by program, mode and name.
        truths: the same in float64, as far as it has a meaning there.
        prints: what each array is a result of, from `static.fingerprints`; None where that cannot
            be told.
        unshadowable: (program, mode) -> why there is no float64.
    """

    arrays: Mapping[Key, Kept]
    truths: Mapping[Key, Kept]
    prints: Mapping[Key, str | None]
    unshadowable: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def names(self, program: str, mode: str) -> list[str]:
        """The arrays of one program."""
        return [name for p, m, name in self.arrays if (p, m) == (program, mode)]


def look(
    computations: Sequence[Computation],
    names: Sequence[str],
    side: int,
    note: Callable[[str], object],
) -> Seen:
    """Runs one side, at its own precision and in float64.

    Args:
        computations: mode by mode.
        names: of the programs.
        side: 0 Linen, 1 NNX.
        note: is told what is going on.
    """
    arrays: dict[Key, Kept] = {}
    truths: dict[Key, Kept] = {}
    prints: dict[Key, str | None] = {}
    dark: dict[tuple[str, str], str] = {}
    for c, name in _programs(computations, names):
        note(f"{name} ({c.mode})")
        program = c.program(name, side)
        for path, array in c.compiled(name, side)().items():
            arrays[name, c.mode, path] = Kept.of(gates.host(array))
        for path, told in proving.fingerprints(program).items():
            prints[name, c.mode, path] = told
        try:
            for path, array in shadow.evaluate(program, c.inputs).items():
                truths[name, c.mode, path] = Kept.of(gates.host(array))
        except errors.InconclusiveError as error:
            dark[name, c.mode] = str(error)
    return Seen(arrays, truths, prints, dark)


def _programs(
    computations: Sequence[Computation], names: Sequence[str]
) -> Iterator[tuple[Computation, str]]:
    for c in computations:
        for name in gates.of_mode(c, computations, names):
            yield c, name


def write(seen: Seen, store: Writer) -> dict[str, Any]:
    """Adds the arrays to a recording; returns what belongs into its manifest."""
    for (program, mode, name), kept in seen.arrays.items():
        store.add((program, mode, name), kept.array)
    for (program, mode, name), kept in seen.truths.items():
        store.add((_TRUTH + program, mode, name), kept.array)
    return {
        "prints": [[*key, told] for key, told in seen.prints.items()],
        "unshadowable": [[*key, why] for key, why in seen.unshadowable.items()],
    }


def read(recording: Recording) -> Seen:
    """What was recorded.

    Raises:
        DataError: bytes are missing or were changed.
    """
    told = recording.manifest["pair"]["seen"]
    prints = {(p, m, n): text for p, m, n, text in told["prints"]}
    arrays: dict[Key, Kept] = {}
    truths: dict[Key, Kept] = {}
    for (check, mode, name), entry in recording.entries.items():
        program = check.removeprefix(_TRUTH)
        if (program, mode, name) not in prints:
            continue  # an input
        kept = Kept(recording.load(entry), entry.sha256, entry.shape, entry.whole)
        (truths if check.startswith(_TRUTH) else arrays)[program, mode, name] = kept
    dark = {(p, m): why for p, m, why in told["unshadowable"]}
    return Seen(arrays, truths, prints, dark)


def key_free(array: Any) -> tuple[np.ndarray, str]:
    """An array on the host, and of a random key the kind, so that it can be made again."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(array)), str(jax.random.key_impl(array))
    return np.asarray(array), ""
