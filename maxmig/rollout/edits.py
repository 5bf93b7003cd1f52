"""From "this key shall say that" to splices of the text, in the manner of the file.

However a splice was found, its result is parsed again and compared with the tree that was asked
for: the keys that were named have their new values, and every other node is as it was, anchors,
aliases, tags and order included. What cannot be shown is refused.
"""

import itertools
from collections.abc import Mapping, Sequence

import yaml

from maxmig.errors import ConfigError, PreflightError
from maxmig.rollout import places, splice, verify
from maxmig.rollout.document import Alias, Document, Item, KeyPath, resolved

REMOVE = None


def edit(
    doc: Document, changes: Mapping[KeyPath, str | None], *, siblings: Sequence[str] = ()
) -> tuple[splice.Splice, ...]:
    """The splices that give some keys new values, add them, or remove them.

    Args:
        doc: the file.
        changes: from the path of a key, `("pure_nnx",)` at the top, to the text of its new value,
            or to None to remove it.
        siblings: keys behind which an added one is put, if the file has one of them.

    Raises:
        ConfigError: a key stands twice, or the file is no mapping.
        PreflightError: it cannot be done without touching more than was asked for; the message
            tells where, and what to do by hand.
    """
    _refuse_shared(doc, changes)
    fixed: list[places.Change] = []
    choices: list[list[list[places.Change]]] = []
    for path, group in _grouped(changes).items():
        removed = []
        added = {}
        for key, new in group.items():
            item = doc.own(key, path)
            if new is REMOVE:
                if item is not None:
                    removed.append(item)
            elif item is None:
                added[key] = new
            else:
                fixed += _replace(doc, item, new)
        if removed:
            choices.append(list(places.removals(doc, path, removed)))
        if added:
            choices.append(list(places.additions(doc, path, added, siblings, removed)))
    for chosen in itertools.product(*choices):
        made = splice.from_text(doc.text, [*fixed, *itertools.chain(*chosen)])
        if verify.holds(doc, made, changes):
            return made
    keys = ", ".join(".".join(path) for path in changes)
    raise PreflightError(
        f"{doc.name}: {keys} cannot be changed here without touching more than that; the file is "
        "written in a way that this tool does not dare to cut. Change it by hand"
    )


def render(value: bool, doc: Document, siblings: Sequence[str] = (), near: str = "") -> str:
    """A boolean as the file writes them: true, True or TRUE.

    Args:
        value: what to write.
        doc: the file.
        siblings: keys whose manner counts before that of all others.
        near: the key whose own manner counts first.
    """
    found = doc.items()
    order = [item for item in found if item.key == near]
    order += [item for item in found if item.key in siblings]
    plain = "true" if value else "false"
    for item in (*order, *found):
        if (word := _word(item)) is not None:
            return plain.upper() if word.isupper() else plain.title() if word.istitle() else plain
    return plain


def _word(item: Item) -> str | None:
    scalar = item.scalar
    if scalar is None or scalar.style is not None:
        return None
    return scalar.value if scalar.value.lower() in ("true", "false") else None


def _grouped(changes: Mapping[KeyPath, str | None]) -> dict[KeyPath, dict[str, str | None]]:
    groups: dict[KeyPath, dict[str, str | None]] = {}
    for path, new in changes.items():
        groups.setdefault(path[:-1], {})[path[-1]] = new
    return groups


def _replace(doc: Document, item: Item, new: str) -> list[places.Change]:
    node = item.node
    if not isinstance(node, yaml.ScalarNode | Alias):
        raise ConfigError(
            f"{doc.name}:{item.line}: {item.key}: expected a single value, got a list or a mapping"
        )
    return places.replacement(doc, item, new)


def _refuse_shared(doc: Document, changes: Mapping[KeyPath, str | None]) -> None:
    """An anchored value that other keys refer to cannot change without changing them."""
    own = {id(item.node) for path in changes if (item := doc.own(path[-1], path[:-1]))}
    users: dict[int, Alias] = {}
    for alias in doc.aliases():
        if id(alias) not in own:
            users[id(alias.target)] = alias
    if not users:
        return
    for path in changes:
        for depth in range(1, len(path) + 1):
            item = doc.own(path[depth - 1], path[: depth - 1])
            if item is None or isinstance(item.node, Alias):
                continue
            user = users.get(id(resolved(item.node)))
            if user is not None:
                raise PreflightError(
                    f"{doc.name}:{item.line}: {item.key} has the anchor &{user.value}, to which "
                    f"*{user.value} at line {user.start_mark.line + 1} refers: changing the one "
                    "would change the other. Write that value out first"
                )
