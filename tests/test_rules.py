"""The rules of the house that a program can check: imports, readers of the flags, the twins.

Of the seven rules in docs/design.md these are 1 to 4. Rules 5 to 7 (tests on both backends, nothing
dropped silently, no fallback) are kept by the tests of each subsystem. Every check here is also
run on a small tree that breaks the rule, since a check that cannot fail proves nothing.
"""

import ast
import graphlib
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FLAGS = {"enable_nnx", "pure_nnx", "pure_nnx_decoder"}
BORDER = ("maxmig/bridge/", "maxmig/parity/pairs/")
CORE_MAY_IMPORT = {"jax", "numpy", *sys.stdlib_module_names}
CORE_MAY_IMPORT_OF_MAXMIG = {"core", "errors", "trees", "typing"}
# The rooms of parity, each of which knows only those before it.
ROOMS = (
    *("levels", "programs", "static", "findings", "reports", "pages"),
    *("shadow", "sides", "faults", "rungs", "recordings", "pairs"),
)


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """(path relative to the repository, syntax tree) of all code that ships."""
    for folder in ("maxmig", "converters", "configs"):
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text("utf-8"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that is imported; for `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute):  # flax.linen.Dense after `import flax`
            dotted = ast.unparse(node)
            if dotted in ("flax.linen", "flax.nnx", "maxmig.linen", "maxmig.nnx"):
                yield node.lineno, dotted
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            constants = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            yield from ((node.lineno, str(value)) for value in constants)


def within(name: str, module: str) -> bool:
    """Whether a dotted name is the module or lies in it."""
    return name == module or name.startswith(module + ".")


def framework_imports(root: Path) -> Iterator[str]:
    """Rule 1: each framework in its own wing and at the border; no wing knows the other."""
    for path, tree in sources(root):
        for wing, other in (("linen", "nnx"), ("nnx", "linen")):
            for line, name in imports(tree):
                allowed = path.startswith((f"maxmig/{wing}/", *BORDER))
                if within(name, f"flax.{wing}") and not allowed:
                    yield f"{path}:{line}: imports {name}"
                if path.startswith(f"maxmig/{other}/") and within(name, f"maxmig.{wing}"):
                    yield f"{path}:{line}: one wing imports the other: {name}"
        for line, name in imports(tree):
            if name.startswith("."):
                yield f"{path}:{line}: relative import, which these checks cannot follow"


def flag_reads(root: Path) -> Iterator[str]:
    """Rule 2: the three flags are read by the configuration and by the backend's choice only."""
    for path, tree in sources(root):
        if path.startswith("maxmig/config/") or path == "maxmig/backend.py":
            continue
        for node in ast.walk(tree):
            name: object = None
            if isinstance(node, ast.Attribute):
                name = node.attr
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                name = node.slice.value
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "get",
                "getattr",
                "attrgetter",
            ):
                constants = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                name = next((value for value in constants if value in FLAGS), None)
            if name in FLAGS:
                yield f"{path}:{getattr(node, 'lineno', 0)}: reads the flag {name}"


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The tree without names for type checkers, which cost and bind nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = [ast.Pass()]
    return tree


def core_imports(root: Path) -> Iterator[str]:
    """Rule 3: core is arithmetic: JAX, NumPy and the standard library, nothing of a framework."""
    for path, tree in sources(root):
        if not path.startswith("maxmig/core/"):
            continue
        for line, name in imports(without_type_checking(tree)):
            parts = name.split(".")
            if parts[0] == "maxmig":
                if len(parts) > 1 and parts[1] not in CORE_MAY_IMPORT_OF_MAXMIG:
                    yield f"{path}:{line}: imports {name}"
            elif parts[0] not in CORE_MAY_IMPORT:
                yield f"{path}:{line}: imports {name}"


def core_branches(root: Path) -> Iterator[str]:
    """Rules 2 and 3: no branch in core asks which framework runs."""
    asked = {"backend", "framework", "stage", "is_nnx", "is_linen", *FLAGS}
    for path, tree in sources(root):
        if not path.startswith("maxmig/core/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.If | ast.IfExp | ast.While):
                test: ast.AST = node.test
            elif isinstance(node, ast.Match):
                test = node.subject
            else:
                continue
            names = {part.id for part in ast.walk(test) if isinstance(part, ast.Name)}
            names |= {part.attr for part in ast.walk(test) if isinstance(part, ast.Attribute)}
            if names & asked:
                yield f"{path}:{node.lineno}: a branch on {', '.join(sorted(names & asked))}"


def public_names(tree: ast.Module) -> list[str]:
    """The public classes and functions of a module, in order."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


def unequal_twins(root: Path) -> Iterator[str]:
    """Rule 4: the same files in both wings, with the same public names in the same order."""
    wings: dict[str, dict[str, list[str]]] = {"linen": {}, "nnx": {}}
    for path, tree in sources(root):
        for wing, files in wings.items():
            if path.startswith(f"maxmig/{wing}/"):
                files[path.removeprefix(f"maxmig/{wing}/")] = public_names(tree)
    for name in sorted(wings["linen"].keys() | wings["nnx"].keys()):
        linen, nnx = wings["linen"].get(name), wings["nnx"].get(name)
        if linen is None or nnx is None:
            yield f"{name}: only in maxmig/{'nnx' if linen is None else 'linen'}/"
        elif linen != nnx:
            yield f"{name}: linen has {', '.join(linen)}; nnx has {', '.join(nnx)}"


def upward_imports(root: Path) -> Iterator[str]:
    """The rooms of parity import one another in one direction."""
    for path, tree in sources(root):
        home, _, name = path.partition("maxmig/parity/")
        if home or name == "__init__.py":
            continue
        own = name.split("/")[0].removesuffix(".py")
        if own not in ROOMS:
            yield f"{path}:1: in none of the rooms of docs/design.md"
            continue
        below = [f"maxmig.parity.{room}" for room in ROOMS[ROOMS.index(own) + 1 :]]
        for line, imported in imports(tree):
            if any(within(imported, room) for room in below):
                yield f"{path}:{line}: imports {imported}"


def circles(root: Path) -> Iterator[str]:
    """No module of parity or of the configuration imports one that imports it, however late.

    Names for type checkers alone are no imports: who visits a thing may say what it is.
    """
    known: dict[str, set[str]] = {}
    for path, tree in sources(root):
        if path.startswith(("maxmig/parity/", "maxmig/config/")):
            own = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            known[own] = {name for _, name in imports(without_type_checking(tree))} - {own}
    graph = {own: found & known.keys() for own, found in known.items()}
    for own in graph:  # a package is no part of its own modules
        graph[own] -= {above for above in graph if own.startswith(f"{above}.")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = sorted(set(error.args[1]))
        path = circle[0].replace(".", "/")
        yield f"{path}.py: in a circle of imports with {', '.join(circle[1:])}"


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (
    framework_imports,
    flag_reads,
    core_imports,
    core_branches,
    unequal_twins,
    upward_imports,
    circles,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_rule(check: Callable[[Path], Iterator[str]], root: Path) -> None:
    findings = list(check(root))
    assert not findings, "\n".join([check.__doc__ or "", *findings])


VIOLATIONS = [
    (framework_imports, "maxmig/train/loop.py", "from flax import linen as nn"),
    (framework_imports, "maxmig/train/loop.py", "import flax\nlayer = flax.nnx.Linear"),
    (framework_imports, "maxmig/core/mlp.py", "def f():\n    import flax.linen.module"),
    (framework_imports, "maxmig/parity/x.py", "from flax import nnx"),
    (framework_imports, "maxmig/linen/layers.py", "from flax.nnx import bridge"),
    (framework_imports, "maxmig/linen/layers.py", "from maxmig import nnx"),
    (framework_imports, "maxmig/nnx/layers.py", "from maxmig.linen.layers import Dense"),
    (framework_imports, "converters/x.py", "import importlib\nimportlib.import_module('flax.nnx')"),
    (framework_imports, "maxmig/linen/layers.py", "from ..nnx import layers"),
    (flag_reads, "maxmig/train/loop.py", "def f(cfg):\n    return cfg.flags.pure_nnx"),
    (flag_reads, "maxmig/cli/train.py", "def f(flat):\n    return flat['enable_nnx']"),
    (flag_reads, "converters/x.py", "def f(cfg):\n    return getattr(cfg, 'pure_nnx_decoder', 0)"),
    (flag_reads, "converters/x.py", "def f(flat):\n    return flat.get('pure_nnx')"),
    (core_imports, "maxmig/core/mlp.py", "import flax"),
    (core_imports, "maxmig/core/mlp.py", "from pydantic import BaseModel"),
    (core_imports, "maxmig/core/mlp.py", "from maxmig.config import Config"),
    (core_imports, "maxmig/core/mlp.py", "def f():\n    import optax"),
    (core_branches, "maxmig/core/mlp.py", "def f(backend):\n    return 1 if backend else 2"),
    (core_branches, "maxmig/core/mlp.py", "def f(cfg):\n    if cfg.stage == 'nnx':\n        pass"),
    (unequal_twins, "maxmig/nnx/layers.py", "class Norm: ...\nclass Dense: ..."),
    (unequal_twins, "maxmig/nnx/layers.py", "class Dense: ...\nclass Norm: ...\ndef extra(): ..."),
    (unequal_twins, "maxmig/nnx/only.py", "class Dense: ..."),
    (upward_imports, "maxmig/parity/other.py", "import math"),
    (upward_imports, "maxmig/parity/findings/x.py", "from maxmig.parity import reports"),
    (upward_imports, "maxmig/parity/findings/x.py", "def f():\n    import maxmig.parity.pairs.x"),
    (circles, "maxmig/config/flags.py", "def f():\n    from maxmig.config import schema"),
    (circles, "maxmig/config/flags.py", "from maxmig.config.schema import Config"),
]


@pytest.mark.parametrize(("check", "path", "text"), VIOLATIONS)
def test_rule_can_fail(
    check: Callable[[Path], Iterator[str]], path: str, text: str, tmp_path: Path
) -> None:
    house(tmp_path)
    assert [*check(tmp_path)] == []
    (tmp_path / path).write_text(text)
    (finding,) = {line.split(":")[0] for line in check(tmp_path)}
    assert Path(finding).name == Path(path).name


def house(root: Path) -> None:
    """A small tree that keeps all rules, with the cases that are allowed."""
    twin = "class Dense: ...\nclass Norm: ...\ndef _private(): ...\n"
    files = {
        "maxmig/linen/layers.py": f"from flax import linen\nfrom maxmig.core import mlp\n{twin}",
        "maxmig/nnx/layers.py": f"from flax import nnx\nimport maxmig.core.mlp\n{twin}",
        "maxmig/bridge/wrap.py": "from flax import linen, nnx\nfrom maxmig import nnx, linen",
        "maxmig/parity/pairs/x.py": "import flax.linen, flax.nnx",
        "maxmig/parity/findings/x.py": "from maxmig.parity import findings, levels, static",
        "maxmig/parity/__init__.py": "from maxmig.parity import findings, pairs",
        "maxmig/config/flags.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from maxmig.config import schema\ndef f(x):\n    return x.pure_nnx, x['enable_nnx']",
        "maxmig/config/schema.py": "from maxmig import config\nfrom maxmig.config import flags",
        "maxmig/backend.py": "def select(flags):\n    return flags.pure_nnx_decoder",
        "maxmig/cli/demo.py": "OVERRIDES = ['enable_nnx=true', 'pure_nnx=true']",
        "maxmig/train/loop.py": "import optax\nfrom maxmig import backend",
        "maxmig/core/mlp.py": "import math\nimport jax.numpy as jnp\nimport numpy as np\n"
        "from typing import TYPE_CHECKING\nfrom maxmig import errors\nimport maxmig.core.norm\n"
        "if TYPE_CHECKING:\n    from maxmig.config import Config",
        "converters/x.py": "import numpy",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_core_loads_no_framework(root: Path) -> None:
    """Rule 3 at run time, where an import of an import shows too."""
    modules = [
        path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        for path in (root / "maxmig" / "core").glob("*.py")
    ]
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        "print({m.split('.')[0] for m in sys.modules} & {'flax', 'pydantic', 'optax', 'orbax'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def sizes(root: Path) -> tuple[float, list[str]]:
    """The median length of a file, and all files and functions that are unusually long."""
    lengths, long = [], []
    for path, tree in sources(root):
        text = (root / path).read_text("utf-8")
        lines = text.count("\n")
        if lines:
            lengths.append(lines)
        if lines > 400:
            long.append(f"{path}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    return statistics.median(lengths), long


def test_sizes_are_reported(root: Path) -> None:
    median, long = sizes(root)
    assert median <= 200, f"the median file has {median} lines"
    if long:
        warnings.warn(f"median {median} lines; long: " + "; ".join(long), stacklevel=1)
