"""Traps of how optimizers, masks and trees are called."""

import ast
from collections.abc import Iterator

from maxmig.lint.source import Source

Found = Iterator[tuple[ast.AST, str]]

_LAST = (-1,)
_TREE_TOOLS = {
    "flax.traverse_util.flatten_dict",
    "flax.traverse_util.path_aware_map",
    "flax.traverse_util.ModelParamTraversal",
    "flax.serialization.to_bytes",
}


def mask_by_path(source: Source) -> Found:
    """`path[-1].key`, `getattr(path[-1], 'key')`, and the end of `keystr(path)`."""
    if not (source.imports("flax") or source.imports("optax")):
        return
    if not source.imports("jax"):
        return
    told = "matches no leaf of an NNX state, whose paths end in `.value`: decay or freezing is off"
    for node in source.walk(ast.Attribute):
        if node.attr in ("key", "name") and _is_last(node.value):
            yield node, f"`{ast.unparse(node)}` {told} (or raises)"
    for call in source.walk(ast.Call):
        name = source.dotted(call.func)
        if name == "getattr" and len(call.args) > 1 and _is_last(call.args[0]):
            yield call, f"`{ast.unparse(call)}` {told}"
        elif isinstance(call.func, ast.Attribute) and call.func.attr == "endswith":
            inner = call.func.value
            if isinstance(inner, ast.Call) and source.dotted(inner.func).endswith(".keystr"):
                yield call, f"`{ast.unparse(call)}` {told}"


def state_is_no_dict(source: Source) -> Found:
    """flax.traverse_util and flax.serialization on `nnx.state(...)`."""
    states = set()
    for node in source.walk(ast.Assign):
        if _is_state(source, node.value):
            states |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    for call in source.walk(ast.Call):
        name = source.dotted(call.func)
        if name not in _TREE_TOOLS:
            continue
        for arg in call.args:
            if _is_state(source, arg) or (isinstance(arg, ast.Name) and arg.id in states):
                yield call, f"{name} takes dicts, and raises for an nnx.State"


def optimizer_api(source: Source) -> Found:
    """nnx.Optimizer without `wrt`, and its update without the model."""
    optimizers = set()
    for call in source.walk(ast.Call):
        if source.dotted(call.func) != "flax.nnx.Optimizer":
            continue
        parent = source.parents.get(call)
        if isinstance(parent, ast.Assign):
            optimizers |= {ast.unparse(target) for target in parent.targets}
        given = {keyword.arg for keyword in call.keywords}
        if len(call.args) < 3 and "wrt" not in given and None not in given:
            yield call, "nnx.Optimizer without wrt raises since flax 0.11"
    for call in source.walk(ast.Call):
        function = call.func
        if not isinstance(function, ast.Attribute) or function.attr != "update":
            continue
        if ast.unparse(function.value) in optimizers and len(call.args) == 1 and not call.keywords:
            yield call, f"`{ast.unparse(function)}` takes (model, grads) since flax 0.11"


def _is_last(node: ast.AST) -> bool:
    """`path[-1]` of something that is called a path."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return False
    name = node.value.id.lower()
    if not ("path" in name or name in ("p", "kp", "keys")):
        return False
    try:
        return ast.literal_eval(node.slice) in _LAST
    except ValueError:
        return False


def _is_state(source: Source, node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and source.dotted(node.func) == "flax.nnx.state"
