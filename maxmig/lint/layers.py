"""Traps of single layers: no twin, other numbers, other names."""

import ast
from collections.abc import Iterator

from maxmig.lint.source import Source

Found = Iterator[tuple[ast.AST, str]]

# Names of flax.linen that flax.nnx does not have (flax 0.12.12) -> what to do.
NO_TWIN = {
    "ConvLSTMCell": "write the cell on nnx.Conv",
    "ConvLocal": "write it on jax.lax.conv_general_dilated_local",
    "MGUCell": "write the cell on nnx.Linear",
    "Fp8DotGeneralOp": "quantise with qwix",
    "Fp8DirectDotGeneralOp": "quantise with qwix",
    "Fp8Einsum": "quantise with qwix",
    "NANOOFp8DotGeneralOp": "quantise with qwix",
    "share_scope": "share the module itself",
    "map_variables": "transform the state before nnx.merge",
    "remat_scan": "nest nnx.scan and nnx.remat",
    "intercept_methods": "wrap the module, or its class",
    "add_metadata_axis": "nnx.transform_metadata",
}
_OPTIONS = {
    "dot_general_cls": "dot_general",
    "force_fp32_for_softmax": "an attention_fn of your own",
    "force_float32_reductions": "float32 inputs, or promote_dtype",
    "qk_attn_weights_einsum_cls": "an attention_fn of your own",
    "attn_weights_value_einsum_cls": "an attention_fn of your own",
}
_NORMS = {"LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm", "InstanceNorm"}
_NARROW = ("bfloat16", "float16")
_FUNCTION = ast.FunctionDef


def no_nnx_twin(source: Source) -> Found:
    """Layers, transforms and options of Linen without a counterpart."""
    for node in [*source.walk(ast.Attribute), *source.walk(ast.Name)]:
        if isinstance(getattr(node, "ctx", None), ast.Store):
            continue
        name = source.dotted(node)
        module, _, last = name.rpartition(".")
        if module == "flax.linen" and last in NO_TWIN:
            yield node, f"flax.nnx has no {last}: {NO_TWIN[last]}"
    for call in source.walk(ast.Call):
        name = source.dotted(call.func)
        if not name.startswith("flax.linen."):
            continue
        for keyword in call.keywords:
            if keyword.arg in _OPTIONS:
                last = name.rpartition(".")[2]
                yield (
                    call,
                    f"the NNX twin of {last} has no {keyword.arg}: {_OPTIONS[keyword.arg]}",
                )


def lossy_layer(source: Source) -> Found:
    """GRUCell, whose hn/bias has no home."""
    for node in [*source.walk(ast.Attribute), *source.walk(ast.Name)]:
        if source.dotted(node) in ("flax.linen.GRUCell", "flax.nnx.GRUCell"):
            yield node, "nnx.GRUCell has no place for the Linen cell's hn/bias"


def nested_names(source: Source) -> Found:
    """`nn.Dense(4)(nn.relu(nn.Dense(8)(x)))`: the outer one is Dense_0."""
    yield from _constructed_before(source)
    for outer in source.walk(ast.Call):
        name = _unnamed_layer(source, outer)
        if not name:
            continue
        for inner in ast.walk(ast.Tuple(elts=[*outer.args], ctx=ast.Load())):
            if isinstance(inner, ast.Call) and _unnamed_layer(source, inner) == name:
                last = name.rpartition(".")[2]
                yield (
                    outer,
                    f"of these nested layers the outer one is {last}_0, though it is applied last: "
                    "a port by numbers exchanges their weights",
                )
                break


def _constructed_before(source: Source) -> Found:
    """`a = nn.Conv(...)`, `b = nn.Conv(...)`, `a(b(x))`: a is Conv_0, though it is applied last."""
    for function in (f for c in source.linen_classes.values() for f in source.walk(_FUNCTION, c)):
        made: dict[str, tuple[int, str]] = {}
        for node in source.walk(ast.Assign, function):
            name = _layer(source, node.value)
            if name and isinstance(node.targets[0], ast.Name):
                made[node.targets[0].id] = (node.lineno, name)
        for outer in source.walk(ast.Call, function):
            mine = _of(outer, made)
            inner = ast.walk(ast.Tuple(elts=[*outer.args], ctx=ast.Load()))
            others = [of for call in inner if (of := _of(call, made))]
            if mine and any(name == mine[1] and line > mine[0] for line, name in others):
                yield (
                    outer,
                    f"`{ast.unparse(outer.func)}` is constructed first and applied last: it has "
                    f"the lower number of these {mine[1].rpartition('.')[2]} layers, and a port "
                    "by the order of calls exchanges their weights",
                )


def _of(call: ast.AST, made: dict[str, tuple[int, str]]) -> tuple[int, str] | None:
    named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    return made.get(call.func.id) if named else None  # type: ignore[attr-defined]


def norm_promotion(source: Source) -> Found:
    """nnx norms with dtype=bfloat16 and no promote_dtype."""
    for call in source.walk(ast.Call):
        module, _, last = source.dotted(call.func).rpartition(".")
        if module != "flax.nnx" or last not in _NORMS:
            continue
        given = {k.arg: k.value for k in call.keywords}
        if "promote_dtype" in given or None in given or "dtype" not in given:
            continue
        value = given["dtype"]
        kind = value.value if isinstance(value, ast.Constant) else source.dotted(value)
        if str(kind).rpartition(".")[2] in _NARROW:
            yield (
                call,
                f"since flax 0.12.1 nnx.{last} casts to {str(kind).rpartition('.')[2]} before it "
                "normalises, where Linen normalises in float32: other numbers",
            )


def _unnamed_layer(source: Source, call: ast.Call) -> str:
    """The Linen class of `nn.Dense(8)(x)` without a name; empty for all else."""
    return _layer(source, call.func)


def _layer(source: Source, made: ast.AST) -> str:
    """The Linen class of `nn.Dense(8)` without a name; empty for all else."""
    if not isinstance(made, ast.Call) or any(k.arg in ("name", None) for k in made.keywords):
        return ""
    name = source.dotted(made.func)
    last = name.rpartition(".")[2]
    own = name in source.linen_classes
    return name if own or (name.startswith("flax.linen.") and last[:1].isupper()) else ""
