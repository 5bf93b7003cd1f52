"""One file of a user's source: its tree, what its names stand for, and what is ignored in it."""

import ast
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_IGNORE = re.compile(r"#\s*maxmig:\s*ignore(?:\[([^\]]*)\])?")

# Attributes of Flax's own NNX layers that are variables.
VARIABLES = {"kernel", "bias", "scale", "embedding", "mean", "var"}


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """A trap in a file.

    Attributes:
        path: of the file, as it was given.
        line, column: from 1.
        code: of the rule.
        message: what is there, and what comes of it.
        remedy: what to write instead.
    """

    path: str
    line: int
    column: int
    code: str
    message: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """One trap.

    Attributes:
        code: its name, for `# maxmig: ignore[CODE]`.
        summary: what is looked for, in a line.
        remedy: what to write instead.
        find: yields the nodes of a file, each with what is there.
    """

    code: str
    summary: str
    remedy: str
    find: Callable[["Source"], Iterator[tuple[ast.AST, str]]]


class Source:
    """A parsed file.

    Attributes:
        path: as it was given.
        tree: its syntax tree.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.tree = ast.parse(text)
        self.lines = text.splitlines()
        self.parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """What an imported name stands for: `nn` -> `flax.linen`."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found[name] = alias.name if alias.asname else name
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return found

    def dotted(self, node: ast.AST | None) -> str:
        """The full name of an expression such as `nn.Dense`: `flax.linen.Dense`; else empty."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        head = self.names.get(node.id, node.id)
        return ".".join([head, *reversed(parts)])

    def imports(self, module: str) -> bool:
        """Whether the file imports a module, or something of it."""
        return any(n == module or n.startswith(module + ".") for n in self.names.values())

    @functools.cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes of the file."""
        return {n.name: n for n in ast.walk(self.tree) if isinstance(n, ast.ClassDef)}

    @functools.cached_property
    def nnx_classes(self) -> dict[str, ast.ClassDef]:
        """Those that are NNX modules."""
        return self._kin("flax.nnx.")

    @functools.cached_property
    def linen_classes(self) -> dict[str, ast.ClassDef]:
        """Those that are Linen modules."""
        return self._kin("flax.linen.")

    def _kin(self, prefix: str) -> dict[str, ast.ClassDef]:
        found: dict[str, ast.ClassDef] = {}
        grew = True
        while grew:
            grew = False
            for name, node in self.classes.items():
                bases = [self.dotted(base) for base in node.bases]
                if name not in found and any(b.startswith(prefix) or b in found for b in bases):
                    found[name] = node
                    grew = True
        return found

    def is_nnx(self, node: ast.AST | None) -> bool:
        """Whether an expression makes an NNX module: `nnx.Linear(...)`, `Block(...)`."""
        if not isinstance(node, ast.Call):
            return False
        name = self.dotted(node.func)
        return name in self.nnx_classes or (
            name.startswith("flax.nnx.") and is_module_name(name.rpartition(".")[2])
        )

    def walk(self, kind: type, within: ast.AST | None = None) -> Iterator:
        """All nodes of a kind, in the order of the file."""
        found: list[Any] = [n for n in ast.walk(within or self.tree) if isinstance(n, kind)]
        return iter(sorted(found, key=lambda node: (node.lineno, node.col_offset)))

    def owner(self, node: ast.AST, kind: type | tuple[type, ...]) -> ast.AST | None:
        """The innermost node of a kind that a node is in."""
        found = self.parents.get(node)
        while found is not None and not isinstance(found, kind):
            found = self.parents.get(found)
        return found

    def ignored(self, node: ast.AST, code: str) -> bool:
        """Whether a comment on the node's first or last line, or alone above it, says so."""
        first = getattr(node, "lineno", 1)
        lines = {first, getattr(node, "end_lineno", first)}
        if first > 1 and self.lines[first - 2].strip().startswith("#"):
            lines.add(first - 1)
        for line in lines:
            found = _IGNORE.search(self.lines[line - 1]) if line <= len(self.lines) else None
            if found and (found[1] is None or code in [w.strip() for w in found[1].split(",")]):
                return True
        return False


# Classes of flax.nnx that are modules, by their spelling: no variables, states or helpers.
_NOT_MODULES = {
    *("Param", "Variable", "BatchStat", "Cache", "Intermediate", "RngKey", "RngCount", "RngState"),
    *("Rngs", "RngStream", "State", "GraphDef", "Optimizer", "ModelAndOptimizer", "Metric"),
    *("MultiMetric", "Average", "Accuracy", "Welford", "List", "Dict", "StateAxes", "Not"),
    *("All", "Any", "Everything", "Nothing", "OfType", "PathContains", "WithTag", "UpdateContext"),
    *("LoRAParam", "VariableState", "Carry", "DiffState", "StateSharding", "Object", "Pytree"),
    *("ToLinen", "VariableMetadata", "PathIn", "OfTypes", "ArrayRef", "VariableRef", "SpmdMesh"),
}


def is_module_name(name: str) -> bool:
    """Whether a name of flax.nnx is a module's."""
    return name[:1].isupper() and name not in _NOT_MODULES and not name.isupper()


def read(path: Path, shown: str) -> Source:
    """Parses a file.

    Raises:
        SyntaxError, ValueError, OSError: it cannot be.
    """
    import tokenize

    with tokenize.open(path) as file:
        return Source(shown, file.read())
