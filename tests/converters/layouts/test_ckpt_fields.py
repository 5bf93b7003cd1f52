"""What lies beside a model: fields of a TrainState, collisions, holes, several states in a tree."""

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import checkpoint, convert, layouts, mapping
from maxmig.converters.layouts import Hints
from maxmig.converters.leaves import DiskPath, Hole, Leaf
from maxmig.converters.mapping import files, values
from maxmig.converters.storage import kv

INT = Leaf((), "int32", 4)


def leaf(*shape: int) -> Leaf:
    return Leaf(shape, "float32", 4 * int(np.prod(shape)))


def model(shape: tuple[int, ...] = (2, 3)) -> dict[DiskPath, Leaf | Hole]:
    """Two layers, one parameter of the root."""
    blocks = {(f"layers_{i}", "kernel"): leaf(*shape) for i in range(2)}
    return {**blocks, ("scale",): leaf(3)}


def below(*keys: str | int, **more: Any) -> dict[DiskPath, Leaf | Hole]:
    return {(*keys, *path): found for path, found in model(**more).items()}


STATE: dict[DiskPath, Leaf | Hole] = {
    **below("params"),
    **below("opt_state", 0, "mu"),
    ("opt_state", 0, "count"): INT,
    ("opt_state", 1): Hole.NONE,
    ("step",): INT,
}
FIELDS: dict[DiskPath, Leaf | Hole] = {
    **below("ema_params"),
    ("dynamic_scale", "fin_steps"): INT,
    ("dynamic_scale", "scale"): leaf(),
    ("metrics", "loss", "total"): leaf(),
    ("batch_stats", "norm", "mean"): leaf(3),
    **{("counters", f"layers_{i}", "calls"): INT for i in range(2)},
    ("rng",): Leaf((2,), "uint32", 8),
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch):
    """Metadata alone: seen(tree, **options) is a checkpoint of step 1."""
    from maxmig.converters.mapping import assemble
    from maxmig.converters.places import Place

    monkeypatch.setattr(assemble, "_step_number", lambda source: 1)

    def view(tree: dict[DiskPath, Leaf | Hole], metadata: Any = None, **options: Any):
        options.setdefault("opened", object())
        return checkpoint.view(Place(Path("x"), None, 1), tree, metadata or {}, **options)

    return view


def there_and_back(seen, tree, to="nnx", **options):
    """The tree of the result, and that of the way back."""
    made = mapping.plan(seen(tree), to, **options)
    there = {**made.leaves, **made.holes}
    back = mapping.plan(seen(there, made.metadata), "linen")
    return there, {**back.leaves, **back.holes}


def test_fields_are_kept_beside_the_model_and_come_back(seen):
    there, back = there_and_back(seen, STATE | FIELDS, scan=True)
    assert back == STATE | FIELDS
    assert {str(path[0]) for path in there} == {
        *("model", "opt_state", "step", "ema_params", "dynamic_scale", "metrics", "rng"),
    }
    stacked = {"/".join(map(str, p[1:])): x.shape for p, x in there.items() if p[0] == "ema_params"}
    assert stacked == {"layers/kernel/value": (2, 2, 3), "scale/value": (3,)}  # as the parameters
    assert ("dynamic_scale", "scale") in there and ("metrics", "loss", "total") in there
    assert ("model", "norm", "mean", "value") in there
    assert ("model", "layers", "calls", "value") in there


def test_a_note_tells_what_is_not_sure_and_a_file_decides(seen):
    tree = STATE | {("metrics", "loss", "total"): leaf(), ("counters", "n"): INT}
    told = " ".join(mapping.plan(seen(tree), "nnx").notes)
    assert "metrics: kept beside" in told and "`fields: {metrics: model}`" in told
    assert "counters: taken for variables" in told and "`fields: {counters: beside}`" in told
    said = {"maxmig_map": 1, "rules": [], "fields": {"counters": "beside", "metrics": "model"}}
    document = files.parse(said, "f")
    assert files.parse(document.data(), "f") == document
    made = mapping.plan(seen(tree), "nnx", map_file=document)
    assert {("counters", "n"), ("model", "metrics_like")} & made.leaves.keys() == {
        ("counters", "n")
    }
    assert ("model", "loss", "total", "value") in made.leaves
    with pytest.raises(errors.ConfigError, match="fields: gone: no such field"):
        mapping.plan(
            seen(STATE), "nnx", map_file=files.parse({**said, "fields": {"gone": "model"}}, "f")
        )
    with pytest.raises(errors.ConfigError, match="expected beside or model, got 'out'"):
        files.parse({**said, "fields": {"x": "out"}}, "f")


COLLISION = {("params", "m", "kernel"): leaf(2, 3), ("stats", "m", "kernel"): leaf(3)}


def test_a_collision_says_what_to_do_and_one_collection_can_be_meant(seen):
    with pytest.raises(errors.ConvertError) as caught:
        mapping.plan(seen(COLLISION), "nnx")
    told = str(caught.value)
    for part in (
        "params/m/kernel and stats/m/kernel",
        "rename: {collection: stats, path: m/kernel}",
        "drop: {collection: stats, path: m/kernel}",
        "fields: {stats: beside}",
    ):
        assert part in told
    only = {"collection": "stats", "path": "m/kernel"}
    rename = files.parse(
        {"maxmig_map": 1, "rules": [{"rename": only, "to": "m/kernel_stats"}]}, "f"
    )
    there, back = there_and_back(seen, COLLISION, map_file=rename)
    assert {path[:2] for path in there} == {("m", "kernel"), ("m", "kernel_stats")}
    assert back == COLLISION
    for which in (only, {"collection": "stats"}, {"collection": "stats", "regex": ".*kernel"}):
        gone = files.parse({"maxmig_map": 1, "rules": [{"drop": which, "reason": "unused"}]}, "f")
        assert gone.rules[0].data()["drop"] == which
        made = mapping.plan(seen(COLLISION), "nnx", map_file=gone)
        assert set(made.leaves) == {("m", "kernel", "value")}
    with pytest.raises(errors.ConfigError, match="expected a path: or regex: in the collection"):
        files.parse({"maxmig_map": 1, "rules": [{"rename": {"collection": "a"}, "to": "b"}]}, "f")


def test_holes_in_collections_come_back(seen):
    holes: dict[DiskPath, Leaf | Hole] = {
        ("params", "empty"): Hole.EMPTY_DICT,
        ("params", "head", "bias"): Hole.NONE,
        ("params", "head", "kernel"): leaf(3, 4),
        ("opt_state", 0, "mu", "empty"): Hole.EMPTY_DICT,
        ("opt_state", 0, "mu", "head", "bias"): Hole.NONE,
        ("opt_state", 0, "mu", "head", "kernel"): leaf(3, 4),
        ("batch_stats", "norm"): Hole.EMPTY_DICT,
    }
    there, back = there_and_back(seen, STATE | holes)
    assert not any(isinstance(found, Hole) for found in there.values())
    assert back == STATE | holes
    assert "params/empty ({})" in " ".join(seen(STATE | holes).notes)
    placeholder = STATE | {("params", "scale"): Hole.NONE}
    with pytest.raises(
        errors.ConvertError, match=r"params/scale: a hole \(None\) instead of an array"
    ):
        seen(placeholder)


@pytest.fixture(scope="module")
def gan(tmp_path_factory) -> Path:
    """Two states in one tree."""
    import orbax.checkpoint as ocp

    def state(number: float) -> dict[str, Any]:
        held = {"Dense_0": {"kernel": np.full((2, 3), number, np.float32)}}
        return {"params": held, "opt_state": [{"mu": held}, None], "step": np.int32(number)}

    place = tmp_path_factory.mktemp("states") / "gan"
    ocp.PyTreeCheckpointer().save(place, {"generator": state(1), "critic": state(2)})
    return place


def test_one_of_several_states_in_a_tree(gan, tmp_path, maxmig):
    code, _, told = maxmig("ckpt", "convert", gan, tmp_path / "n", "--to", "nnx")
    assert code == 4 and "CHECKPOINT/critic" in told and "'generator' (linen-state)" in told
    code, out, _ = maxmig("ckpt", "inspect", gan / "critic", "--tree")
    assert code == 0 and "linen-state" in out and "generator" not in out
    code, out, _ = maxmig("ckpt", "inspect", gan / "critic", "--chunks")
    assert code == 0 and "critic/step" in out and "generator" not in out
    convert.run(convert.plan(checkpoint.read(gan / "critic"), "nnx"), tmp_path / "n")
    convert.run(convert.plan(checkpoint.read(tmp_path / "n"), "linen"), tmp_path / "l")
    assert maxmig("ckpt", "diff", gan / "critic", tmp_path / "l")[0] == 0
    assert maxmig("ckpt", "diff", gan / "generator", tmp_path / "l")[0] == 1
    assert maxmig("ckpt", "verify", tmp_path / "n", "--against", gan / "critic")[0] == 0
    code, _, told = maxmig("ckpt", "inspect", gan / "judge")
    assert code == 4 and "its top-level keys are: critic, generator" in told
    for gone in (tmp_path / "gone" / "x", tmp_path / "n" / "9"):
        assert "there is nothing" in maxmig("ckpt", "inspect", gone)[2]


def test_one_of_several_states_is_verified_alone(gan, tmp_path, maxmig):
    mine = shutil.copytree(gan, tmp_path / "gan")
    code, out, _ = maxmig("ckpt", "verify", mine / "critic")
    assert code == 3 and "of 3 nothing is recorded (critic/" in out and "generator" not in out
    assert maxmig("ckpt", "verify", mine / "critic", "--record")[0] == 0
    assert maxmig("ckpt", "verify", mine / "critic")[0] == 0
    code, out, _ = maxmig("ckpt", "verify", mine)
    assert code == 3 and "3 arrays hold" in out and "of 3 nothing is recorded (generator/" in out
    assert maxmig("ckpt", "verify", mine / "judge")[0] == 4


@pytest.mark.parametrize("folder", ["", "ckpts/9", "ckpts/9/items"])
def test_one_of_several_states_in_a_bucket(folder, gan, tmp_path, maxmig):
    """Behind a tree, a step, its items, and the directory of steps."""
    url = f"memory://states/{uuid.uuid4()}"
    store = kv.directory(url)
    for file in gan.rglob("*"):
        if file.is_file():
            name = file.relative_to(gan).as_posix()
            above = folder.removesuffix("/items") if name == "_CHECKPOINT_METADATA" else folder
            store.write("/".join(filter(None, (above, name))), file.read_bytes()).result()
    if folder:
        store.write("ckpts/9/commit_success.txt", b"done").result()
    found = [f"{url}/{folder}".rstrip("/")]
    if folder.endswith("items"):
        found += [f"{url}/ckpts/9", f"{url}/ckpts"]
    for place in found:
        assert maxmig("ckpt", "diff", f"{place}/critic", gan / "critic")[0] == 0
        assert maxmig("ckpt", "diff", f"{place}/generator", gan / "critic")[0] == 1
        code, out, _ = maxmig("ckpt", "inspect", f"{place}/critic", "--chunks")
        assert code == 0 and "linen-state" in out and "critic/step" in out
        assert "generator/step" not in out
        assert maxmig("ckpt", "verify", f"{place}/critic")[0] == 3
        code, _, told = maxmig("ckpt", "hash", f"{place}/judge")
        assert code == 4 and "its top-level keys are: critic, generator" in told
    made = tmp_path / "made"
    assert maxmig("ckpt", "convert", f"{found[-1]}/critic", made, "--to", "nnx")[0] == 0
    assert maxmig("ckpt", "verify", made, "--against", gan / "critic")[0] == 0
    wrong = [f"memory://states/{uuid.uuid4()}/x", f"{url}/7"]
    for gone in (*wrong, f"{url}/ckpts/7") if folder else wrong:
        code, _, told = maxmig("ckpt", "hash", gone)
        assert code == 4 and "there is no complete step" in told


DEEP = {("params", "params", "kernel"): leaf(2, 3), ("params", "Dense_0", "kernel"): leaf(3, 2)}


def test_a_layout_that_can_read_the_tree_can_be_said(seen):
    with pytest.raises(errors.ConvertError, match="no known layout fits"):
        seen(DEEP)
    found = seen(DEEP, layout="linen-variables")
    assert set(found.leaves) == {"params/params/kernel", "params/Dense_0/kernel"}
    assert "although" in found.why[0]
    for layout in ("nnx", "linen"):
        with pytest.raises(errors.ConvertError, match=f"expected layout '{layout}'"):
            seen(DEEP, layout=layout)
    with pytest.raises(errors.ConvertError, match="expected layout 'linen-params'"):
        seen(STATE, layout="linen-params")


def test_a_parameter_that_is_called_value(seen):
    tree = {("params", "value"): leaf(3), ("params", "Dense_0", "value"): leaf(2, 3)}
    with pytest.raises(errors.ConvertError, match="say it in a mapping file"):
        layouts.get("linen-variables").read(tree)
    said = Hints(unboxed=frozenset({"Dense_0"}))
    assert set(seen(tree, hints=said).leaves) == {"params/value", "params/Dense_0/value"}


AVERAGE, CALLS = below("x"), {("x", "calls", "n"): INT}


@pytest.mark.parametrize("key", ["aux", "aux%", "aux%%", "optimizer"])
@pytest.mark.parametrize("field", [{("x",): leaf(3)}, AVERAGE, CALLS])
def test_fields_with_names_of_sections_come_back(seen, key, field):
    tree = STATE | {(key, *path[1:]): found for path, found in field.items()}
    section = f"{key}%" if key.startswith("aux") else key
    view = seen(tree)
    assert view.layout.name == "linen-state"
    assert {path.partition("/")[0] for path in view.leaves if section in path} == {section}
    there, back = there_and_back(seen, tree)
    assert back == tree and key in {path[0] for path in there}
    same = mapping.plan(view, "linen-state")
    assert {**same.leaves, **same.holes} == tree
    dropped = files.parse({"rules": [{"drop": {"collection": section}, "reason": "no"}]}, "f")
    made = mapping.plan(view, "nnx-optimizer", map_file=dropped)
    assert key not in {path[0] for path in made.leaves}


@pytest.mark.parametrize(("key", "to"), [("model", "nnx-optimizer"), ("optimizer", "nnx-pair")])
def test_a_field_cannot_be_where_the_state_is(seen, key, to):
    view = seen(STATE | {(key, *path[1:]): found for path, found in AVERAGE.items()})
    assert view.layout.name == "linen-state"
    told = rf"{key}: layout '{to}' keeps .*model.*`- {{drop: {{collection: {key}}}"
    with pytest.raises(errors.ConvertError, match=told):
        mapping.plan(view, to)
    made = mapping.plan(view, "linen-state")
    assert (key, "scale") in made.leaves


def test_half_a_state_is_not_guessed(seen):
    tree = {path: found for path, found in STATE.items() if path[0] != "step"}
    with pytest.raises(errors.ConvertError, match="no known layout fits"):
        seen(tree | below("model"))


@pytest.mark.parametrize("field", ["ema_params", "rng"])
def test_a_layout_of_two_items_has_no_place_for_fields(seen, field):
    tree = STATE | {path: found for path, found in FIELDS.items() if path[0] == field}
    with pytest.raises(errors.ConvertError, match=f"{field}: layout 'tunix' has the items"):
        mapping.plan(seen(tree), "tunix")
    rule = {"drop": {"collection": field}, "reason": "not used"}
    said = files.parse({"maxmig_map": 1, "rules": [rule]}, "f")
    made = mapping.plan(seen(tree), "tunix", map_file=said)
    assert {path[0] for path in made.leaves} == {"model_params", "optimizer_state"}


def test_bare_parameters_come_back_bare(seen):
    tree: dict[DiskPath, Leaf | Hole] = {("Dense_0", "kernel"): leaf(2, 3)}
    assert there_and_back(seen, tree)[1] == tree


def kinds(items: Path) -> dict[str, str]:
    """What Orbax calls each value."""
    told = json.loads((items / "_METADATA").read_text())["tree_metadata"]
    return {path: value["value_metadata"]["value_type"] for path, value in told.items()}


@pytest.mark.parametrize("step", [np.int32(1), np.ones((), np.int32), 1])
def test_numbers_and_tuples_come_back_as_such(tmp_path, step):
    import orbax.checkpoint as ocp

    held = {"Dense_0": {"kernel": np.ones((2, 3), np.float32)}}
    state = {"count": np.int32(3), "mu": held, "skip_state": (), "list": []}
    tree = {"params": held, "opt_state": [state, ()], "step": step}
    ocp.PyTreeCheckpointer().save(tmp_path / "s", tree)
    convert.run(convert.plan(checkpoint.read(tmp_path / "s"), "nnx"), tmp_path / "n")
    made = convert.run(convert.plan(checkpoint.read(tmp_path / "n"), "linen"), tmp_path / "l")
    assert kinds(made / "items") == kinds(tmp_path / "s")
    assert set(kinds(tmp_path / "s").values()) >= {"Tuple", "List", "scalar"}


@pytest.mark.parametrize("to", ["nnx", "linen-state"])
def test_averages_with_a_level_of_their_own_follow_the_parameters(seen, to):
    tree: dict[DiskPath, Leaf | Hole] = {
        **below("params", "params"),
        **below("ema_params", "params"),
        ("ema_params", "params", "box", "kernel", "value"): leaf(2),
        ("params", "params", "box", "kernel", "value"): leaf(2),
        ("batch_stats", "norm", "mean"): leaf(3),
        ("step",): INT,
    }
    source = seen(tree)
    assert "ema_params/layers_0/kernel" in source.leaves and source.form.levels == {"ema_params"}
    made = mapping.plan(source, to, scan=True)
    assert ("ema_params", "layers", "kernel") in made.leaves
    back = mapping.plan(
        seen({**made.leaves, **made.holes}, made.metadata),
        "linen" if to == "nnx" else "maxtext-linen",
    )
    assert {**back.leaves, **back.holes} == tree


def test_averages_of_a_cell_come_back_with_its_zeros(seen, monkeypatch):
    monkeypatch.setattr(values, "check_zeros", lambda *_: None)
    gates = {(g, "kernel"): leaf(4, 4) for g in ("hn", "hr", "hz")}
    gates |= {(g, "kernel"): leaf(3, 4) for g in ("in", "ir", "iz")}
    gates |= {(g, "bias"): leaf(4) for g in ("hn", "in", "ir", "iz")}
    tree: dict[DiskPath, Leaf | Hole] = {("step",): INT}
    tree |= {(top, "cell", *at): x for top in ("params", "ema_params") for at, x in gates.items()}
    there, back = there_and_back(seen, tree)
    assert ("ema_params", "cell", "dense_i", "kernel", "value") in there
    assert back == tree


def test_what_was_said_of_the_source_is_remembered_for_the_proof(tmp_path, maxmig):
    import orbax.checkpoint as ocp

    one = np.ones((2, 3), np.float32)
    for name, tree, words in (
        ("deep", {"params": {"n": one}, "Dense_0": {"n": one}}, ("--from", "linen-variables")),
        ("box", {"m": {"value": one}, "Dense_0": {"n": one}}, ("--map", tmp_path / "map.yml")),
    ):
        (tmp_path / "map.yml").write_text("maxmig_map: 1\nboxed: [m]\n")
        ocp.PyTreeCheckpointer().save(tmp_path / name, {"params": tree})
        made = tmp_path / f"{name}_nnx"
        command = ("ckpt", "convert", tmp_path / name, made, "--to", "nnx")
        assert maxmig(*command)[0] == 4
        assert maxmig(*command, *words)[0] == 0
        assert maxmig("ckpt", "verify", made, "--against", tmp_path / name)[0] == 0
        (tmp_path / name).rename(tmp_path / "away")
        ocp.PyTreeCheckpointer().save(tmp_path / name, {"params": {**tree, "Dense_0": {"n": -one}}})
        assert maxmig("ckpt", "verify", made, "--against", tmp_path / name)[0] == 1
        (tmp_path / "away").rename(tmp_path / f"{name}_away")
