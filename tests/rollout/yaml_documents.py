"""Random YAML documents, written by hand-made rules rather than by a YAML library.

They have what people's files have: comments, blank lines, quotes, block scalars, nested collections
in block and flow style, anchors, aliases and merges, either line end, with and without a last one.
"""

from hypothesis import strategies as st

FLAGS = ("enable_nnx", "pure_nnx", "pure_nnx_decoder")

_names = st.sampled_from(
    [
        "steps",
        "run_name",
        "a",
        "model_name",
        "quant-x",
        "mesh.axes",
        "learning_rate",
        "Z9",
        "nested",
    ]
)
_comments = st.sampled_from(
    ["# note", "#", "# pure_nnx: false", "#\ttab: [", "# ünïcode ☃ {", "#'"]
)
_plain = st.sampled_from(
    ["1", "-2.5e-3", "text", "two words", "null", "~", "True", "no", "a:b", "x#y", "é", "12:30", ""]
)
_quoted = st.sampled_from(
    ["'it''s'", '"tab\\t"', "'# no comment'", '"{not: flow}"', "'pure_nnx: false'", '"\ttab"', "''"]
)
_booleans = st.sampled_from(
    ["true", "false", "True", "False", "TRUE", "FALSE", "yes", '"false"', ""]
)


@st.composite
def _flow(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["scalar", "list", "map"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(st.sampled_from(["1", "x", "'q, r'", "null", "true", '"]"']))
    parts = draw(st.lists(_flow(depth - 1), max_size=3))
    space = draw(st.sampled_from(["", " "]))
    if kind == "list":
        return "[" + space + f",{space}".join(parts) + "]"
    keys = ["k", "pure_nnx", "l"][: len(parts)]
    pairs = [f"{key}: {part}" for key, part in zip(keys, parts, strict=True)]
    return "{" + space + ", ".join(pairs) + space + "}"


@st.composite
def _value(draw: st.DrawFn, anchors: list[str]) -> list[str]:
    """The lines of a value; the first stands behind the colon."""
    kinds = ["plain", "quoted", "flow", "literal", "folded", "map", "list", "below"]
    kind = draw(st.sampled_from([*kinds, "alias"] if anchors else kinds))
    if kind == "alias":
        return [f" *{draw(st.sampled_from(anchors))}"]
    mark = ""
    if draw(st.integers(0, 5)) == 0:
        anchors.append(f"n{len(anchors)}")
        mark = f" &{anchors[-1]}"
    if kind in ("plain", "quoted", "flow"):
        text = draw({"plain": _plain, "quoted": _quoted, "flow": _flow()}[kind])
        return [f"{mark} {text}" if text else mark]
    if kind in ("literal", "folded"):
        head = draw(st.sampled_from(["|", "|-", "|+"] if kind == "literal" else [">", ">-"]))
        lines = draw(st.lists(st.sampled_from(["text", "pure_nnx: x", "", "# hash"]), min_size=1))
        return [f"{mark} {head}", "  first", *(f"  {line}" if line else "" for line in lines)]
    if kind == "below":
        return [mark, f"  {draw(_plain.filter(bool))}"]
    scalars = draw(st.lists(_plain.filter(bool) | _quoted, min_size=1, max_size=3))
    if kind == "list":
        indent = draw(st.sampled_from(["", "  "]))
        return [mark, *(f"{indent}- {item}" for item in scalars)]
    indent = draw(st.sampled_from(["  ", "    "]))
    keys = ["k", "pure_nnx", "other"]
    return [mark, *(f"{indent}{key}: {item}" for key, item in zip(keys, scalars, strict=False))]


@st.composite
def block(draw: st.DrawFn) -> str:
    """A document of `key: value` lines."""
    names = draw(st.lists(_names, unique=True, max_size=5))
    names += draw(st.lists(st.sampled_from(FLAGS), unique=True))
    names = draw(st.permutations(names))
    indent = draw(st.sampled_from(["", "", "", "  "]))
    lines: list[str] = draw(st.sampled_from([[], [], ["---"], ["%YAML 1.1", "---"]]))[:]
    anchors: list[str] = []
    for name in names:
        lines += draw(st.lists(_comments.map(lambda c: indent + c) | st.just(""), max_size=2))
        if name in FLAGS:
            value = [f" {draw(_booleans)}".rstrip()]
            if draw(st.integers(0, 7)) == 0:
                anchors.append(f"f{len(anchors)}")
                value = [f" &{anchors[-1]}{value[0]}"]
            elif anchors and draw(st.integers(0, 7)) == 0:
                value = [f" *{draw(st.sampled_from(anchors))}"]
        else:
            value = draw(_value(anchors))
        quote = draw(st.sampled_from(["", "", "", '"', "'"]))
        block_scalar = value[0].rstrip().endswith(("|", "|-", "|+", ">", ">-"))
        if not block_scalar and draw(st.integers(0, 2)) == 0:
            value[0] += draw(st.sampled_from(["  ", " "])) + draw(_comments)
        lines += [f"{indent}{quote}{name}{quote}:{value[0]}"]
        lines += [indent + line if line else line for line in value[1:]]
    lines += draw(st.lists(_comments | st.just(""), max_size=2))
    if names and draw(st.integers(0, 9)) == 0:
        lines.append("...")
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    last = draw(st.sampled_from([end, end, ""]))
    mark = draw(st.sampled_from(["", "", "", "\ufeff"]))
    return mark + end.join(lines) + last


@st.composite
def flow(draw: st.DrawFn) -> str:
    """A document in braces."""
    names = draw(st.lists(_names, unique=True, max_size=3))
    names += draw(st.lists(st.sampled_from(FLAGS), unique=True))
    names = draw(st.permutations(names))
    quote = draw(st.sampled_from(["", '"']))
    pairs = []
    for name in names:
        text = draw(_booleans.filter(bool) if name in FLAGS else _flow())
        pairs.append(f"{quote}{name}{quote}: {text}")
    end = draw(st.sampled_from(["\n", "\r\n"]))
    if draw(st.booleans()) and pairs:
        notes = [draw(st.sampled_from(["", "", f"  {draw(_comments)}"])) for _ in pairs]
        comma = [","] * (len(pairs) - 1) + [draw(st.sampled_from(["", ","]))]
        rows = [f"  {p}{c}{n}" for p, c, n in zip(pairs, comma, notes, strict=True)]
        return end.join(["{", *rows, "}"]) + draw(st.sampled_from([end, ""]))
    tail = draw(st.sampled_from(["", ","])) if pairs else ""
    return "{" + ", ".join(pairs) + tail + "}" + draw(st.sampled_from([end, ""]))
