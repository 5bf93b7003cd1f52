"""The check of every edit: parse the result and compare it, node by node, with what was asked."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from maxmig.errors import MaxmigError
from maxmig.rollout import splice
from maxmig.rollout.document import Alias, Document, KeyPath


def holds(
    doc: Document, splices: Sequence[splice.Splice], changes: Mapping[KeyPath, str | None]
) -> bool:
    """Whether the splices change the named keys as asked, and nothing else."""
    before = doc.text.encode()
    try:
        after = splice.apply(before, splices)
        new = Document.parse(after.decode(), doc.name)
    except (MaxmigError, ValueError):
        return False
    old_root = yaml.MappingNode("tag:yaml.org,2002:map", []) if doc.root is None else doc.root
    new_root = yaml.MappingNode("tag:yaml.org,2002:map", []) if new.root is None else new.root
    return bool(splice.prove(before, after, splices)) and _same(old_root, new_root, changes)


def _same(old: Any, new: Any, changes: Mapping[KeyPath, str | None]) -> bool:
    """Whether `new` is `old` with the changes, whose paths start at these nodes."""
    if not changes:
        return _equal(old, new)
    if not (isinstance(old, yaml.MappingNode) and isinstance(new, yaml.MappingNode)):
        return False
    if _anchor(old) != _anchor(new) or old.tag != new.tag:
        return False
    here = {path[0]: value for path, value in changes.items() if len(path) == 1}
    for key, value in here.items():
        found = [node for name, node in new.value if _names(name, key)]
        if not (len(found) == 1 and _says(found[0], value) if value is not None else not found):
            return False
    kept_old = [pair for pair in old.value if not any(_names(pair[0], key) for key in here)]
    kept_new = [pair for pair in new.value if not any(_names(pair[0], key) for key in here)]
    if len(kept_old) != len(kept_new):
        return False
    for (old_key, old_value), (new_key, new_value) in zip(kept_old, kept_new, strict=True):
        below = {
            path[1:]: value
            for path, value in changes.items()
            if len(path) > 1 and _names(old_key, path[0])
        }
        if not (_equal(old_key, new_key) and _same(old_value, new_value, below)):
            return False
    return True


def _equal(old: Any, new: Any) -> bool:
    if type(old) is not type(new) or _anchor(old) != _anchor(new):
        return False
    if isinstance(old, Alias):
        return old.value == new.value
    if old.tag != new.tag:
        return False
    if isinstance(old, yaml.ScalarNode):
        return old.value == new.value
    if len(old.value) != len(new.value):
        return False
    if isinstance(old, yaml.MappingNode):
        pairs = zip(old.value, new.value, strict=True)
        return all(_equal(a, c) and _equal(b, d) for (a, b), (c, d) in pairs)
    return all(_equal(a, b) for a, b in zip(old.value, new.value, strict=True))


def _names(node: Any, key: str) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == key


def _says(node: Any, text: str) -> bool:
    """Whether a node is what `text` alone would be read as."""
    if isinstance(node, Alias) or text.startswith("*"):
        return isinstance(node, Alias) and f"*{node.value}" == text.strip()
    if not isinstance(node, yaml.ScalarNode):
        return False
    wanted = yaml.compose(text, Loader=yaml.SafeLoader)
    if wanted is None:  # `key:` and nothing behind it
        return node.value == "" and node.style is None
    return bool((node.tag, node.value) == (wanted.tag, wanted.value))


def _anchor(node: Any) -> str | None:
    return getattr(node, "anchor", None)
