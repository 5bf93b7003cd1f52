"""`maxmig ckpt`: exit codes, one JSON document, and texts that say what to do."""

import json
import shutil

import pytest


def test_inspect(maxmig, source):
    code, out, _ = maxmig("ckpt", "inspect", source("gpt3_nnx_scan"), "--depth", 2)
    assert code == 0
    assert "layout     linen: 16 leaves below 'params/params'" in out
    assert "scanned (one stacked tree), layer axis 1" in out
    assert "  mu/  16 arrays" in out


def test_inspect_json(maxmig, source):
    code, out, _ = maxmig(
        "ckpt", "inspect", source("llama2_pre3929nnx_noscan") / "9", "--json", "--tree"
    )
    told = json.loads(out)
    assert (code, told["layout"], told["step"], told["scan_layers"]) == (0, "nnx", 9, False)
    assert told["tree"]["optimizer/step"] == {"shape": [], "dtype": "uint32", "bytes": 4}
    assert told["arrays"] == len(told["tree"])
    assert {section["name"] for section in told["sections"]} == {
        "params",
        "opt_state",
        "aux",
        "step",
    }


def test_inspect_of_an_unknown_layout_still_tells_what_is_there(maxmig, tmp_path):
    import numpy as np
    import orbax.checkpoint as ocp

    ocp.PyTreeCheckpointer().save(tmp_path / "x", {"weights": {"w": np.ones(3, np.float32)}})
    code, out, _ = maxmig("ckpt", "inspect", tmp_path / "x", "--tree")
    assert code == 0 and "unknown: no known layout fits" in out and "w  float32[3]" in out
    code, _, err = maxmig("ckpt", "convert", tmp_path / "x", tmp_path / "y", "--to", "nnx")
    assert code == 4 and "nothing is guessed" in err


def test_convert_and_diff(maxmig, source, tmp_path):
    src = source("gpt3_nnx_scan")
    code, out, _ = maxmig("ckpt", "convert", src, tmp_path / "n", "--to", "nnx", "--no-scan")
    assert code == 0
    assert "taken apart into layers" in out and "written" in out
    assert "note       layer axis 1: the only one on which all stacked parameters agree" in out
    code, out, err = maxmig("ckpt", "diff", source("gpt3_nnx_scan"), tmp_path / "n")
    assert err.startswith("A  ") and f"B  {tmp_path / 'n'}" in err and "layout nnx\n" in err
    assert code == 0 and "= params/decoder/layers/mlp/wi/kernel" in out
    assert "~ step  same after the cast" in out
    other = source("gpt3_linen_scan")
    code, out, _ = maxmig("ckpt", "diff", other, tmp_path / "n", "--only", "params", "--json")
    told = json.loads(out)
    assert code == 1 and told["exit_code"] == 1 and not told["equal"]
    assert told["counts"]["*"] > 0 and told["lines"][0]["path"].startswith("params/")


def test_quiet_tells_results_only(maxmig, source, tmp_path):
    words = ("ckpt", "convert", source("gpt3_linen_scan"), tmp_path / "n", "--to", "nnx", "--quiet")
    _, out, _ = maxmig(*words, "--dry-run")
    assert "route" in out and "dry run" in out  # the plan is the result
    code, out, _ = maxmig(*words)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["verified", "written"]
    diff = ("ckpt", "diff", source("gpt3_linen_scan"), tmp_path / "n", "--quiet")
    assert maxmig(*diff)[2] == ""


def test_dry_run_writes_nothing(maxmig, source, tmp_path):
    src = source("gpt3_linen_scan")
    code, out, _ = maxmig(
        "ckpt", "convert", src, tmp_path / "n", "--to", "nnx", "--dry-run", "--json"
    )
    told = json.loads(out)
    assert code == 0 and told["dry_run"] and told["step_directory"] is None
    assert {row["what"] for row in told["accounting"]} == {"kept", "copied"}
    assert list(tmp_path.iterdir()) == []


def test_nothing_compared_is_3(maxmig, source, tmp_path):
    src = source("gpt3_linen_scan")
    maxmig("ckpt", "convert", src, tmp_path / "p", "--to", "linen", "--params-only")
    code, _, err = maxmig("ckpt", "diff", tmp_path / "p", tmp_path / "p", "--only", "opt")
    assert code == 3 and "nothing was compared" in err


def test_a_side_that_holds_parameters_only(maxmig, source, tmp_path):
    """What is missing is a difference, and what to say is told; not where it is not so."""
    src, made = source("gpt3_linen_scan"), tmp_path / "made"
    maxmig("ckpt", "convert", src, made, "--to", "nnx", "--params-only")
    for words, side in (((src, made), "B"), ((made, src), "A")):
        code, out, err = maxmig("ckpt", "diff", *words)
        assert code == 1 and out.splitlines()[-1].startswith("50 arrays: 16 =, 34 ")
        assert f"{side} holds parameters only" in err and "say --only params" in err
        assert "34 arrays: opt_state, step)" in err
        code, out, err = maxmig("ckpt", "diff", *words, "--only", "params")
        assert code == 0 and "holds parameters only" not in err
    for words in ((src, src), (made, made)):
        code, _, err = maxmig("ckpt", "diff", *words)
        assert code == 0 and "holds parameters only" not in err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("inspect", "{tmp}/none"), 4, "there is nothing"),
        (("inspect", "{tmp}"), 4, "it is empty"),
        (("inspect", "{src}", "--step", "7"), 4, "expected step 7, which is not there"),
        (("convert", "{src}", "{tmp}/x", "--to", "torch"), 2, "got 'torch'"),
        (("convert", "{src}", "{tmp}/x"), 2, "--to"),
        (
            ("convert", "{src}", "{tmp}/x", "--to", "nnx", "--from", "nnx"),
            4,
            "expected layout 'nnx'",
        ),
        (
            ("convert", "{src}", "{tmp}/x", "--to", "nnx", "--no-scan", "--scan-axis", "1"),
            2,
            "contradict",
        ),
        (
            ("convert", "{src}", "{tmp}/x", "--to", "nnx", "--no-scan", "--from-scan-axis", "0"),
            4,
            "cannot be on axis 0",
        ),
        (
            ("convert", "{src}", "{tmp}/x", "--to", "nnx", "--scan-axis", "-1"),
            2,
            "expected a whole number of 0 or more",
        ),
        (
            ("convert", "{src}", "{tmp}/x", "--to", "nnx", "--from-scan-axis", "5", "--no-scan"),
            4,
            "cannot be on axis 5",
        ),
        (("convert", "{src}", "{tmp}/x", "--to", "nnx", "--dtype", ""), 2, "floating-point type"),
        (
            ("convert", "{src}", "{tmp}/x", "--to", "nnx", "--optimizer", "os:getcwd"),
            2,
            "os:getcwd: expected an optax optimizer, or a function without arguments that makes "
            "one; got str",
        ),
        (("verify", "{src}", "--from", "linen"), 2, "--from needs --against"),
        (("diff", "{src}", "{src}", "--bitwise", "--ulp", "1"), 2, "exclude one another"),
        (("diff", "{src}", "{src}", "--rtol", "x"), 2, "expected a number of 0 or more"),
        (("diff", "{src}", "{tmp}/none"), 4, "there is nothing"),
    ],
)
def test_errors(words, code, told, maxmig, source, tmp_path):
    places = {"tmp": tmp_path, "src": source("gpt3_linen_scan")}
    found, out, err = maxmig("ckpt", *(word.format(**places) for word in words))
    assert (found, out) == (code, "") and told in err


def test_any_layer_axis_and_the_way_back(maxmig, source, tmp_path):
    src = source("gpt3_linen_scan")
    made, back = tmp_path / "made", tmp_path / "back"
    assert maxmig("ckpt", "convert", src, made, "--to", "nnx", "--scan-axis", "2")[0] == 0
    assert maxmig("ckpt", "verify", made, "--against", src)[0] == 0
    assert maxmig("ckpt", "convert", made, back, "--to", "linen")[0] == 0
    code, out, _ = maxmig("ckpt", "diff", src, back, "--bitwise")
    assert code == 0, out


@pytest.mark.parametrize(
    "words",
    [
        *(
            ("diff", "{a}", "{b}", f"--{name}", "{a}/9/items/_METADATA")
            for name in ("combined", "match", "differ", "missing-on-src", "missing-on-dst")
        ),
        ("diff", "{a}", "{b}", "--renamed", "{b}/9/items/maxmig.checksums.json"),
        ("diff", "{a}", "{b}", "--error", "{b}/9/new.txt"),
        ("diff", "{a}/9", "{a}/9/items", "--combined", "{link}"),
        ("diff", "{b}", "{b}", "--combined", "{a}/9/items/manifest.ocdbt"),  # of another one
        ("diff", "{a}", "{a}", "--match", "{tmp}/ok.txt", "--differ", "{file}"),
        ("diff", "{a}", "{a}", "--map", "{tmp}/map.yml", "--combined", "{tmp}/map.yml"),
        ("map", "{a}", "--to", "nnx", "--out", "{a}/9/items/manifest.ocdbt"),
        ("map", "--invert", "{tmp}/map.yml", "--out", "{b}/9/_CHECKPOINT_METADATA"),
    ],
)
def test_no_file_of_a_checkpoint_is_written_over(words, maxmig, source, tmp_path):
    for name in "ab":
        shutil.copytree(source("gpt3_linen_scan"), tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "a/9/items/_METADATA")
    (tmp_path / "x.safetensors").write_text("weights")
    (tmp_path / "map.yml").write_text("maxmig_map: 1\nto: nnx\nrules: []\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    named = {"a": tmp_path / "a", "b": tmp_path / "b", "tmp": tmp_path, "link": tmp_path / "link"}
    named["file"] = tmp_path / "x.safetensors"
    code, out, err = maxmig("ckpt", *(word.format(**named) for word in words))
    assert (code, out) == (2, "") and "which is never changed; choose another" in err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_layout_that_is_told_and_one_that_the_other_side_tells(maxmig, tmp_path):
    """A bare tree, of which nothing tells what it is."""
    import numpy as np
    import orbax.checkpoint as ocp

    tree = {"encoder": {"out": {"kernel": np.ones((2, 3), np.float32)}}}
    for name in ("a", "b"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(tmp_path / name, args=ocp.args.PyTreeSave(tree))
        tree["encoder"]["out"]["kernel"] = tree["encoder"]["out"]["kernel"] + 1
    a, b, made, told = (tmp_path / name for name in ("a", "b", "made", "told"))
    assert maxmig("ckpt", "diff", a, b)[0] == maxmig("ckpt", "hash", a)[0] == 4
    assert "--from LAYOUT (of convert, diff, hash, ...)" in maxmig("ckpt", "hash", a)[2]
    words = ("ckpt", "convert", a, made, "--to", "nnx-state", "--from", "linen-params")
    assert maxmig(*words)[0] == 0
    for sides in ((a, made), (made, a)):
        code, out, err = maxmig("ckpt", "diff", *sides)
        assert code == 0, (out, err)
    assert maxmig("ckpt", "diff", b, made)[0] == 1
    code, out, _ = maxmig("ckpt", "hash", a, "--from", "linen-params")
    assert code == 0 and out.split()[0] == maxmig("ckpt", "hash", made)[1].split()[0]
    code, out, _ = maxmig("ckpt", "verify", made, "--against", a, "--from", "linen-params")
    assert code == 0 and "holds" in out
    assert maxmig("ckpt", "verify", made, "--against", a, "--from", "nnx")[0] == 4
    words = ("ckpt", "convert", a, told, "--to", "linen-params", "--from", "linen-params")
    assert maxmig(*words)[0] == 0
    assert maxmig("ckpt", "diff", a, told, "--from", "linen-params")[0] == 0
