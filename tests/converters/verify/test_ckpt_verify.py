"""`ckpt verify` and the functions behind it: what holds is proved, what does not is named."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from memory_storage import Memory

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.accounting import Accounting
from maxmig.converters.compare import verify
from maxmig.converters.leaves import Hole, Leaf
from maxmig.converters.ops import Same, Stack, Take
from maxmig.converters.transfers import Conversion, Made, Transfer

RNG = np.random.default_rng(2)


def leaf_of(array):
    return Leaf(array.shape, array.dtype.name, array.nbytes)


@pytest.fixture
def planned():
    """A conversion of every kind of transfer, with its right result: (conversion, arrays)."""
    stack = RNG.normal(size=(6, 3, 4)).astype(np.float32)
    apart = [RNG.normal(size=(2, 4)).astype(np.float32) for _ in range(3)]
    source = Memory(
        {"stack": stack, "same": stack[0], "step": np.int32([5])[0]}
        | {f"apart{i}": array for i, array in enumerate(apart)},
        {"stack": (2, 3, 4)},
    )
    made = np.full(4, 7, np.float32)
    result = {
        ("same",): stack[0],
        ("narrow",): stack[1].astype(np.float16),
        ("together",): np.stack(apart, 1),
        ("step",): np.uint32(5),
        ("made",): made,
        **{("layers", i): stack[:, i].copy() for i in range(3)},
    }

    def transfer(target, op, *sources, cast=False):
        return Transfer(target, leaf_of(result[target]), tuple((x,) for x in sources), op, cast)

    source.arrays["row",] = stack[1]
    transfers = (
        transfer(("same",), Same(), "same"),
        transfer(("narrow",), Same(), "row", cast=True),
        transfer(("together",), Stack(1), "apart0", "apart1", "apart2"),
        transfer(("step",), Same(), "step", cast=True),
        *(transfer(("layers", i), Take(1, i), "stack") for i in range(3)),
    )
    holes = {("opt", 0): Hole.NONE}
    constant = Made(("made",), leaf_of(made), lambda: made, "a constant")
    conversion = Conversion(
        source, "nnx", transfers, Accounting((), ()), made=(constant,), holes=holes
    )
    return conversion, result


class Result(Memory):
    """A result, with a hole."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.holes = {("opt", 0): Hole.NONE}

    def tree(self):
        return {**super().tree(), **self.holes}


def test_a_right_result(planned):
    conversion, arrays = planned
    for mode in ("full", "sample"):
        report = verify.conversion(conversion, Result(arrays), mode=mode)
        assert report and report.exit_code == 0, report.lines
    counts = verify.conversion(conversion, Result(arrays)).counts
    assert counts == {"=": 6, "~": 2}
    lines = {line.path: line for line in verify.conversion(conversion, Result(arrays)).lines}
    assert lines["narrow"].detail == "the exact cast float32 -> float16"
    assert lines["step"].detail == "the exact cast int32 -> uint32"
    assert verify.conversion(conversion, Result(arrays), mode="none").lines == ()


def test_the_source_is_decoded_once(planned):
    conversion, arrays = planned
    conversion.storage.decoded.clear()
    verify.conversion(conversion, Result(arrays))
    assert set(conversion.storage.decoded.values()) == {1}


@pytest.mark.parametrize(
    ("path", "index"),
    [
        (("same",), (2, 1)),
        (("narrow",), (0, 3)),
        (("together",), (1, 2, 0)),
        (("step",), ()),
        (("made",), (3,)),
        (("layers", 1), (5, 3)),
    ],
)
def test_one_wrong_number_is_named(planned, path, index):
    conversion, arrays = planned
    wrong = np.array(arrays[path])
    wrong[index] += 1
    report = verify.conversion(conversion, Result(arrays | {path: wrong}))
    (line,) = [line for line in report.lines if line.sign == "*"]
    assert report.exit_code == 1 and line.path == "/".join(map(str, path))
    assert (line.first, line.differing) == (index, 1)
    with pytest.raises(errors.DifferenceError, match=line.path):
        report.require("the result")


def test_swapped_layers_are_named(planned):
    conversion, arrays = planned
    one, two = ("layers", 0), ("layers", 2)
    report = verify.conversion(conversion, Result(arrays | {one: arrays[two], two: arrays[one]}))
    assert {line.path for line in report.lines if line.sign == "*"} == {"layers/0", "layers/2"}


def test_structure_is_held_against_the_plan(planned):
    conversion, arrays = planned
    other = dict(arrays)
    del other["same",]
    other["extra",] = np.ones(2)
    other["made",] = np.ones(4, np.float64)
    other["together",] = arrays["together",][:1]
    report = verify.conversion(conversion, Result(other))
    found = {(line.sign, line.path) for line in report.lines if line.sign not in "=~"}
    assert found == {("-", "same"), ("+", "extra"), ("*", "made"), ("*", "together")}
    bare = Result(arrays)
    bare.holes = {}
    report = verify.conversion(conversion, bare)
    assert [line.path for line in report.lines if line.sign == "-"] == ["opt/0"]
    assert report.exit_code == 1


def test_an_unreadable_result_is_4(planned):
    conversion, arrays = planned
    damaged = Result(arrays, damaged={(("together",), (0, 0, 0)), (("made",), (0,))})
    report = verify.conversion(conversion, damaged)
    assert report.exit_code == 4
    assert {line.path for line in report.lines if line.sign == "!"} == {"together", "made"}
    with pytest.raises(errors.CheckpointError, match="together"):
        report.require("the result")


def test_a_number_that_does_not_fit_its_cast(planned):
    conversion, arrays = planned
    conversion.storage.arrays["step",] = np.int32(-1)
    report = verify.conversion(conversion, Result(arrays))
    assert [line.path for line in report.lines if line.sign == "!"] == ["step"]


def test_sampled_leaves_are_told(planned):
    conversion, arrays = planned
    large = RNG.normal(size=(2048, 1024)).astype(np.float32)
    conversion.storage.arrays["same",] = large
    conversion.storage.chunks["same",] = (16, 1024)
    first = dataclasses.replace(conversion.transfers[0], leaf=leaf_of(large))
    conversion = dataclasses.replace(conversion, transfers=(first, *conversion.transfers[1:]))
    result = Result(arrays | {("same",): large}, {"same": (16, 1024)})
    report = verify.conversion(conversion, result, sampled={("same",)})
    (line,) = [line for line in report.lines if line.path == "same"]
    assert line.sign == "=" and "of 2,097,152 numbers looked at" in line.detail
    wrong = large.copy()
    wrong[-1, -1] += 1
    result = Result(arrays | {("same",): wrong}, {"same": (16, 1024)})
    assert verify.conversion(conversion, result, sampled={("same",)}).exit_code == 1


# The command, on real files.


@pytest.mark.parametrize(
    "words",
    [
        ("--to", "nnx"),
        ("--to", "nnx", "--no-scan"),
        ("--to", "linen", "--params-only"),
        ("--to", "linen", "--scan-axis", "0"),
    ],
)
def test_a_conversion_is_proved(words, maxmig, source, tmp_path):
    src = source("gpt3_nnx_scan")
    assert maxmig("ckpt", "convert", src, tmp_path / "made", *words)[0] == 0
    code, out, _ = maxmig("ckpt", "verify", tmp_path / "made", "--against", src, "--json")
    told = json.loads(out)
    assert code == 0 and told["holds"] and told["basis"] == "recorded conversion", told
    assert told["compared"] == len(told["lines"]) == len(checkpoint.read(tmp_path / "made").leaves)
    if "--params-only" in words:
        assert any("left out (--params-only)" in note for note in told["notes"])
    code, out, _ = maxmig(
        "ckpt", "verify", tmp_path / "made", "--against", source("gpt3_linen_scan")
    )
    assert code in (1, 4) and "does not hold" in out


def test_a_leaf_that_the_record_does_not_leave_out(source, tmp_path):
    """What the recorded conversion would have written must be there, holes included."""
    src = checkpoint.read(source("gpt3_linen_scan"))
    planned = mapping.plan(src, "nnx")
    report = verify.conversion(planned, src.storage)
    assert report.exit_code == 1 and {"-", "+"} <= set(report.counts)


def test_without_a_record_paths_are_compared(maxmig, source):
    """A checkpoint that another program wrote holds itself."""
    src = source("gpt3_linen_scan")
    code, out, _ = maxmig("ckpt", "verify", src, "--against", src)
    assert code == 0 and "(by canonical paths)" in out and " holds " in out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("verify",), 2, "DST"),
        (("verify", "{src}", "--mode", "sample"), 2, "--against"),
        (("verify", "{src}", "--against", "{src}", "--record"), 2, "--record and --against"),
        (("verify", "{src}", "--against", "{tmp}/none"), 4, "there is nothing"),
        (("verify", "{tmp}/none", "--against", "{src}"), 4, "there is nothing"),
        (("verify", "{src}", "--against", "{src}", "--mode", "some"), 2, "invalid choice"),
        (("hash", "{tmp}/none"), 4, "there is nothing"),
        (("hash", "{src}", "--step", "7"), 4, "expected step 7"),
        (("hash",), 2, "PATH"),
        (("diff", "{src}", "{src}", "--differ", "{tmp}/no/such"), 4, "can be written"),
    ],
)
def test_bad_command_lines(words, code, told, maxmig, source, tmp_path):
    places = {"tmp": tmp_path, "src": source("gpt3_linen_scan")}
    found, out, err = maxmig("ckpt", *(word.format(**places) for word in words))
    assert (found, out) == (code, "") and told in err


def test_hash_on_the_command_line(maxmig, source, tmp_path):
    src = source("gpt3_nnx_scan")
    assert maxmig("ckpt", "convert", src, tmp_path / "made", "--to", "nnx", "--no-scan")[0] == 0
    lines = [maxmig("ckpt", "hash", place)[1] for place in (src, tmp_path / "made")]
    digests = {line.split()[0] for line in lines}
    assert len(digests) == 1 and len(digests.pop()) == 64
    code, out, _ = maxmig("ckpt", "hash", src, "--only", "params", "--leaves")
    assert code == 0 and "params/decoder/layers_1/mlp/wi/kernel  float32[" in out
    assert out.splitlines()[-1].split()[0] != lines[0].split()[0]
    told = json.loads(maxmig("ckpt", "hash", src, "--json")[1])
    assert told["digest"] == lines[0].split()[0]
    assert told["sections"].keys() == {"params", "opt_state", "step", "aux"}
    made = tmp_path / "params"
    assert maxmig("ckpt", "convert", src, made, "--to", "linen", "--params-only")[0] == 0
    code, out, err = maxmig("ckpt", "hash", made, "--only", "opt")
    assert (code, out) == (3, "") and "no leaf" in err


def test_lists_in_files(maxmig, source, tmp_path):
    """One file for each kind of finding, and one for all."""
    a, b = source("gpt3_linen_scan"), source("gpt3_nnx_scan")
    kinds = ("match", "differ", "missing-on-src", "missing-on-dst", "renamed", "error")
    files = {kind: tmp_path / kind for kind in (*kinds, "combined")}
    words = [word for kind, file in files.items() for word in (f"--{kind}", file)]
    code, out, _ = maxmig("ckpt", "diff", a, b, *words)
    assert code == 1
    lists = {kind: file.read_text().splitlines() for kind, file in files.items()}
    shown = out.splitlines()[:-1]
    assert [line.split("  ")[0] for line in shown] == lists.pop("combined")
    assert sum(map(len, lists.values())) == len(shown)
    assert "step" in lists["match"] and lists["error"] == [] and len(lists["differ"]) > 10
    assert all(path.startswith("aux/") for path in lists["missing-on-src"])


def test_a_renamed_stack_is_found_in_another_scan_layout(maxmig, source, converted, tmp_path):
    """Layers apart in A, stacked and renamed in B."""
    import orbax.checkpoint as ocp

    src = checkpoint.read(source("gpt3_linen_noscan"))
    stacked = checkpoint.read(converted(source("gpt3_linen_noscan"), "linen", scan=True))
    tree = {}
    for path, at in stacked.places.items():
        if path.startswith("params/"):
            node = tree
            for key in (*at[:-1],):
                node = node.setdefault("gate" if key == "wi" else key, {})
            node[at[-1]] = stacked.storage.read(at)
    ocp.PyTreeCheckpointer().save(tmp_path / "renamed", tree)
    code, out, _ = maxmig("ckpt", "diff", src.place.items, tmp_path / "renamed", "--only", "params")
    assert code == 1
    renamed = [line for line in out.splitlines() if line.startswith("> ")]
    assert any(
        "params/decoder/layers/mlp/wi/kernel  is params/decoder/layers/mlp/gate/kernel" in line
        for line in renamed
    ), out
    assert not [line for line in out.splitlines() if line.startswith("* ")]


def test_damage_after_a_conversion_is_found_by_every_verb(maxmig, source, tmp_path):
    src = source("gpt3_linen_scan")
    made, bad = tmp_path / "made", tmp_path / "bad"
    words = ("--to", "nnx", "--copy", "--no-ocdbt")
    assert maxmig("ckpt", "convert", src, made, *words)[0] == 0
    shutil.copytree(made, bad)
    chunks = [file for file in bad.rglob("model.token_embedder.embedding/**/*") if file.is_file()]
    name = next(file for file in chunks if file.name not in ("zarr.json", ".zarray"))
    raw = bytearray(name.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    name.write_bytes(bytes(raw))
    for verb in (("verify", bad, "--against", src), ("diff", src, bad)):
        code, out, _ = maxmig("ckpt", *verb)
        assert code in (1, 4) and "token_embedder" in out
    good = maxmig("ckpt", "hash", made)[1].split()[0]
    code, out, err = maxmig("ckpt", "hash", bad)
    assert (code == 4 and "token_embedder" in err) or out.split()[0] != good


def test_random_state_that_a_way_back_derives(maxmig, source, converted):
    """It is not the source's, which is said with the reason; the rest is proved."""
    src = source("gpt3_nnx_scan")
    between = converted(src, "linen-state")
    back = converted(between, "maxtext-linen")
    code, out, _ = maxmig("ckpt", "verify", back, "--against", between)
    assert code == 0 and "(by recorded conversion)" in out
    code, out, err = maxmig("ckpt", "verify", back, "--against", src)
    wrong = [line for line in out.splitlines() if line[:2] in ("* ", "- ", "+ ", "! ")]
    derived = "random state, derived from (seed 0, this path, step 9)"
    assert code == 1 and wrong and all(derived in line for line in wrong)
    assert all(line.startswith("* aux/") for line in wrong)
    assert f"{len(wrong)} leaves are random state" in err and "all other leaves hold" in err
    digests = {maxmig("ckpt", "hash", place)[1].split()[0] for place in (src, back)}
    assert len(digests) == 1
    code, out, err = maxmig("ckpt", "verify", between, "--against", back)
    assert code == 0, out
