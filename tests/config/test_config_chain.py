"""The chain base < model < parents < file < key=value, and what it remembers."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxmig import config
from maxmig.config import chain, schema
from maxmig.errors import ConfigError

ALL = sorted(
    path.relative_to(chain.PACKAGED).with_suffix("").as_posix()
    for path in chain.PACKAGED.rglob("*.yml")
)


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(path: str | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_base_says_every_key_and_the_schema_the_same() -> None:
    base = {e.key: e.value for e in chain.reader.read(chain.PACKAGED / "base.yml", "base")}
    assert set(base) == set(schema.KEYS)
    cfg = config.load()
    for key, (_, field) in schema.KEYS.items():
        if key in schema.DERIVED:
            assert base[key] is None
        elif key != "logical_axis_rules":
            assert cfg.flat()[key] == field.default, key


@pytest.mark.parametrize("name", ALL)
def test_every_packaged_file_loads_and_says_how_to_run_it(name: str) -> None:
    config.load(name)
    text = (chain.PACKAGED / f"{name}.yml").read_text("utf-8")
    head = text[: text.index("\n\n")]
    assert "maxmig " in head and f"configs/{name.split('/')[0]}"[:7] in head


@pytest.mark.parametrize("name", ALL)
def test_round_trip_of_the_effective_values(name: str, tmp_path: Path) -> None:
    cfg = config.load(name)
    back = config.load(write(tmp_path, "dump.yml", cfg.dump()))
    assert back.flat() == cfg.flat()
    assert back == cfg and hash(back) == hash(cfg) and back.digest == cfg.digest


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40),
    rate=st.floats(0, 1, allow_nan=False),
    steps=st.integers(1, 2**31 - 1),
    mask=st.lists(st.sampled_from(["bias", ".*norm", "a b", "'", '"', ": #"]), max_size=3),
)
def test_round_trip_of_any_values(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    rate: float,
    steps: int,
    mask: list[str],
) -> None:
    cfg = config.load("tiny_llama2").replace(
        prompt=prompt, learning_rate=rate, steps=steps, adamw_mask=mask
    )
    path = write(tmp_path_factory.mktemp("rt"), "dump.yml", cfg.dump())
    assert config.load(path).flat() == cfg.flat()


def test_later_links_win_and_all_are_remembered(tmp_path: Path) -> None:
    write(tmp_path, "grand.yml", "steps: 11\nlearning_rate: 1.0\n")
    write(tmp_path, "sub/parent.yml", "base_config: ../grand.yml\nsteps: 12\nhead_dim: 64\n")
    path = write(
        tmp_path, "c.yml", "base_config: sub/parent.yml\nmodel_name: llama2-7b\nsteps: 13\n"
    )
    cfg = config.load(path, ["steps=14", "steps=15"])
    assert cfg.train.steps == 15
    origin = cfg.origin("steps")
    assert (origin.source, origin.line, origin.value, origin.place) == (
        "command line",
        None,
        15,
        "command line",
    )
    assert [link.value for link in origin.chain] == [150_001, 11, 12, 13, 14, 15]
    assert origin.chain[3].place == f"{path}:3"
    # the model is above the base and below every file of the user
    assert cfg.model.head_dim == 64
    assert [link.value for link in cfg.origin("head_dim").chain] == [128, 128, 64]
    assert cfg.origin("head_dim").chain[1].place == "configs/models/llama2-7b.yml:10"
    assert cfg.model.base_emb_dim == 4096


def test_origin_of_a_derived_key() -> None:
    origin = config.load("tiny_llama2").origin("emb_dim")
    assert origin.value == 32
    assert origin.place == "derived from base_emb_dim (configs/tiny_llama2.yml:7)"
    assert [link.value for link in origin.chain] == [None, 32]


def test_origin_of_an_unknown_key() -> None:
    with pytest.raises(ConfigError, match="there is no key 'stepz'; did you mean steps"):
        config.load().origin("stepz")


def test_model_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, "models/mine.yml", "base_emb_dim: 48\n")
    path = write(tmp_path, "c.yml", "base_num_decoder_layers: 3\nmodel_name: mine\n")
    cfg = config.load(path)
    assert (cfg.model.emb_dim, cfg.model.num_decoder_layers) == (48, 3)
    assert cfg.replace(base_mlp_dim=8).model.emb_dim == 48


def test_base_as_a_parent_does_not_hide_the_model(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yml", "base_config: base.yml\nmodel_name: llama2-7b\n")
    assert config.load(path).model.emb_dim == 4096


@pytest.mark.parametrize("nothing", ["null", "none", "''", ""])
def test_no_parent(tmp_path: Path, nothing: str) -> None:
    assert config.load(write(tmp_path, "c.yml", f"base_config: {nothing}\nsteps: 2\n"))


def test_parent_among_our_own(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yml", "base_config: bench/tiny.yml\nsteps: 2\n")
    assert config.load(path).model.emb_dim == 64


def test_circle_of_parents(tmp_path: Path) -> None:
    a = write(tmp_path, "a.yml", "base_config: b.yml\n")
    b = write(tmp_path, "b.yml", "base_config: a.yml\n")
    assert refused(a) == f"base_config goes round in a circle: {a} -> {b} -> {a}"


def test_missing_parent(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yml", "steps: 1\nbase_config: none.yml\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith(f"{path}:2: base_config: no such file: ")


@pytest.mark.parametrize("name", ["demo", "demo.yml", "configs/demo.yml", "bench/tiny"])
def test_names_of_our_own_work_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.load(name).origin("run_name").source.startswith("configs/")


@pytest.mark.parametrize("name", ["none.yml", "../demo", "models/../../x", "base", ""])
def test_files_that_are_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "base":
        assert config.load(name) == config.load()
        return
    with pytest.raises(ConfigError) as caught:
        config.load(name)
    assert caught.value.exit_code == 4


def test_all_unknown_keys_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yml", "stepz: 1\nlerning_rate: 2\n")
    text = refused(path, "xyzzy=1", "steps=abc")
    assert text.splitlines()[0] == "4 problems in the configuration:"
    assert f"  - {path}:1: unknown key 'stepz'; did you mean steps?" in text
    assert f"  - {path}:2: unknown key 'lerning_rate'; did you mean learning_rate" in text
    assert "  - command line: unknown key 'xyzzy'\n" in text
    assert "  - command line: steps: expected an integer" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lama2-7b",
            "command line: model_name: there is no model 'lama2-7b'; maxmig has default, "
            "gpt3-175b, gpt3-22b, gpt3-52k, gpt3-6b, llama2-13b, llama2-70b, llama2-7b, "
            "mixtral-8x22b, mixtral-8x7b; did you "
            "mean llama2-7b or llama2-70b or llama2-13b?",
        ),
        ("../x", "command line: model_name: expected a plain name, got '../x'"),
        ("''", "command line: model_name: expected a plain name, got ''"),
        ("true", "command line: model_name: expected text, got the boolean true"),
    ],
)
def test_model_names(name: str, message: str) -> None:
    assert refused(None, f"model_name={name}") == message


def test_base_config_is_for_files() -> None:
    assert refused(None, "base_config=demo.yml") == (
        "command line: base_config can only stand in a file of its own, neither in a model's "
        "file nor on the command line"
    )


def test_rules_are_replaced_where_they_stand(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "c.yml",
        "logical_axis_rules:\n  - [embed, fsdp]\n  - [extra, null]\n  - [embed, [data]]\n",
    )
    base, mine = config.load().sharding, config.load(path).sharding
    names = [name for name, _ in base.logical_axis_rules]
    place = names.index("embed")
    assert mine.logical_axis_rules[place : place + 2] == (
        ("embed", ("fsdp",)),
        ("embed", ("data",)),
    )
    others = [rule for rule in mine.logical_axis_rules if rule[0] != "embed"]
    assert others[:-1] == [rule for rule in base.logical_axis_rules if rule[0] != "embed"]
    assert others[-1] == ("extra", ())


def test_rules_can_replace_all(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "c.yml",
        "logical_axis_rules: [[embed, fsdp]]\noverride_logical_axis_rules: true\n",
    )
    assert config.load(path).sharding.logical_axis_rules == (("embed", ("fsdp",)),)


def test_replace() -> None:
    cfg = config.load("tiny_llama2", ["steps=7"])
    new = cfg.replace(base_emb_dim=64, mlp_activations=["gelu"], model_name="llama2-7b")
    assert (new.model.emb_dim, new.model.mlp_activations, new.train.steps) == (64, ("gelu",), 7)
    assert new.origin("base_emb_dim").source == "replace()"
    assert new.model.mlp_dim == 64  # the file is above the model
    assert cfg.model.emb_dim == 32
    with pytest.raises(ConfigError, match=r"replace\(\): unknown key 'stepz'"):
        cfg.replace(stepz=1)
    with pytest.raises(ConfigError, match="num_query_heads and num_kv_heads"):
        cfg.replace(base_num_query_heads=3)
    with pytest.raises(ConfigError, match="head_dim: expected an integer"):
        cfg.replace(head_dim=8.0)


def test_immutable_and_comparable() -> None:
    a, b = config.load("tiny_llama2"), config.load("tiny_llama2", ["steps=10"])
    assert a == b and hash(a) == hash(b) and a.digest == b.digest and len(a.digest) == 64
    assert a != a.replace(steps=11) and a.digest != a.replace(steps=11).digest
    assert a != "tiny_llama2"
    with pytest.raises(ValueError, match="frozen"):
        a.train.steps = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        a.train = b.train  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(a)).origin("steps") == a.origin("steps")


def test_derived_of_several_groups() -> None:
    cfg = config.load("tiny_llama2")
    assert cfg.schedule_steps == 10
    assert cfg.replace(learning_rate_schedule_steps=100).schedule_steps == 100
    assert cfg.moment_dtype == "float32"
    assert cfg.replace(mu_dtype="bfloat16").moment_dtype == "bfloat16"


def test_loading_is_light() -> None:
    code = (
        "import sys; from maxmig import config; config.load('demo');"
        "print(sorted({'jax', 'flax', 'numpy', 'orbax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
