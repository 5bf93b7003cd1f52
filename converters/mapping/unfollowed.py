"""What the optimizer keeps as a list for each parameter: no tree of the model's shape.

`optax.sm3` has one vector for each axis of a parameter. NNX writes such a list inside the variable
(`mu/dense/kernel/value/0`), Linen below the name (`mu/dense/kernel/0`), and no rule for a parameter
says what becomes of it, so such a state is copied as it is or refused.
"""

from collections.abc import Iterator, Sequence

from maxmig import errors
from maxmig.converters import names, skeletons
from maxmig.converters.mapping import rules
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State


def check(state: State, done: Sequence[Rule], *, same_layout: bool) -> None:
    """Refuses a conversion that would have to change such a state.

    Args:
        state: the state, all rules carried out.
        done: the rules.
        same_layout: whether the result has the source's layout.

    Raises:
        ConvertError: it would.
    """
    if same_layout and all(isinstance(rule, rules.Listed | rules.Random) for rule in done):
        return
    owners = frozenset(item for path in state.items.values() for item in path.sources)
    known = {path.partition("/")[2] for path in owners if path.startswith("params/")}
    found = list(_lists(state.skeleton, (), known))
    if found:
        raise errors.ConvertError(
            f"{'/'.join((skeletons.ROOT, *found[0]))}: the optimizer keeps a list for each "
            f"parameter ({len(found)} such lists, as optax.sm3 has), which Linen and NNX write in "
            "other ways and which follows no rule; convert without the optimizer "
            "(--params-only) and start it anew"
        )


def _lists(
    skeleton: skeletons.Skeleton, keys: tuple[str, ...], params: set[str]
) -> Iterator[tuple[str, ...]]:
    """The keys of the lists of arrays at which a parameter's path ends."""
    match skeleton:
        case {"tuple": items}:
            own = keys[:-1] if keys and keys[-1] == "value" else keys
            if any(item == "array" for item in items) and _is_parameter(own, params):
                yield own
                return
            for index, item in enumerate(items):
                yield from _lists(item, (*keys, str(index)), params)
        case {"dict": fields}:
            for key, item in fields.items():
                yield from _lists(item, (*keys, key), params)


def _is_parameter(keys: tuple[str, ...], params: set[str]) -> bool:
    ends = (names.canonical(keys[start:]) for start in range(1, len(keys)))
    return any(end in params for end in ends)
