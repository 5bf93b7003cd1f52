"""YAML with the lines of its keys, and without keys that are there twice."""

from typing import Any

from maxmig import errors


def load(text: str, where: str) -> tuple[Any, dict[str, int]]:
    """What a text holds, and the lines of its top keys and of the items of its lists.

    Returns:
        The data, and lines counted from 1: `{"rules": 3, "rules[0]": 4}`.

    Raises:
        ConfigError: it is not YAML, or a key is there twice.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _once(root, where)
        return loader.construct_document(root), _numbers(root)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise errors.ConfigError(f"{where}: expected YAML: {error}") from error


def _once(root: Any, where: str) -> None:
    import yaml

    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        first: dict[str, int] = {}
        for key, value in node.value:
            todo.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                raise errors.ConfigError(
                    f"{where}:{line}: {key.value}: this key is there twice (first in line "
                    f"{first[key.value]}), and only one of them would count; leave one out, or "
                    "join them"
                )
            first[key.value] = line


def _numbers(root: Any) -> dict[str, int]:
    import yaml

    found: dict[str, int] = {}
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            name = str(key.value)
            found[name] = key.start_mark.line + 1
            if isinstance(value, yaml.SequenceNode):
                for index, item in enumerate(value.value):
                    found[f"{name}[{index}]"] = item.start_mark.line + 1
    return found
