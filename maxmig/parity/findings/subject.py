"""What was run, from which weights, on what, and how much of it the inputs reached."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two programs: what was asked for, and what its objects prove that it was."""

    asked: str
    proved: str
    state: str
    modules: Mapping[str, int]
    config_digest: str


@dataclasses.dataclass(frozen=True)
class Subject:
    """What was run on both sides.

    Attributes:
        config: its name.
        config_digest: of all its effective values.
        model: in words.
        parameters: how many numbers it has.
        dtypes: the types that decide the precision.
        devices: how many, of which kind.
        rungs_digest: of the configuration without the three flags, for the card.
        code_digest: of maxmig's own source.
    """

    config: str
    config_digest: str
    model: str
    parameters: int
    dtypes: Mapping[str, str]
    devices: str
    rungs_digest: str = ""
    code_digest: str = ""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the weights of both sides come from.

    Attributes:
        source: the checkpoint's path, or `seed N`.
        step: training steps behind them.
        optimizer: `restored` from the checkpoint, or `fresh`.
        notes: who wrote the checkpoint, and in which layout.
        nudged: leaves that were constant and got noise, so that no bug hides behind a 0 or a 1.
    """

    source: str
    step: int
    optimizer: str
    notes: str = ""
    nudged: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Input:
    """A batch that both sides were given."""

    name: str
    source: str
    rows: int
    length: int
    segments: int
    targets: int
    padding: int


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What the inputs did and did not reach.

    Attributes:
        parameters: how many leaves the model has.
        gradients: how many leaves' gradients were compared.
        zero_gradients: leaves whose gradient is zero on both sides in every batch.
        zero_outputs: other arrays that are zero on both sides, as `check: path`.
        unmoved: leaves that no optimizer step changed.
        skipped: what was not run, with the reason.
    """

    parameters: int = 0
    gradients: int = 0
    zero_gradients: tuple[str, ...] = ()
    zero_outputs: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Curve:
    """The training loss of both sides, step by step."""

    steps: tuple[int, ...]
    control: tuple[float, ...]
    candidate: tuple[float, ...]
