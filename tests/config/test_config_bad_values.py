"""Every kind of bad value, with the text that the user reads."""

import re

import pytest

from maxmig import config
from maxmig.config import maxtext_keys, schema
from maxmig.errors import ConfigError

LINE = re.compile(r"\.yml:\d+")
REMAT = (
    "none, full, minimal, minimal_with_context, save_dot_with_context_except_mlp, "
    "save_dot_except_mlpwi, save_dot_except_mlp, save_qkv_proj, save_out_proj"
)
ACTIVATIONS = "a list (one of gelu, linear, relu, sigmoid, silu, tanh each)"

# key=value -> the text after `command line: key: `
SINGLE = {
    "steps=1.5": "expected an integer >= 1 and <= 2147483647, got the float 1.5",
    "steps=2.0": "expected an integer >= 1 and <= 2147483647, got the float 2.0; write 2",
    "steps='3'": "expected an integer >= 1 and <= 2147483647, got the text '3'; leave the quotes "
    "out",
    "steps=true": "expected an integer >= 1 and <= 2147483647, got the boolean true",
    "steps=0": "expected an integer >= 1 and <= 2147483647, got the integer 0",
    "steps=null": "expected an integer >= 1 and <= 2147483647, got null",
    "steps=none": "expected an integer >= 1 and <= 2147483647, got the text 'none'",
    "steps=[3]": "expected an integer >= 1 and <= 2147483647, got the list [3]",
    "steps={a: 3}": "expected an integer >= 1 and <= 2147483647, got a mapping with the keys a",
    "head_dim=010": "expected an integer >= 1, got the text '010'",
    "vocab_size=-1": "expected an integer >= 1, got the integer -1",
    "base_emb_dim=0": "expected an integer >= 1, got the integer 0",
    "scan_layers=1": "expected true or false, got the integer 1; write true",
    "scan_layers=0": "expected true or false, got the integer 0; write false",
    "scan_layers=2": "expected true or false, got the integer 2",
    "scan_layers=yes": "expected true or false, got the text 'yes'; yes, no, on and off are text "
    "here: write true or false",
    "scan_layers=Off": "expected true or false, got the text 'Off'; yes, no, on and off are text "
    "here: write true or false",
    'scan_layers="true"': "expected true or false, got the text 'true'; it is in quotes: write "
    "true without them",
    "scan_layers=null": "expected true or false, got null",
    "param_scan_axis=true": "expected an integer >= 0 and <= 1, got the boolean true",
    "param_scan_axis=1.0": "expected an integer >= 0 and <= 1, got the float 1.0; write 1",
    "param_scan_axis=2": "expected an integer >= 0 and <= 1, got the integer 2",
    "remat_policy=ful": f"expected one of {REMAT}, got the text 'ful'; did you mean full?",
    "remat_policy=null": f"expected one of {REMAT}, got null; write none",
    "remat_policy=custom": "'custom' is a policy of MaxText that maxmig has not: maxmig has no "
    "policy per tensor; choose a named one",
    "remat_policy=minimal_flash": "'minimal_flash' is a policy of MaxText that maxmig has not: "
    "write minimal_with_context, its present name",
    "opt_type=adamm": "expected one of adamw, adam_pax, sgd, muon, got the text 'adamm'; did you "
    "mean adamw or adam_pax?",
    "dtype=bf16": "expected one of float32, bfloat16, float16, got the text 'bf16'; did you mean "
    "bfloat16?",
    "learning_rate=fast": "expected a number >= 0, got the text 'fast'",
    "learning_rate='1e-3'": "expected a number >= 0, got the text '1e-3'; leave the quotes out",
    "learning_rate=nan": "expected a number >= 0, got the text 'nan'",
    "learning_rate=.nan": "expected a number >= 0, got the float nan",
    "learning_rate=.inf": "expected a number >= 0, got the float inf",
    "learning_rate=true": "expected a number >= 0, got the boolean true",
    "dropout_rate=1": "expected a number >= 0 and < 1, got the integer 1",
    "warmup_steps_fraction=1.5": "expected a number >= 0 and <= 1, got the float 1.5",
    "per_device_batch_size=0": "expected a number > 0, got the integer 0",
    "run_name=true": "expected text, got the boolean true",
    "run_name=null": "expected text, got null",
    "run_name=../x": "expected a name inside base_output_directory, got '../x'",
    "run_name=/x": "expected a name inside base_output_directory, got '/x'",
    "mlp_activations=silu": f"expected {ACTIVATIONS}, got the text 'silu'; write [silu]",
    "mlp_activations=[silu, liner]": f"expected {ACTIVATIONS}, got the list [silu, liner]; did "
    "you mean linear?",
    "mlp_activations=[]": f"expected {ACTIVATIONS}, got the list []",
    "train_files=3": "expected text or a list (text each), got the integer 3",
    "max_num_checkpoints_to_keep=0": "expected an integer >= 1, or null, got the integer 0",
    "final_logits_soft_cap=-1": "expected a number > 0, or null, got the integer -1",
    "decoder_block=gemma2": "maxmig has no family 'gemma2'; the families it has are llama2, "
    "gpt3 and mixtral",
    "attention_type=mla": "maxmig does not compute 'mla' attention; it has global and "
    "local_sliding",
    "attention_type=globl": "expected one of global, local_sliding, or null, got the text "
    "'globl'; did you mean global?",
    "global_parameter_scale=3": "expected a power of two (1, 2, 4, ...), got 3",
    "global_parameter_scale=0": "expected an integer >= 1, got the integer 0",
    "eval_interval=0": "expected an integer >= 1, or -1, got 0",
    "learning_rate_schedule_steps=0": "expected an integer >= 1, or -1 for steps, got 0",
    "adamw_mask=[(]": "'(' is not a regular expression: missing ), unterminated subpattern at "
    "position 0",
    "dataset_type=tfds": "maxmig does not read 'tfds' (TensorFlow data sets; export them to text, "
    "jsonl, parquet or arrayrecord); it has text, jsonl, parquet, arrayrecord and synthetic",
    "tokenizer_type=sentencepiece": "maxmig does not read 'sentencepiece' tokenizers; write byte, "
    "or huggingface with tokenizer_path naming a tokenizer.json",
    "init_weights_seed=-1": "expected an integer >= 0 and <= 4294967295, got the integer -1",
    "moe_mlp_dim=0": "expected a positive width, or -1 for that of the layer, got 0",
    "logical_axis_rules=[norm]": "expected pairs [logical axis, [mesh axes]], got 'norm'",
}


@pytest.mark.parametrize("override", SINGLE)
def test_one_key(override: str) -> None:
    key = override.partition("=")[0]
    assert refusal("tiny_llama2", override) == f"command line: {key}: {SINGLE[override]}"


# (config, overrides) -> the first line; the lines below name each key, its value and its place
TOGETHER = {
    ("tiny_llama2", "base_num_query_heads=3"): (
        "num_query_heads and num_kv_heads: 3 query heads cannot be shared out over 2 key/value "
        "heads. Choose base_num_kv_heads as a divisor of base_num_query_heads",
        "num_query_heads: derived from base_num_query_heads, 3 (command line)",
        "num_kv_heads: derived from base_num_kv_heads, 2 (configs/tiny_llama2.yml:N)",
    ),
    ("tiny_gpt3", "base_num_kv_heads=1"): (
        "decoder_block gpt3 needs num_query_heads and num_kv_heads to be equal, got 2 and 1",
        "decoder_block: gpt3 (configs/tiny_gpt3.yml:N)",
        "num_query_heads: derived from base_num_query_heads, 2 (configs/tiny_gpt3.yml:N)",
        "num_kv_heads: derived from base_num_kv_heads, 1 (command line)",
    ),
    ("tiny_llama2", "num_experts=8"): (
        "decoder_block llama2 has no experts: num_experts must be 1 (families with: mixtral), got "
        "8",
        "decoder_block: llama2 (configs/tiny_llama2.yml:N)",
        "num_experts: 8 (command line)",
    ),
    ("tiny_mixtral", "num_experts_per_tok=5"): (
        "num_experts_per_tok 5 is more than num_experts 4: a token cannot choose an expert twice",
        "num_experts_per_tok: 5 (command line)",
        "num_experts: 4 (configs/tiny_mixtral.yml:N)",
    ),
    ("tiny_mixtral", "num_experts=1", "num_experts_per_tok=1"): (
        "decoder_block mixtral has experts: num_experts must be at least 2, got 1",
        "decoder_block: mixtral (configs/tiny_mixtral.yml:N)",
        "num_experts: 1 (command line)",
    ),
    ("tiny_mixtral", "base_moe_mlp_dim=64"): (
        "base_moe_mlp_dim 64 and base_mlp_dim 48 disagree: every layer of mixtral is a mixture of "
        "experts. Set base_mlp_dim, and leave base_moe_mlp_dim out",
        "base_moe_mlp_dim: 64 (command line)",
        "base_mlp_dim: 48 (configs/tiny_mixtral.yml:N)",
    ),
    ("tiny_mixtral", "mlp_bias=true"): (
        "decoder_block mixtral has neither biases nor fused kernels in its experts: mlp_bias must "
        "be false",
        "decoder_block: mixtral (configs/tiny_mixtral.yml:N)",
        "mlp_bias: true (command line)",
    ),
    ("tiny_mixtral", "mlp_activations=[gelu]"): (
        "decoder_block mixtral has gated experts: mlp_activations must be [activation, linear], "
        "got ['gelu']",
        "decoder_block: mixtral (configs/tiny_mixtral.yml:N)",
        "mlp_activations: [gelu] (command line)",
    ),
    ("tiny_llama2", "emb_dim=64"): (
        "emb_dim and base_emb_dim disagree: base_emb_dim with global_parameter_scale 1 makes "
        "emb_dim 32, not 64. Set base_emb_dim and leave emb_dim out",
        "emb_dim: 64 (command line)",
        "base_emb_dim: 32 (configs/tiny_llama2.yml:N)",
        "global_parameter_scale: 1 (configs/base.yml:N)",
    ),
    ("tiny_llama2", "head_dim=7"): (
        "decoder_block llama2 rotates pairs of features: head_dim must be even, got 7",
        "decoder_block: llama2 (configs/tiny_llama2.yml:N)",
        "head_dim: 7 (command line)",
    ),
    ("tiny_gpt3", "max_target_length=65"): (
        "max_target_length 65 is longer than trainable_position_size 64: the positions beyond it "
        "have no embedding. Shorten the sequence or enlarge the table",
        "max_target_length: 65 (command line)",
        "trainable_position_size: 64 (configs/tiny_gpt3.yml:N)",
    ),
    ("tiny_gpt3", "trainable_position_size=-1"): (
        "decoder_block gpt3 has learned positions: trainable_position_size must be positive, got "
        "-1",
        "decoder_block: gpt3 (configs/tiny_gpt3.yml:N)",
        "trainable_position_size: -1 (command line)",
    ),
    ("tiny_llama2", "trainable_position_size=64"): (
        "decoder_block llama2 has rotary positions: trainable_position_size must be -1, got 64",
        "decoder_block: llama2 (configs/tiny_llama2.yml:N)",
        "trainable_position_size: 64 (command line)",
    ),
    ("tiny_gpt3", "use_qk_norm=true"): (
        "decoder_block gpt3 has no norms of query and key: use_qk_norm must be false",
        "decoder_block: gpt3 (configs/tiny_gpt3.yml:N)",
        "use_qk_norm: true (command line)",
    ),
    ("demo", "vocab_size=255"): (
        "vocab_size 255 is smaller than the byte tokenizer, which needs 256",
        "vocab_size: 255 (command line)",
        "tokenizer_type: byte (configs/base.yml:N)",
    ),
    ("tiny_llama2", "attention_type=local_sliding"): (
        "attention_type local_sliding and sliding_window_size 0: local_sliding needs a positive "
        "window, and global needs sliding_window_size 0. Leave attention_type out to derive it",
        "attention_type: local_sliding (command line)",
        "sliding_window_size: 0 (configs/base.yml:N)",
    ),
    ("tiny_llama2", "rope_max_timescale=1"): (
        "rope_min_timescale must be below rope_max_timescale",
        "rope_min_timescale: 1 (configs/base.yml:N)",
        "rope_max_timescale: 1 (command line)",
    ),
    ("tiny_llama2", "lr_schedule_type=wsd", "wsd_decay_steps_fraction=0.95"): (
        "warmup_steps_fraction and wsd_decay_steps_fraction take more than the whole schedule: "
        "their sum is 1.05, at most 1 is possible",
        "warmup_steps_fraction: 0.1 (configs/base.yml:N)",
        "wsd_decay_steps_fraction: 0.95 (command line)",
    ),
    ("tiny_llama2", "eval_interval=5", "eval_steps=-1"): (
        "eval_interval asks for evaluations, and eval_steps -1 does not say how long: give "
        "eval_steps a positive number",
        "eval_interval: 5 (command line)",
        "eval_steps: -1 (command line)",
    ),
    ("tiny_llama2", "load_parameters_path=a", "load_full_state_path=b"): (
        "load_parameters_path and load_full_state_path are both given: a run starts from weights "
        "alone or from a full state, not from both",
        "load_parameters_path: a (command line)",
        "load_full_state_path: b (command line)",
    ),
    ("tiny_llama2", "tokenizer_type=huggingface"): (
        "tokenizer_type huggingface needs tokenizer_path, the path of a tokenizer.json",
        "tokenizer_type: huggingface (command line)",
        "tokenizer_path: '' (configs/base.yml:N)",
    ),
    ("tiny_llama2", "tokenizer_path=x"): (
        "tokenizer_type byte reads no file: leave tokenizer_path out, or write tokenizer_type: "
        "huggingface",
        "tokenizer_type: byte (configs/base.yml:N)",
        "tokenizer_path: x (command line)",
    ),
    ("tiny_llama2", "dataset_type=jsonl", "grain_file_type=parquet"): (
        "dataset_type and grain_file_type say the same thing; keep dataset_type",
        "dataset_type: jsonl (command line)",
        "grain_file_type: parquet (command line)",
    ),
    ("tiny_llama2", "decode_sampling_strategy=topk"): (
        "decode_sampling_strategy topk needs decode_sampling_top_k >= 1",
        "decode_sampling_strategy: topk (command line)",
        "decode_sampling_top_k: 0 (configs/base.yml:N)",
    ),
    ("tiny_llama2", "decode_sampling_strategy=nucleus"): (
        "decode_sampling_strategy nucleus needs decode_sampling_nucleus_p in (0, 1]",
        "decode_sampling_strategy: nucleus (command line)",
        "decode_sampling_nucleus_p: -1.0 (configs/base.yml:N)",
    ),
    ("tiny_llama2", "ici_data_parallelism=-1"): (
        "ici_data_parallelism and ici_fsdp_parallelism are both -1: at most one ici axis can take "
        "what is left",
        "ici_data_parallelism: -1 (command line)",
        "ici_fsdp_parallelism: -1 (configs/base.yml:N)",
    ),
    ("tiny_llama2", "dcn_fsdp_parallelism=-1"): (
        "dcn_data_parallelism and dcn_fsdp_parallelism are both -1: at most one dcn axis can take "
        "what is left",
        "dcn_data_parallelism: -1 (configs/base.yml:N)",
        "dcn_fsdp_parallelism: -1 (command line)",
    ),
    ("tiny_llama2", "ici_tensor_parallelism=0"): (
        "ici_tensor_parallelism: expected an integer >= 1, or -1, got 0",
        "ici_tensor_parallelism: 0 (command line)",
    ),
    ("tiny_llama2", "ici_tensor_parallelism=2", "mesh_axes=[data, fsdp]"): (
        "ici_tensor_parallelism is 2, but mesh_axes has no axis 'tensor'",
        "ici_tensor_parallelism: 2 (command line)",
        "mesh_axes: [data, fsdp] (command line)",
    ),
    ("tiny_llama2", "mesh_axes=[data, data]"): (
        "mesh_axes: an axis is named twice",
        "mesh_axes: [data, data] (command line)",
    ),
    ("tiny_llama2", "mesh_axes=[data, fspd]"): (
        "mesh_axes: there is no mesh axis 'fspd'; did you mean fsdp?",
        "mesh_axes: [data, fspd] (command line)",
    ),
    ("tiny_llama2", "data_sharding=[data, fspd]"): (
        "data_sharding: there is no mesh axis 'fspd'; did you mean fsdp?",
        "data_sharding: [data, fspd] (command line)",
    ),
}


@pytest.mark.parametrize("case", TOGETHER, ids=" ".join)
def test_keys_together(case: tuple[str, ...]) -> None:
    first, *keys = refusal(*case).splitlines()
    assert first == TOGETHER[case][0]
    assert [LINE.sub(".yml:N", key) for key in keys] == [f"    {x}" for x in TOGETHER[case][1:]]


def test_rule_with_a_misspelt_axis() -> None:
    first, second = refusal("tiny_llama2", "logical_axis_rules=[[norm, fdsp]]").splitlines()
    assert first == (
        "logical_axis_rules: the rule of 'norm': there is no mesh axis 'fdsp'; did you mean fsdp?"
    )
    assert second.startswith("    logical_axis_rules: [") and second.endswith("(command line)")


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(name, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("run_name=7", "run_name", "7"),
        ("run_name=1e3", "run_name", "1e3"),
        ("run_name=", "run_name", ""),
        ("learning_rate=1", "learning_rate", 1.0),
        ("learning_rate=1e-3", "learning_rate", 0.001),
        ("max_num_checkpoints_to_keep=none", "max_num_checkpoints_to_keep", None),
        ("max_num_checkpoints_to_keep=None", "max_num_checkpoints_to_keep", None),
        ("max_num_checkpoints_to_keep=null", "max_num_checkpoints_to_keep", None),
        ("remat_policy=none", "remat_policy", "none"),
        ("attn_logits_soft_cap=0.0", "attn_logits_soft_cap", None),
        ("final_logits_soft_cap=0", "final_logits_soft_cap", None),
        ("train_files=[a, b]", "train_files", ("a", "b")),
        ("data_sharding=[data, fsdp]", "data_sharding", (("data", "fsdp"),)),
        ("scan_layers=FALSE", "scan_layers", False),
        ("global_parameter_scale=8", "emb_dim", 64),
        ("vocab_size=100", "vocab_size", 100),  # synthetic data need no tokenizer
        ("dataset_type=grain", "dataset_type", "arrayrecord"),
    ],
)
def test_values_that_are_fine(override: str, key: str, value: object) -> None:
    effective = config.load("tiny_llama2", [override]).flat()[key]
    assert effective == value and type(effective) is type(value)


def test_grain_is_maxtexts_name() -> None:
    cfg = config.load(
        "tiny_llama2",
        ["dataset_type=grain", "grain_file_type=parquet", "grain_train_files=a/*.parquet"],
    )
    assert (cfg.data.dataset_type, cfg.data.train_files) == ("parquet", "a/*.parquet")


def test_scaling_is_maxtexts() -> None:
    sizes = {1: (1, 1, 1, 1), 2: (1, 2, 2, 1), 4: (2, 2, 2, 1), 8: (2, 2, 2, 2), 16: (2, 4, 4, 2)}
    for scale, (emb, heads, mlp, layers) in sizes.items():
        m = config.load("tiny_llama2", [f"global_parameter_scale={scale}"]).model
        assert m.emb_dim == 32 * emb
        assert (m.num_query_heads, m.num_kv_heads) == (4 * heads, 2 * heads)
        assert (m.mlp_dim, m.num_decoder_layers) == (64 * mlp, 4 * layers)


def test_batches() -> None:
    train = config.load(
        "tiny_llama2", ["gradient_accumulation_steps=3", "per_device_batch_size=0.5"]
    ).train
    assert (train.micro_batch(8), train.global_batch(8), train.eval_batch(8)) == (4, 12, 4)
    assert train.model_copy(update={"eval_per_device_batch_size": 2.0}).eval_batch(8) == 16
    with pytest.raises(ConfigError, match=r"per_device_batch_size: 0\.5 on 3 device"):
        train.global_batch(3)
    with pytest.raises(ConfigError, match=r"per_device_batch_size: 0\.5 on 1 device"):
        train.global_batch(1)


def test_told_batch_must_agree() -> None:
    train = config.load("tiny_llama2", ["global_batch_size_to_train_on=2"]).train
    assert train.global_batch(1) == 2
    with pytest.raises(ConfigError) as caught:
        train.global_batch(8)
    assert str(caught.value) == (
        "global_batch_size_to_train_on is 2, but 8 device(s) x per_device_batch_size 2 x "
        "gradient_accumulation_steps 1 makes 16. Change one of them, or leave "
        "global_batch_size_to_train_on out"
    )


def test_mesh_sizes_follow_the_axes() -> None:
    sharding = config.load(
        "tiny_llama2", ["mesh_axes=[tensor, data, fsdp]", "ici_tensor_parallelism=2"]
    ).sharding
    assert sharding.ici == (2, 1, -1)
    assert sharding.dcn == (1, -1, 1)


def test_every_key_is_described_and_no_key_is_twice() -> None:
    for key, (_, field) in schema.KEYS.items():
        assert field.description and field.description.endswith("."), key
        assert key not in maxtext_keys.TABLE
    assert len(schema.KEYS) == sum(map(len, schema.GROUPS.values()))
