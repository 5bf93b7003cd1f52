"""What happens to the numbers of a state, whatever their names: random state, keys, casts."""

import dataclasses
import re
from typing import Any

from maxmig import errors
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Layout
from maxmig.converters.leaves import KEY_WORDS, Leaf
from maxmig.converters.mapping import assemble, carry, rules, steps
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import Item, State, alone, apply, forest

POLICIES = ("derive", "keep", "drop")
_CALLED = re.compile(r"(?:^|_)(?:rngs?|keys?)$")
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_SMALL = ("float8_", "float6_", "float4_")


def randomness(state: State, target: Layout, policy: str, origin: dict[str, Any] | None) -> None:
    """Keeps random state, leaves it out, or makes what was left out before, as a policy says.

    Raises:
        ConvertError: some would be left out, and the policy is to keep it.
    """
    own = [path for path in state.items if path.startswith("aux/")]
    placed = getattr(target, "aux", None) is not None
    if policy == "drop" or (not placed and policy == "derive"):
        for path in own:
            item = state.items.pop(path)
            state.dropped |= dict.fromkeys(item.sources, assemble.RANDOM_DROPPED)
        if own and policy == "derive":
            state.notes.append(
                f"{len(own)} leaves of random state have no place in layout {target.name!r}; they "
                "are derived again, from (seed, path, step), on the way back"
            )
    elif own and not placed:
        raise errors.ConvertError(
            f"{own[0]}: layout {target.name!r} has no place for random state (--random keep); "
            "--random derive leaves it out and derives it again on the way back"
        )
    for path, told in ((origin or {}).get("random") or {}).items():
        leaf = Leaf(tuple(told["shape"]), str(told["dtype"]), int(told["nbytes"]))
        if policy != "drop" and path not in state.items:
            why = "random state, derived from (seed, path, step)"
            state.items[path] = Item(leaf, (), made=why)


def typed_keys(state: State, impl: str | None) -> tuple[Rule, ...]:
    """Takes raw words for random keys of a kind; the rules that did it.

    Raises:
        ConfigError: there is no such kind, or no raw words.
        ConvertError: the words are not of that kind.
    """
    if impl is not None and impl not in KEY_WORDS:
        raise errors.ConfigError(f"key_impl: expected one of {', '.join(KEY_WORDS)}, got {impl!r}")
    if impl is None:
        return ()
    named = _named_as_keys(state, impl)
    raw = any(
        path.startswith("aux/") and path.endswith("/key") and not item.leaf.is_key
        for path, item in state.items.items()
    )
    if not raw and not named:
        raise errors.ConfigError(
            f"key_impl: expected raw words of random keys (uint32[..., {KEY_WORDS[impl]}] in "
            "random state, or in a leaf or a field called rng or key), but there are none; a "
            "`keys:` rule in a mapping file names others"
        )
    found = [rules.Keys(rules.Where(".*/key", regex=True), impl)] if raw else []
    return carry.out(state, [*found, *named], strict=True)


def _named_as_keys(state: State, impl: str) -> list[Rule]:
    """A rule for each leaf beside the model that looks like words of a kind, and is called so."""
    found: list[Rule] = []
    for path, item in state.items.items():
        section, _, owner = path.partition("/")
        words = item.leaf.dtype == "uint32" and item.leaf.shape[-1:] == (KEY_WORDS[impl],)
        called = any(_CALLED.search(name) for name in (section, path.rpartition("/")[2]))
        if words and called and section not in ("params", "aux"):
            found.append(rules.Keys(rules.Where(owner, collection=section), impl))
    return found


def as_words(state: State) -> None:
    """Random keys as their words, for a container that has no types for them."""
    kinds = sorted({str(item.leaf.impl) for item in state.items.values() if item.leaf.is_key})
    problems: list[str] = []
    for impl in kinds:
        for tree in (*forest(state), *alone(state)):
            rule = rules.Keys(rules.Where(".*", regex=True), impl, raw=True)
            apply(state, tree, steps.of(rule, tree)[0], problems)
    if problems:
        raise errors.ConvertError("\n  ".join(problems))
    if kinds:
        state.notes.append(
            f"random keys ({', '.join(kinds)}) are written as their uint32 words: a msgpack file "
            f"has no type for them. On the way back {_told_keys(kinds)} makes keys of them"
        )


def _told_keys(kinds: list[str]) -> str:
    if len(kinds) == 1:
        return f"--key-impl {kinds[0]}"
    return "a `keys:` rule for each kind in a mapping file"


def cast(state: State, dtype: str | None) -> None:
    """Casts floating-point numbers: of parameters, or as `params=TYPE,opt_state=TYPE` says.

    Raises:
        ConfigError: it is no floating-point type.
    """
    for section, name in _types(dtype).items():
        left: list[str] = []
        for path, item in state.items.items():
            if path.partition("/")[0] != section:
                continue
            if item.leaf.dtype not in _FLOATS:
                left += [path] if item.leaf.dtype.startswith(_SMALL) else []
                continue
            if section == "opt_state" and not item.leaf.shape:
                continue  # hyperparameters and counters are no moments
            if item.leaf.dtype != name:
                each = {"float64": 8, "float32": 4}.get(name, 2)
                count = item.leaf.nbytes // {"float64": 8, "float32": 4}.get(item.leaf.dtype, 2)
                leaf = Leaf(item.leaf.shape, name, each * count)
                why = (*item.why, f"cast {item.leaf.dtype} -> {name}")
                state.items[path] = dataclasses.replace(item, leaf=leaf, why=why)
        if left:
            state.notes.append(
                f"{left[0]}: {state.items[left[0]].leaf.dtype}, which --dtype leaves as it is "
                f"(leaves of such a type: {len(left)})"
            )


def _types(dtype: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in dtype.split(",") if dtype is not None else ():
        section, _, name = part.strip().rpartition("=")
        if name not in _FLOATS or section not in ("", "params", "opt_state"):
            raise errors.ConfigError(
                f"--dtype: expected a floating-point type ({', '.join(_FLOATS)}), or "
                f"params=TYPE,opt_state=TYPE; got {part!r}. Numbers are never made integers"
            )
        if found.setdefault(section or "params", name) != name:
            raise errors.ConfigError(
                f"--dtype: expected one type for {section or 'params'}, got "
                f"{found[section or 'params']} and {name}; the moments' is opt_state=TYPE"
            )
    return found


def check_zeros(source: Checkpoint, state: State) -> None:
    """Reads the few leaves that may only be left out if they are zero.

    Raises:
        ConvertError: one is not.
    """
    import numpy as np

    lost = []
    for path, why in state.zeros.items():
        array = source.storage.read(source.places[path])
        if np.any(array):
            largest = float(np.max(np.abs(array.astype(np.float64))))
            lost.append(f"{path}: {why}: NNX has no place for it, and it is not zero ({largest:g})")
    if lost:
        raise errors.ConvertError(
            "this would lose numbers:\n  " + "\n  ".join(lost) + "\n"
            "keep this layer in Linen (bridge it with nnx.bridge.ToNNX), or leave these leaves out "
            "with a reason in a mapping file (`- {drop: PATH, reason: ...}`)"
        )
