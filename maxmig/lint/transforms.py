"""Traps of JAX's transformations that take an NNX module as if it were an array."""

import ast
from collections.abc import Iterator

from maxmig.lint.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Found = Iterator[tuple[ast.AST, str]]

_JITS = {"jax.jit", "jax.pmap"}
_GRADS = {"jax.grad", "jax.value_and_grad"}


def jit_drops_state(source: Source) -> Found:
    """Functions under jax.jit that take a module and do not return it or its state."""
    for node, function, name in _transformed(source, _JITS):
        for argument in _modules(source, function, _fixed(source, node, function)):
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
        first = _differentiated(source, node, function)
        for argument in _modules(source, function, set()):
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
            name = transform(source, decorator)
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


def transform(source: Source, decorator: ast.expr) -> str:
    """`jax.jit` of `@jax.jit`, `@jax.jit(...)` and `@functools.partial(jax.jit, ...)`."""
    decorator = _meant(source, decorator)
    if isinstance(decorator, ast.Call):
        if source.dotted(decorator.func) in ("functools.partial", "partial"):
            return source.dotted(decorator.args[0]) if decorator.args else ""
        return source.dotted(decorator.func)
    return source.dotted(decorator)


def _meant(source: Source, decorator: ast.expr) -> ast.expr:
    """`partial(jax.jit, ...)` where a name stands for it."""
    if isinstance(decorator, ast.Name) and decorator.id not in source.names:
        for node in source.walk(ast.Assign):
            named = any(isinstance(t, ast.Name) and t.id == decorator.id for t in node.targets)
            made = node.value.func if named and isinstance(node.value, ast.Call) else None
            if source.dotted(made) in ("functools.partial", "partial"):
                return node.value
    return decorator


def _differentiated(source: Source, node: ast.AST, function: Function) -> list[str]:
    """The arguments that jax.grad takes the gradient of; none where that cannot be told."""
    call = _meant(source, node) if isinstance(node, ast.expr) else node
    names, value = _arguments(function), 0
    for keyword in call.keywords if isinstance(call, ast.Call) else ():
        if keyword.arg == "argnums":
            try:
                value = ast.literal_eval(keyword.value)
            except ValueError:
                return []
    wanted = value if isinstance(value, tuple | list) else (value,)
    return [names[i] for i in wanted if isinstance(i, int) and i < len(names)]


def _fixed(source: Source, node: ast.AST, function: Function) -> set[str]:
    """Arguments that are static, or all where that cannot be told."""
    call = _meant(source, node) if isinstance(node, ast.expr) else node
    names = _arguments(function)
    found: set[str] = set()
    for keyword in call.keywords if isinstance(call, ast.Call) else ():
        if keyword.arg not in ("static_argnums", "static_argnames", None):
            continue
        try:
            value = ast.literal_eval(keyword.value)
            for each in value if isinstance(value, tuple | list) else (value,):
                found.add(each if isinstance(each, str) else names[each])
        except (ValueError, TypeError, IndexError):
            return set(names)
    return found


def _arguments(function: Function) -> list[str]:
    a = function.args
    return [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]


def _modules(source: Source, function: Function, fixed: set[str]) -> list[str]:
    """Arguments that are NNX modules: by annotation, or by being called.

    What is no module cannot be called there: a function is no argument of JAX, unless it is static.
    """
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
            or (arg.annotation is None and arg.arg in called - fixed)
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
