"""Bad input through the command line: the exit code, the text, and that nothing is lost."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import runs

from maxmig.checkpoint.store import Store
from maxmig.config.flags import Stage

TINY = str(helpers.ROOT / "configs" / "tiny_llama2.yml")
GPT3 = str(helpers.ROOT / "configs" / "tiny_gpt3.yml")


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


@pytest.fixture
def refuse(run: Callable[..., Any]) -> Callable[..., str]:
    """Runs a command line that must fail with a code, plainly and with --json; returns its text."""

    def check(code: int, *argv: str, says: tuple[str, ...] = ()) -> str:
        plain = run(*argv)
        assert plain.code == code, plain
        assert plain.out == ""
        errors = [line for line in plain.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, plain.err
        text = plain.err[plain.err.index("error: ") + len("error: ") :].rstrip()
        assert "Traceback" not in plain.err
        for part in says:
            assert part in text, f"{part!r} is not in: {text}"
        json = run(*argv, "--json")
        assert json.code == code
        told = json.json["error"]
        assert told["exit_code"] == code
        assert text.startswith(told["message"].split("\n")[0])
        assert told["type"] in ("ConfigError", "DataError", "CheckpointError", "PreflightError")
        return text

    return check


def snapshot(folder: Path) -> dict[str, str]:
    """Everything in a folder, by content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


CONFIGURATIONS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "unknown key": (
        TINY,
        ("base_emb_dmi=64",),
        ("base_emb_dmi", "did you mean", "base_emb_dim", "command line"),
    ),
    "wrong type": (TINY, ("steps=many",), ("steps", "expected an integer", "many")),
    "not whole": (TINY, ("steps=1.5",), ("steps", "expected an integer", "1.5")),
    "no key=value": (TINY, ("steps",), ("key=value", "'steps'")),
    "heads": (
        TINY,
        ("base_num_query_heads=4", "base_num_kv_heads=3"),
        ("num_query_heads", "num_kv_heads", "4", "3"),
    ),
    "positions": (
        GPT3,
        ("max_target_length=128",),
        ("max_target_length", "trainable_position_size", "128", "64"),
    ),
    "vocabulary": (
        TINY,
        ("dataset_type=text", "vocab_size=100"),
        ("vocab_size 100 is smaller", "256", "tokenizer_type: byte"),
    ),
    "mesh": (
        TINY,
        ("ici_fsdp_parallelism=3",),
        ("the mesh does not fit the devices", "ici_fsdp_parallelism=3", "1 device"),
    ),
    "batch not whole": (
        TINY,
        ("per_device_batch_size=2.5",),
        ("per_device_batch_size", "2.5"),
    ),
    "global batch": (
        TINY,
        ("global_batch_size_to_train_on=7",),
        ("global_batch_size_to_train_on is 7", "makes 2"),
    ),
    "remat policy": (TINY, ("remat_policy=minimul",), ("remat_policy", "minimul", "minimal")),
    "native decoder without NNX": (
        TINY,
        ("enable_nnx=false", "pure_nnx=false", "pure_nnx_decoder=true"),
        ("pure_nnx_decoder", "enable_nnx"),
    ),
    "pure NNX without NNX": (
        TINY,
        ("enable_nnx=false", "pure_nnx=true", "pure_nnx_decoder=false"),
        ("pure_nnx", "enable_nnx"),
    ),
    "both without NNX": (
        TINY,
        ("enable_nnx=false", "pure_nnx=true", "pure_nnx_decoder=true"),
        ("pure_nnx", "enable_nnx"),
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_settings(name: str, refuse: Callable[..., str], tmp_path: Path, wing: Stage) -> None:
    config, overrides, says = CONFIGURATIONS[name]
    flags = [] if "pure_nnx=" in str(overrides) else helpers.flags(wing)
    where = f"base_output_directory={tmp_path / 'out'}"
    refuse(2, "train", config, where, *overrides, *flags, says=says)
    assert not (tmp_path / "out").exists()


def test_a_missing_configuration(refuse: Callable[..., str], tmp_path: Path) -> None:
    text = refuse(4, "train", str(tmp_path / "nowhere.yml"))
    assert "nowhere.yml: no such file" in text


DATA: dict[str, tuple[bytes | None, tuple[str, ...], tuple[str, ...]]] = {
    "missing": (None, (), ("train_files", "corpus.txt")),
    "empty": (b"", (), ("corpus.txt", "empty")),
    "binary": (bytes(range(256)) * 40, (), ("corpus.txt",)),
    "too small": (b"a few words", (), ("9 tokens", "less than one batch", "2 rows of 16")),
    "no such pattern": (None, ("train_files=/nowhere/*.txt",), ("train_files", "/nowhere/*.txt")),
    "not json": (b"{]\n", ("dataset_type=jsonl",), ("corpus.txt", "1")),
    "not parquet": (b"text", ("dataset_type=parquet",), ("corpus.txt",)),
}


@pytest.mark.parametrize("name", DATA)
def test_data(name: str, refuse: Callable[..., str], tmp_path: Path, wing: Stage) -> None:
    content, overrides, says = DATA[name]
    given = ("dataset_type=text", f"train_files={tmp_path / 'corpus.txt'}", "add_eos=false")
    argv = runs.arguments(tmp_path, *given, *overrides, stage=wing)
    if content is not None:
        (tmp_path / "corpus.txt").write_bytes(content)
    refuse(4, "train", TINY, *argv, says=says)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Stage], Path]]:
    """Folders with a run of two steps, one for each wing."""
    made: dict[Stage, Path] = {}

    def make(stage: Stage) -> Path:
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp(f"trained-{stage.value}")
            runs.train(runs.config(made[stage], "steps=2", "log_period=1", stage=stage))
        return made[stage]

    return make


def bad_steps(root: Path) -> Path:
    return root / "out" / "run" / "checkpoints"


def save_other(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Replaces the checkpoint by one of other leaves."""
    directory = bad_steps(root)
    cfg = runs.config(root)
    target = helpers.Runtime(cfg).abstract
    with Store(directory) as store:
        restored = store.restore(None, target)
    flat = dict(restored.flat)
    change(flat)
    shutil.rmtree(directory)
    with Store(directory, asynchronous=False) as store:
        store.save(1, flat, metadata={"stage": "linen"}, data_state=restored.data_state)


def drop(flat: dict[str, Any]) -> None:
    del flat["params/decoder/layers/mlp/wo/kernel"]
    del flat["params/decoder/decoder_norm/scale"]


def add(flat: dict[str, Any]) -> None:
    flat["params/decoder/layers/mlp/wi_2/kernel"] = np.zeros((16, 2, 32), np.float32)


def half(root: Path) -> None:
    (bad_steps(root) / "1" / "items" / "manifest.ocdbt").unlink()


def without_tree(root: Path) -> None:
    shutil.rmtree(bad_steps(root) / "1" / "items")


def cut_off(root: Path) -> None:
    """Whole by its names, but not in its bytes."""
    for path in (bad_steps(root) / "1" / "items").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_data_state(root: Path) -> None:
    (bad_steps(root) / "1" / "iter" / "metadata").write_text("{")


CHECKPOINTS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "another shape": (
        None,
        ("base_mlp_dim=64",),
        ("does not match the model", "mlp/wi_0/kernel", "[16, 2, 64]", "[16, 2, 32]"),
    ),
    "another scan layout": (
        None,
        ("scan_layers=false",),
        ("layers stacked", "maxmig ckpt convert", "--no-scan"),
    ),
    "another scan axis": (None, ("param_scan_axis=0",), ("axis 1", "axis 0", "--scan-axis 0")),
    "another optimizer": (None, ("opt_type=sgd",), ("extra", "opt_state", "load_parameters_path")),
    "other data": (None, ("max_target_length=8",), ("max_target_length: 16 in the state, 8 now",)),
    "without two leaves": (
        lambda root: save_other(root, drop),
        (),
        ("2 leaves", "missing", "decoder/layers/mlp/wo/kernel", "decoder/decoder_norm/scale"),
    ),
    "with one leaf more": (
        lambda root: save_other(root, add),
        (),
        ("1 leaf differs", "extra", "decoder/layers/mlp/wi_2/kernel", "load_parameters_path"),
    ),
    "cut off": (cut_off, (), ("checkpoints",)),
    "data state": (no_data_state, (), ("iter", "data loader's state")),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_that_do_not_fit(
    name: str, refuse: Callable[..., str], trained: Any, tmp_path: Path, wing: Stage
) -> None:
    change, overrides, says = CHECKPOINTS[name]
    if name.startswith(("with one", "without")) and wing is Stage.NNX:
        source = trained(Stage.LINEN)  # either wing reads either layout
    else:
        source = trained(wing)
    root = tmp_path / "root"
    shutil.copytree(source, root)
    if change:
        change(root)
    before = snapshot(root)
    argv = runs.arguments(root, "steps=4", f"train_files={source / 'corpus.jsonl'}", stage=wing)
    refuse(4, "train", TINY, *argv, *overrides, says=says)
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("change", "says"), [(half, ("manifest.ocdbt",)), (without_tree, ("holds no tree",))]
)
def test_only_a_half_written_checkpoint(
    change: Callable[[Path], None],
    says: tuple[str, ...],
    refuse: Callable[..., str],
    trained: Any,
    tmp_path: Path,
    wing: Stage,
) -> None:
    """What a killed save leaves is another thing, and no hindrance: see test_loop_signals."""
    root = tmp_path / "root"
    shutil.copytree(trained(wing), root)
    change(root)
    before = snapshot(root)
    argv = runs.arguments(root, stage=wing)
    for verb in ("eval", "generate"):
        refuse(4, verb, TINY, *argv, says=("checkpoints", "half-written (1)"))
    away = f"To go on from the start, move {bad_steps(root) / '1'} away"
    refuse(4, "train", TINY, *argv, "steps=4", says=(away, *says))
    assert snapshot(root) == before


@pytest.mark.parametrize("verb", ["eval", "generate"])
def test_no_checkpoint(verb: str, refuse: Callable[..., str], tmp_path: Path) -> None:
    argv = runs.arguments(tmp_path)
    refuse(4, verb, TINY, *argv, says=("no ", "checkpoints", "Train it first", "--checkpoint"))
    refuse(4, verb, TINY, *argv, "run_name=", says=("--checkpoint DIR", "run_name"))
    nowhere = str(tmp_path / "nowhere")
    refuse(4, verb, TINY, *argv, "--checkpoint", nowhere, says=("nowhere", "no such directory"))
    (tmp_path / "empty").mkdir()
    refuse(4, verb, TINY, *argv, "--checkpoint", str(tmp_path / "empty"), says=("empty",))


@pytest.mark.parametrize("key", ["load_full_state_path", "load_parameters_path"])
def test_nothing_to_start_from(key: str, refuse: Callable[..., str], tmp_path: Path) -> None:
    argv = runs.arguments(tmp_path, f"{key}={tmp_path / 'nowhere'}")
    refuse(4, "train", TINY, *argv, says=("nowhere", "no such directory"))


def test_an_output_directory_that_is_a_file(
    refuse: Callable[..., str], tmp_path: Path, wing: Stage
) -> None:
    argv = runs.arguments(tmp_path, "steps=2", stage=wing)
    (tmp_path / "out").write_text("mine")
    refuse(4, "train", TINY, *argv, says=("base_output_directory", str(tmp_path / "out")))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_metrics_file_that_is_something_else(refuse: Callable[..., str], tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\nof many days\n")
    argv = runs.arguments(tmp_path, "steps=2", f"metrics_file={notes}")
    refuse(4, "train", TINY, *argv, says=(f"{notes}:1", "expected a file of metrics", "my notes"))
    assert notes.read_text() == "my notes\nof many days\n"


def without_privileges(*argv: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """A command line for which permissions count, whoever runs the tests."""
    env = helpers.environment()
    before: list[str] = []
    if os.getuid() == 0:
        if not (setpriv := shutil.which("setpriv")):
            pytest.skip("root is refused nothing, and there is no setpriv")
        before = [setpriv, "--bounding-set", "-dac_override,-dac_read_search"]
    return subprocess.run(
        [*before, sys.executable, "-m", "maxmig", *argv],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_no_permission_to_write(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    done = without_privileges("train", TINY, *runs.arguments(tmp_path, "steps=1"), cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "base_output_directory" in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(out.iterdir()) == []


def test_no_permission_to_read(tmp_path: Path, trained: Any) -> None:
    shutil.copytree(trained(Stage.LINEN), tmp_path / "root")
    closed = bad_steps(tmp_path / "root")
    closed.chmod(0)
    argv = runs.arguments(tmp_path / "root")
    done = without_privileges("eval", TINY, *argv, "--json", cwd=tmp_path)
    closed.chmod(0o755)
    assert done.returncode == 4, done.stderr
    assert str(closed) in done.stderr and "permission" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert '"exit_code": 4' in done.stdout
