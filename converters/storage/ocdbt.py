"""What an OCDBT database refers to: which value lies where in which data file.

The data files are immutable, and keys only point into them; so what a database holds can be told,
shared and compared without reading it.
"""

from dataclasses import dataclass
from typing import Any

from maxmig.converters.storage import files, kv

CONFIG = {"max_inline_value_bytes": 1024, "max_decoded_node_bytes": 100_000_000}


@dataclass(frozen=True)
class Index:
    """The contents of a database.

    Attributes:
        values: each key's data file, place and size; file "" for values kept in the index itself.
        nodes: the data files that hold the index.
        inline: the values that are kept in the index itself.
    """

    values: dict[str, tuple[str, int, int]]
    nodes: frozenset[str]
    inline: dict[str, bytes]

    @property
    def files(self) -> frozenset[str]:
        """All data files."""
        return self.nodes | {file for file, _, _ in self.values.values() if file}


def index(url: str) -> Index:
    """Reads a database's index, from its last version.

    Raises:
        CheckpointError: it is damaged or missing.
    """
    with files.reading(url):
        base = kv.directory(url)
        manifest = _dump(base, None)
        nodes: set[str] = set()
        versions = list(manifest.get("versions", []))
        # Older versions lie in a tree of their own; the last one is always in the manifest.
        for node in manifest.get("version_tree_nodes", []):
            nodes.add(_place(node["location"])[0])
        values: dict[str, tuple[str, int, int]] = {}
        inline: dict[str, bytes] = {}
        pending = [versions[-1]["root"].get("location")] if versions else []
        prefixes = [b""]
        while pending:
            location, prefix = pending.pop(), prefixes.pop()
            if location is None:
                continue
            nodes.add(_place(location)[0])
            for entry in _dump(base, location)["entries"]:
                key = prefix + entry["key"]
                if "location" in entry:
                    pending.append(entry["location"])
                    prefixes.append(prefix + entry["subtree_common_prefix"])
                elif "indirect_value" in entry:
                    values[key.decode()] = _place(entry["indirect_value"])
                else:
                    name = key.decode()
                    inline[name] = entry["inline_value"]
                    values[name] = ("", 0, len(inline[name]))
    return Index(values, frozenset(nodes), inline)


def _dump(base: Any, node: str | None) -> Any:
    import tensorstore as ts

    return ts.ocdbt.dump(base, node, context=kv.context()).result()


def _place(location: str) -> tuple[str, int, int]:
    """`value:ocdbt.process_0/:d/1234:0:35` -> the file's path, the place in it, the length."""
    import urllib.parse

    _, base, path, offset, length = location.split(":")
    return urllib.parse.unquote(base + path), int(offset), int(length)
