"""The whole configuration: the groups, the checks between groups, and the index of the keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import PrivateAttr, model_validator
from pydantic.fields import FieldInfo

from maxmig import digests
from maxmig.config import scalars
from maxmig.config.groups.base import Contradiction, Group
from maxmig.config.groups.checkpoint import Checkpoint
from maxmig.config.groups.data import Data
from maxmig.config.groups.model import DERIVED, Model
from maxmig.config.groups.moe import Moe
from maxmig.config.groups.numerics import Numerics, Stack
from maxmig.config.groups.optimizer import Optimizer
from maxmig.config.groups.sharding import Sharding
from maxmig.config.groups.train import Flags, Generate, Run, Train
from maxmig.errors import ConfigError

BYTES = 256
WITH_EXPERTS = ("mixtral",)


@dataclass(frozen=True)
class Link:
    """One source that gave a key, and the value that it gave."""

    source: str
    line: int | None
    value: Any

    @property
    def place(self) -> str:
        """The place as `file:line`, or the name of a source that has no lines."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Origin:
    """Where a value came from: the winning source, and all sources from weakest to strongest."""

    source: str
    line: int | None
    value: Any
    chain: tuple[Link, ...]

    @property
    def place(self) -> str:
        """The winner as `file:line`, or the name of a source that has no lines."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


class Layered(Protocol):
    """The sources that a configuration was put together from."""

    def extend(self, changes: Mapping[str, Any]) -> "Config":
        """The configuration with more on top."""


class Config(Group):
    """A validated, immutable configuration; see `maxmig.config.load`."""

    run: Run
    flags: Flags
    model: Model
    moe: Moe
    numerics: Numerics
    stack: Stack
    optimizer: Optimizer
    train: Train
    data: Data
    checkpoint: Checkpoint
    sharding: Sharding
    generate: Generate

    _layers: Layered | None = PrivateAttr(default=None)
    _chains: Mapping[str, tuple[Link, ...]] = PrivateAttr(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """All keys with their effective values; lists are tuples."""
        return {name: getattr(getattr(self, group), name) for name, (group, _) in KEYS.items()}

    def origin(self, name: str) -> Origin:
        """Where the value of the key `name` came from."""
        value = self.flat()[known(name)]
        links = self._chains.get(name, ())
        if name in DERIVED and all(link.value is None for link in links):
            base = self.origin(DERIVED[name])
            source = f"derived from {DERIVED[name]} ({base.place})"
            return Origin(source, None, value, (*links, Link(source, None, value)))
        if not links:
            return Origin("schema default", None, value, (Link("schema default", None, value),))
        return Origin(links[-1].source, links[-1].line, value, links)

    @property
    def digest(self) -> str:
        """The SHA-256 of the effective values, 64 hexadecimal digits."""
        return digests.of_json(self.flat())

    def replace(self, **changes: Any) -> "Config":
        """A new validated configuration with some flat keys changed."""
        assert self._layers is not None  # `chain` makes every configuration
        return self._layers.extend(changes)

    def dump(self) -> str:
        """The effective values as a YAML file that `load` reads back to an equal configuration."""
        values = self.flat()
        blocks = []
        for group, fields in GROUPS.items():
            lines = (f"{name}: {scalars.plain(values[name])}\n" for name in fields)
            blocks.append(f"# {group}\n{''.join(lines)}")
        return "\n".join(blocks)

    @property
    def schedule_steps(self) -> int:
        """Length of the learning-rate schedule: `learning_rate_schedule_steps`, or `steps`."""
        told = self.optimizer.learning_rate_schedule_steps
        return self.train.steps if told == -1 else told

    @property
    def moment_dtype(self) -> str:
        """Type of the first moment: `mu_dtype`, or `weight_dtype`."""
        return self.optimizer.mu_dtype or self.numerics.weight_dtype

    def __eq__(self, other: object) -> bool:
        return self.flat() == other.flat() if isinstance(other, Config) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    @model_validator(mode="after")
    def _positions(self) -> "Config":
        length, rows = self.train.max_target_length, self.model.trainable_position_size
        if self.model.decoder_block == "gpt3" and length > rows:
            raise Contradiction(
                ("max_target_length", "trainable_position_size"),
                f"max_target_length {length} is longer than trainable_position_size {rows}: "
                "the positions beyond it have no embedding. Shorten the sequence or enlarge the "
                "table",
            )
        return self

    @model_validator(mode="after")
    def _experts(self) -> "Config":
        family, count = self.model.decoder_block, self.moe.num_experts
        if (family in WITH_EXPERTS) != (count > 1):
            wants = "has experts: num_experts must be at least 2"
            has_none = f"has no experts: num_experts must be 1 (families with: {WITH_EXPERTS[0]})"
            raise Contradiction(
                ("decoder_block", "num_experts"),
                f"decoder_block {family} {wants if family in WITH_EXPERTS else has_none}, got "
                f"{count}",
            )
        if family in WITH_EXPERTS:
            self._expert_blocks()
        return self

    def _expert_blocks(self) -> None:
        """Refuses what the experts' blocks do not have."""
        m, family = self.model, self.model.decoder_block
        for name, width in (("base_moe_mlp_dim", m.base_mlp_dim), ("moe_mlp_dim", m.mlp_dim)):
            told, other = getattr(self.moe, name), name.replace("moe_", "")
            if told not in (-1, width):
                raise Contradiction(
                    (name, other),
                    f"{name} {told} and {other} {width} disagree: every layer of {family} is a "
                    f"mixture of experts. Set {other}, and leave {name} out",
                )
        for name in ("mlp_bias", "fused_mlp"):
            if getattr(m, name):
                raise Contradiction(
                    ("decoder_block", name),
                    f"decoder_block {family} has neither biases nor fused kernels in its experts: "
                    f"{name} must be false",
                )
        if len(m.mlp_activations) != 2 or m.mlp_activations[1] != "linear":
            raise Contradiction(
                ("decoder_block", "mlp_activations"),
                f"decoder_block {family} has gated experts: mlp_activations must be [activation, "
                f"linear], got {list(m.mlp_activations)}",
            )

    @model_validator(mode="after")
    def _vocabulary(self) -> "Config":
        byte = self.data.tokenizer_type == "byte" and self.data.dataset_type != "synthetic"
        if byte and self.model.vocab_size < BYTES:
            raise Contradiction(
                ("vocab_size", "tokenizer_type"),
                f"vocab_size {self.model.vocab_size} is smaller than the byte tokenizer, which "
                f"needs {BYTES}",
            )
        return self


GROUPS: dict[str, dict[str, FieldInfo]] = {
    group: dict(field.annotation.model_fields)  # type: ignore[union-attr]
    for group, field in Config.model_fields.items()
}
KEYS: dict[str, tuple[str, FieldInfo]] = {
    name: (group, field) for group, fields in GROUPS.items() for name, field in fields.items()
}


def known(name: str) -> str:
    """`name`, if it is a key of maxmig; otherwise ConfigError with the nearest keys."""
    if name not in KEYS:
        from maxmig.config import messages

        raise ConfigError(f"there is no key {name!r}{messages.nearest(name, KEYS)}")
    return name
