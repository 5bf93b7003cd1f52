"""MaxText's own files are read as they are; what maxmig cannot do is refused by name."""

import re
from pathlib import Path

import pytest
import yaml

from maxmig import config
from maxmig.config import maxtext_keys, schema
from maxmig.config.foreign import ANYTHING
from maxmig.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "maxtext_configs"
FILES = sorted(FOLDER.glob("*.yml"))

# From here on a value that asks for something; the default is the first neutral one.
OTHER = {bool: lambda value: not value, int: lambda value: value + 7, float: lambda v: v + 7.0}


def ids(path: Path) -> str:
    return path.stem


def test_there_are_files_to_read() -> None:
    assert len(FILES) == 15


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_read_as_they_are(path: Path) -> None:
    cfg = config.load(path)
    told = yaml.safe_load(path.read_text("utf-8"))
    effective = cfg.flat()
    for key, value in told.items():
        if key in schema.KEYS:
            assert effective[key] == (tuple(value) if isinstance(value, list) else value), key
        else:
            assert maxtext_keys.TABLE[key].accepts(value), key
            assert ANYTHING not in maxtext_keys.TABLE[key].neutral, key
    nnx = "nnx" in path.stem
    assert cfg.flags.stage is (config.Stage.NNX if nnx else config.Stage.LINEN)
    assert cfg.train.global_batch(1) == told["global_batch_size_to_train_on"]


def test_the_file_wins_over_its_model() -> None:
    cfg = config.load(FOLDER / "gpt3_linen_scan.yml")
    assert (cfg.run.model_name, cfg.model.num_decoder_layers, cfg.model.vocab_size) == (
        "gpt3-52k",
        3,
        256,
    )
    assert [link.value for link in cfg.origin("vocab_size").chain] == [32000, 1024, 256]


def test_other_families_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    own = (FOLDER / "mixtral_linen_scan.yml").read_text("utf-8")
    own = own.replace("decoder_block: mixtral", "decoder_block: deepseek")
    path.write_text(own.replace("shared_experts: 0", "shared_experts: 1"), "utf-8")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert (
        f"{path}:6: decoder_block: maxmig has no family 'deepseek'; the families it has are "
        "llama2, gpt3 and mixtral" in text
    )
    assert re.search(
        rf"{path}:\d+: shared_experts: 1 is refused: maxmig's mixture of experts has no such", text
    )


@pytest.mark.parametrize(
    "key", sorted(key for key, row in maxtext_keys.TABLE.items() if ANYTHING not in row.neutral)
)
def test_neutral_is_accepted_and_anything_else_is_not(key: str) -> None:
    row = maxtext_keys.TABLE[key]
    assert row.reason and all(map(row.accepts, row.neutral))
    odd = OTHER.get(type(row.neutral[0]), lambda value: "odd")(row.neutral[0])
    if len(row.neutral) == 1:
        assert not row.accepts(odd)
    assert not row.accepts("odd")
    with pytest.raises(ConfigError) as caught:
        config.load("tiny_llama2", [f"{key}=odd"])
    assert str(caught.value) == (
        f"command line: {key}: odd is refused: {row.reason}. This MaxText key is accepted at "
        f"{row.accepted} only"
    )


def test_neutral_values_have_no_effect() -> None:
    plain = config.load("tiny_llama2")
    overrides = [
        "shared_experts=0",
        "megablox=false",
        "quantization=",
        "quantization=none",
        "attention=dot_product",
    ]
    assert config.load("tiny_llama2", overrides) == plain


def test_the_last_link_decides(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text("shared_experts: 8\n")
    with pytest.raises(ConfigError, match=r"c\.yml:1: shared_experts: 8 is refused"):
        config.load(path)
    assert config.load(path, ["shared_experts=0"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("enable_indexer", None),
        ("megablox", 1),  # a boolean is a boolean
        ("shared_experts", True),
        ("lora", {"enable_lora": True}),
        ("lora", {"other": 1}),
        ("lora", "x"),
        ("quantization", "int8"),
        ("weight_sparsity_n", 2),
        ("partial_rotary_factor", 0.5),
        ("engram_layers", (1,)),
        ("hardware", "abacus"),
    ],
)
def test_not_neutral(key: str, value: object) -> None:
    row = maxtext_keys.TABLE.get(key)
    assert row is None or not row.accepts(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora", {}),
        ("lora", {"enable_lora": False, "lora_rank": 0}),
        ("dpo", {"algo": "dpo", "max_prompt_length": 17}),
        ("capacity_factor", -1),
        ("quantization", None),
        ("checkpoint_todelete_subdir", "None"),
        ("hardware", "tpu"),
        ("sa_block_q", 99),
        ("engram_layers", ()),
        ("lora", {"lora_restore_path": None}),
    ],
)
def test_neutral(key: str, value: object) -> None:
    assert maxtext_keys.TABLE[key].accepts(value)
