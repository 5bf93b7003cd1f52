"""Which numbered names an NNX tree writes as lists, where nobody says more."""

import re
from collections import defaultdict
from collections.abc import Iterable

from maxmig import trees
from maxmig.converters import stacks
from maxmig.converters.mapping import rules, shaped
from maxmig.converters.mapping.rules import Rule, Where
from maxmig.converters.mapping.state import State

_NUMBERED = re.compile(r"(.+)_(\d+)")


def found(state: State) -> tuple[Rule, ...]:
    """Rules for lists: the names that a Linen `setup` gives to them.

    An attribute that is a list has a plural name (`blocks_0`, `blocks_1` of one kind), as its NNX
    twin has (`self.blocks = nnx.List(...)`); Sequential's layers are `layers_0`. All else are names
    that a person or Linen gave to single modules (`encoderblock_0`, `conv_1`, `Dense_0`), and an
    NNX twin gives them to attributes (`setattr(self, f"encoderblock_{i}", ...)`). Numbers that are
    filled with zeros are no places of a list.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    names: dict[str, None] = {}
    for at, whole in _numbered(state.params).items():
        name = at.rpartition("/")[2]
        kind = re.sub(r"_\d+(?=/|$)", r"_\\d+", re.escape(at).replace(r"\-", "-"))
        if name in ("layers", *stacks.NAMES) or (whole and shaped.PLURAL.fullmatch(name)):
            kinds[kind].append(at)
        elif whole and at not in state.lists:
            names[f"{name}_{{}}"] = None
    if names:
        state.notes.append(
            f"{', '.join(names)}: written as attributes of these names, as a module that numbers "
            "its attributes has them; if it has a list instead, say `- list: PATH` in a mapping "
            "file (start from `ckpt map`)"
        )
    return tuple(
        rules.Listed(Where(alike[0]) if len(alike) == 1 else Where(kind, regex=True))
        for kind, alike in kinds.items()
    )


def _numbered(owners: Iterable[str]) -> dict[str, bool]:
    """{container: whether it has several members, from 0 on and of one kind}, of numbered names."""
    groups: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for owner in trees.sort(owners):
        segments = owner.split("/")
        for place, segment in enumerate(segments[:-1]):
            match = _NUMBERED.fullmatch(segment)
            if match and not segment[0].isupper() and str(int(match[2])) == match[2]:
                at = "/".join([*segments[:place], match[1]])
                groups[at][int(match[2])].add("/".join(segments[place + 1 :]))
    return {
        at: len({frozenset(rest) for rest in members.values()}) == 1
        and sorted(members) == list(range(len(members)))
        and len(members) > 1
        for at, members in groups.items()
    }
