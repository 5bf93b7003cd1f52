"""Traps of JAX's transformations that take an NNX module as if it were an array."""

import ast
from collections.abc import Iterator

from maxmig.lint.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Found = Iterator[tuple[ast.AST, str]]

_JITS = {"jax.jit", "jax.pmap"}
_GRADS = {"jax.grad", "jax.value_and_grad"}
_MODEL_NAMES = {"model", "module", "net", "network", "state", "policy", "encoder", "decoder"}


def jit_drops_state(source: Source) -> Found:
    """Functions under jax.jit that take a module and do not return it or its state."""
    for node, function, name in _transformed(source, _JITS):
        for argument in _modules(source, function):
            if not _returned(source, function, argument):
                yield (
                    node,
                    f"{name} takes the NNX module {argument!r} and does not return its state: "
                    "BatchNorm statistics and dropout counters are lost, and every call draws the "
                    "same mask",
                )


def grad_of_module(source: Source) -> Found:
    """Functions under jax.grad whose first argument is a module."""
    for node, function, name in _transformed(source, _GRADS):
        first = _arguments(function)[:1]
        for argument in _modules(source, function):
            if argument in first:
                yield (
                    node,
                    f"{name} differentiates the NNX module {argument!r} with respect to all that "
                    "is in it: statistics too, and random state raises",
                )


def _transformed(source: Source, transforms: set[str]) -> Iterator[tuple[ast.AST, Function, str]]:
    """(where, the function, the transformation's name), decorated or passed by name."""
    if not source.imports("flax.nnx"):
        return
    functions = {f.name: f for f in ast.walk(source.tree) if isinstance(f, ast.FunctionDef)}
    for function in source.walk(ast.FunctionDef):
        for decorator in function.decorator_list:
            name = _transform(source, decorator)
            if name in transforms:
                yield decorator, function, name
    for call in source.walk(ast.Call):
        name = source.dotted(call.func)
        if name not in transforms or not call.args:
            continue
        target = call.args[0]
        if isinstance(target, ast.Lambda):
            yield call, target, name
        elif isinstance(target, ast.Name) and target.id in functions:
            yield call, functions[target.id], name


def _transform(source: Source, decorator: ast.expr) -> str:
    """`jax.jit` of `@jax.jit`, `@jax.jit(...)` and `@functools.partial(jax.jit, ...)`."""
    if isinstance(decorator, ast.Call):
        if source.dotted(decorator.func) in ("functools.partial", "partial"):
            return source.dotted(decorator.args[0]) if decorator.args else ""
        return source.dotted(decorator.func)
    return source.dotted(decorator)


def _arguments(function: Function) -> list[str]:
    a = function.args
    return [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]


def _modules(source: Source, function: Function) -> list[str]:
    """Arguments that are NNX modules: by annotation, or by name and by being called."""
    a = function.args
    found = []
    called = {
        node.func.id
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs):
        kind = source.dotted(arg.annotation)
        if (
            kind in source.nnx_classes
            or kind == "flax.nnx.Module"
            or (arg.annotation is None and arg.arg in _MODEL_NAMES and arg.arg in called)
        ):
            found.append(arg.arg)
    return found


def _returned(source: Source, function: Function, argument: str) -> bool:
    """Whether the module, or what nnx makes of it, is in a returned value."""
    if isinstance(function, ast.Lambda):
        returns: list[ast.expr] = [function.body]
    else:
        returns = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value]
    carriers = {argument}
    for node in ast.walk(function):  # new = nnx.state(model); graphdef, state = nnx.split(model)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            name = source.dotted(node.value.func)
            uses = any(isinstance(a, ast.Name) and a.id == argument for a in node.value.args)
            if uses and name.startswith("flax.nnx."):
                for target in node.targets:
                    carriers |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
    return any(_carries(source, value, carriers) for value in returns)


def _carries(source: Source, value: ast.expr, carriers: set[str]) -> bool:
    if isinstance(value, ast.Name):
        return value.id in carriers
    if isinstance(value, ast.Tuple | ast.List):
        return any(_carries(source, part, carriers) for part in value.elts)
    if isinstance(value, ast.Dict):
        return any(_carries(source, part, carriers) for part in value.values)
    if isinstance(value, ast.Call):  # nnx.state(model), but not model(x)
        return any(_carries(source, part, carriers) for part in value.args)
    return False
