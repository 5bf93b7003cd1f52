"""The truth table of the three flags: five rungs that run, three settings that are refused.

`Stage` is the only name that the rest of maxmig knows the flags by. The rungs form a ladder: a
rollout climbs one at a time, and parity holds between neighbours as well as between the ends.
"""

import enum
from dataclasses import dataclass

KEYS = ("enable_nnx", "pure_nnx", "pure_nnx_decoder")


@dataclass(frozen=True)
class Setting:
    """One setting of the three flags, in the order of `KEYS`."""

    enable_nnx: bool
    pure_nnx: bool
    pure_nnx_decoder: bool

    def as_dict(self) -> dict[str, bool]:
        """The setting as configuration keys and values."""
        return {key: getattr(self, key) for key in KEYS}


class Stage(enum.Enum):
    """A rung of the ladder from Linen to NNX; the value is the name that users see."""

    LINEN = "linen"
    BRIDGED_DECODER = "bridged-decoder"
    BRIDGED = "bridged"
    HYBRID = "hybrid"
    NNX = "nnx"

    @property
    def flags(self) -> Setting:
        """The three booleans that select this rung."""
        return _SETTINGS[self]

    @property
    def order(self) -> int:
        """The place on the ladder, 0 for Linen to 4 for NNX."""
        return LADDER.index(self)

    @property
    def below(self) -> "Stage | None":
        """The rung that a rollback goes to, None on the ground."""
        return LADDER[self.order - 1] if self.order else None

    @property
    def above(self) -> "Stage | None":
        """The rung that a rollout climbs to, None at the top."""
        return LADDER[self.order + 1] if self.order + 1 < len(LADDER) else None

    @property
    def runs(self) -> str:
        """What runs on this rung, in a line."""
        return _RUNS[self]

    def changes(self, other: "Stage") -> dict[str, bool]:
        """The keys, with their new values, that lead from this rung to `other`."""
        mine, theirs = self.flags.as_dict(), other.flags.as_dict()
        return {key: value for key, value in theirs.items() if value != mine[key]}

    @classmethod
    def from_flags(cls, *, enable_nnx: bool, pure_nnx: bool, pure_nnx_decoder: bool) -> "Stage":
        """The rung that a setting selects; a setting that cannot run raises ValueError with why."""
        setting = Setting(enable_nnx, pure_nnx, pure_nnx_decoder)
        for stage, flags in _SETTINGS.items():
            if flags == setting:
                return stage
        raise ValueError(REFUSALS[setting])

    @classmethod
    def as_maxtext(cls, *, enable_nnx: bool, pure_nnx: bool, pure_nnx_decoder: bool) -> "Stage":
        """The rung that MaxText runs: it refuses no setting, and ignores what it does not read.

        Under pure_nnx it never asks for enable_nnx; without either there is no NNX model that
        could hold a native decoder.
        """
        if not pure_nnx and not enable_nnx:
            return cls.LINEN
        if pure_nnx:
            return cls.NNX if pure_nnx_decoder else cls.HYBRID
        return cls.BRIDGED if pure_nnx_decoder else cls.BRIDGED_DECODER


LADDER = tuple(Stage)

_SETTINGS = {
    Stage.LINEN: Setting(False, False, False),
    Stage.BRIDGED_DECODER: Setting(True, False, False),
    Stage.BRIDGED: Setting(True, False, True),
    Stage.HYBRID: Setting(True, True, False),
    Stage.NNX: Setting(True, True, True),
}

_RUNS = {
    Stage.LINEN: "Linen model, Linen state and step: the control",
    Stage.BRIDGED_DECODER: "Linen state and step over an NNX model that holds the Linen decoder",
    Stage.BRIDGED: "Linen state and step over an NNX model",
    Stage.HYBRID: "NNX state and step; NNX model that holds the Linen decoder",
    Stage.NNX: "NNX model, NNX state and step: the end of the ladder",
}

REFUSALS = {
    Setting(False, False, True): (
        "pure_nnx_decoder: true with enable_nnx: false: a native NNX decoder needs an NNX model "
        "to sit in. Either set enable_nnx: true (stage 'bridged') or pure_nnx_decoder: false "
        "(stage 'linen')"
    ),
    Setting(False, True, False): (
        "pure_nnx: true with enable_nnx: false: an NNX state and step cannot train a Linen model. "
        "Either set enable_nnx: true (stage 'hybrid') or pure_nnx: false (stage 'linen')"
    ),
    Setting(False, True, True): (
        "pure_nnx: true and pure_nnx_decoder: true with enable_nnx: false: NNX state and decoder "
        "without an NNX model. Either set enable_nnx: true (stage 'nnx'), or both pure_nnx: false "
        "and pure_nnx_decoder: false (stage 'linen')"
    ),
}
