"""Traps of what is written to the attributes of NNX modules."""

import ast
from collections.abc import Iterator

from maxmig.lint.source import VARIABLES, Source, is_module_name

Found = Iterator[tuple[ast.AST, str]]


def param_overwritten(source: Source) -> Found:
    """`model.kernel = array`, outside of the constructor."""
    if not source.imports("flax.nnx"):
        return
    own = {name: _variables(source, node) for name, node in source.nnx_classes.items()}
    for node in source.walk(ast.Assign):
        for target in node.targets:
            if not isinstance(target, ast.Attribute) or not _is_array(source, node.value):
                continue
            if _is_variable(source, target, own, node):
                yield (
                    node,
                    f"`{ast.unparse(target)} = ...` replaces the variable by a plain array: it "
                    "leaves the parameters, the optimizer and the checkpoint without an error",
                )


def value_written(source: Source) -> Found:
    """`variable.value = ...` and `+=`."""
    if not source.imports("flax.nnx"):
        return
    names = VARIABLES | {v for c in source.nnx_classes.values() for v in _variables(source, c)}
    for node in ast.walk(source.tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            if not isinstance(target, ast.Attribute) or target.attr != "value":
                continue
            inner = target.value
            if isinstance(inner, ast.Attribute) and inner.attr in names:
                yield node, f"`{ast.unparse(target)}` is written: deprecated since flax 0.12.1"


def list_of_modules(source: Source) -> Found:
    """`self.layers = [nnx.Linear(...), ...]` in an NNX module."""
    for name, cls in source.nnx_classes.items():
        plain, local = set(), dict[str, ast.AST]()
        for node in source.walk(ast.Assign, cls):
            for target in node.targets:
                if not _is_own(target):
                    continue
                kind = _container(node.value)
                if kind and _holds_module(source, node.value):
                    yield node, _told(name, target, kind)
                elif kind == "list" and not getattr(node.value, "elts", [0]):
                    plain.add(ast.unparse(target))
            if isinstance(node.value, ast.Name) and _is_own(node.targets[0]):
                local[node.value.id] = node.targets[0]  # self.heads = heads
        for call in source.walk(ast.Call, cls):
            function = call.func
            if not isinstance(function, ast.Attribute) or function.attr != "append":
                continue
            held = ast.unparse(function.value)
            if held in plain | local.keys() and any(map(source.is_nnx, call.args)):
                yield call, _told(name, local.get(held, function.value), "list")


def _told(name: str, target: ast.AST, kind: str) -> str:
    return (
        f"{name}: `{ast.unparse(target)}` holds modules in a plain {kind}, which is a static "
        "attribute: an error since flax 0.12, and no parameters before"
    )


def _variables(source: Source, cls: ast.ClassDef) -> set[str]:
    """Attributes that a class makes variables of."""
    found = set()
    for node in ast.walk(cls):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        name = source.dotted(node.value.func)
        last = name.rpartition(".")[2]
        variable = name.startswith("flax.nnx.") and not is_module_name(last) and last[:1].isupper()
        if variable and last not in ("List", "Dict", "Rngs", "RngStream", "Optimizer"):
            found |= {t.attr for t in node.targets if isinstance(t, ast.Attribute)}
    return found


def _is_variable(
    source: Source, target: ast.Attribute, own: dict[str, set[str]], node: ast.AST
) -> bool:
    base = target.value
    cls = source.owner(node, ast.ClassDef)
    if isinstance(base, ast.Name) and base.id == "self":
        method = source.owner(node, ast.FunctionDef)
        inside = isinstance(cls, ast.ClassDef) and cls.name in own
        first = isinstance(method, ast.FunctionDef) and method.name in ("__init__", "setup")
        return inside and not first and target.attr in own[cls.name]  # type: ignore[union-attr]
    root: ast.AST = base
    while isinstance(root, ast.Attribute | ast.Subscript):
        root = root.value
    if not isinstance(root, ast.Name):
        return False
    made = _class_of(source, root.id)
    if made is None:
        return (
            root.id == "self"
            and isinstance(cls, ast.ClassDef)
            and (cls.name in own and target.attr in VARIABLES and isinstance(base, ast.Attribute))
        )
    if isinstance(base, ast.Name):
        return target.attr in own.get(made, VARIABLES)
    return target.attr in VARIABLES


def _class_of(source: Source, name: str) -> str | None:
    """The NNX class whose instance a variable is, where the file says so."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign) and source.is_nnx(node.value):
            if any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return source.dotted(node.value.func)  # type: ignore[attr-defined]
        elif isinstance(node, ast.arg) and node.arg == name:
            kind = source.dotted(node.annotation)
            if kind in source.nnx_classes or kind == "flax.nnx.Module":
                return kind
    return None


def _is_array(source: Source, value: ast.AST) -> bool:
    """Whether a value is computed: no variable, no module, no constant, no plain name."""
    if isinstance(value, ast.BinOp):
        return True
    if not isinstance(value, ast.Call):
        return False
    name = source.dotted(value.func)
    return name.startswith(("jax.", "numpy.", "jnp.", "np."))


def _is_own(target: ast.AST) -> bool:
    return (
        isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    )


def _container(value: ast.AST) -> str:
    match value:
        case ast.List() | ast.ListComp():
            return "list"
        case ast.Tuple():
            return "tuple"
        case ast.Dict() | ast.DictComp():
            return "dict"
        case ast.Call(func=ast.Name(id="list" | "tuple" | "dict" as kind), args=[_, *_]):
            return kind
    return ""


def _holds_module(source: Source, value: ast.AST) -> bool:
    match value:
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return any(map(source.is_nnx, parts))
        case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part):
            return source.is_nnx(part)
        case ast.Dict(values=parts):
            return any(map(source.is_nnx, parts))
        case ast.DictComp(value=part):
            return source.is_nnx(part)
        case ast.Call(args=[inner, *_]):
            return _holds_module(source, inner)
    return False
