"""Traps of JAX's transformations that use an NNX module which is not among their arguments."""

import ast
from collections.abc import Iterator

from maxmig.lint import transforms
from maxmig.lint.source import Source

Found = Iterator[tuple[ast.AST, str]]

_JITS = {"jax.jit", "jax.pmap"}
_MAPS = {"jax.vmap", "jax.lax.scan", "jax.lax.map", "jax.lax.fori_loop", "jax.lax.while_loop"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What a call of a module changes: statistics, counters of random streams.
_STATEFUL = {"BatchNorm", "Dropout", "SpectralNorm", "WeightNorm", "BatchStat", "Cache"}


def captured_module(source: Source) -> Found:
    """`jax.jit(model.__call__)`, a function under jax.jit that calls a module from outside."""
    if not source.imports("flax.nnx"):
        return
    for function in source.walk(ast.FunctionDef):
        for decorator in function.decorator_list:
            if (name := transforms.transform(source, decorator)) in _JITS | _MAPS:
                yield from _found(source, decorator, name, function)
    for call in source.walk(ast.Call):
        name = source.dotted(call.func)
        if name in _JITS | _MAPS and call.args:
            at = 2 if name == "jax.lax.fori_loop" else 0
            yield from _found(source, call, name, call.args[min(at, len(call.args) - 1)])


def _found(source: Source, place: ast.AST, name: str, target: ast.AST) -> Found:
    for module, made in _uses(source, target):
        if name in _JITS:
            yield (
                place,
                f"{name} captures the NNX module {module!r}: its weights are constants of the "
                "compiled program, which does not see later updates, and its state cannot change",
            )
        elif _stateful(source, made):
            yield (
                place,
                f"{name} captures the NNX module {module!r}, whose calls change its state: that "
                "raises, since the state belongs to another trace",
            )


def _uses(source: Source, target: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """The modules from outside that a function is, or calls."""
    if isinstance(target, ast.Attribute):  # model.__call__
        target = target.value
    if isinstance(target, ast.Name):
        function = _function(source, target)
        if function is None:
            if made := _instance(source, target, target.id):
                yield target.id, made
            return
        target = function
    if not isinstance(target, ast.Lambda | ast.FunctionDef):
        return
    own = {node.arg for node in ast.walk(target) if isinstance(node, ast.arg)}
    own |= {
        node.id
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    seen: dict[str, ast.Call] = {}
    for call in source.walk(ast.Call, target):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name and name not in own and (made := _instance(source, target, name)):
            seen[name] = made
    yield from seen.items()


def _function(source: Source, name: ast.Name) -> ast.FunctionDef | None:
    found = (f for f in ast.walk(source.tree) if isinstance(f, ast.FunctionDef))
    return next((f for f in found if f.name == name.id), None)


def _instance(source: Source, node: ast.AST, name: str) -> ast.Call | None:
    """What makes the module of that name, in the functions around a node or in the file."""
    scope: ast.AST | None = node
    while scope is not None:
        scope = source.owner(scope, (*_FUNCTIONS, ast.Module))
        for assign in source.walk(ast.Assign, scope) if scope is not None else ():
            inside = source.owner(assign, (*_FUNCTIONS, ast.Module)) is scope
            named = any(isinstance(t, ast.Name) and t.id == name for t in assign.targets)
            if inside and named:
                return assign.value if source.is_nnx(assign.value) else None
    return None


def _stateful(source: Source, made: ast.Call) -> bool:
    """Whether a module, or one that it is made of, has state that calls change."""
    todo, seen = [source.dotted(made.func)], set[str]()
    while todo:
        name = todo.pop()
        module, _, last = name.rpartition(".")
        if module == "flax.nnx" and last in _STATEFUL:
            return True
        if name in source.nnx_classes and name not in seen:
            seen.add(name)
            calls = source.walk(ast.Call, source.nnx_classes[name])
            todo += [source.dotted(call.func) for call in calls]
    return False
