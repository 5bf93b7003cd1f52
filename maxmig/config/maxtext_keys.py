"""The keys of MaxText that maxmig does not have, and the values at which they ask for nothing.

A MaxText configuration is read as it is: a key of this table is accepted at its neutral value,
where it has no effect, and refused by name at any other, since a setting that is silently ignored
is the worst kind of support. Names and neutral values are those of MaxText's base configuration.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maxmig.config import scalars
from maxmig.config.foreign import ANYTHING, Foreign
from maxmig.config.reader import Entry


def problems(chains: Mapping[str, Sequence[Entry]]) -> Iterator[str]:
    """One sentence for each foreign key whose effective value is not neutral."""
    for name, entries in chains.items():
        foreign, entry = TABLE.get(name), entries[-1]
        if foreign is None or foreign.accepts(entry.value):
            continue
        yield (
            f"{entry.place}: {name}: {scalars.plain(entry.value)} is refused: {foreign.reason}. "
            f"This MaxText key is accepted at {foreign.accepted} only"
        )


def _keys(reason: str, **neutral: Any) -> dict[str, Foreign]:
    """Rows of the table; a list holds several neutral values."""
    return {
        name: Foreign(tuple(value) if isinstance(value, list) else (value,), reason)
        for name, value in neutral.items()
    }


def _unused(names: str) -> dict[str, Foreign]:
    """Rows that are accepted at any value: they cannot change a number that maxmig computes."""
    return {name: Foreign((ANYTHING,), "") for name in names.split()}


_MODEL = {
    **_keys(
        "maxmig computes attention with dot products",
        attention=["dot_product", "autoselected"],
        use_tokamax_splash=False,
        use_jax_splash=False,
        use_ragged_attention=False,
        enable_padding_causal_mask=True,
    ),
    **_keys(
        "maxmig's attention has no such variant",
        attention_sink=False,
        attention_output_dim=-1,
        share_kv_projections=False,
        chunk_attn_window_size=0,
        temperature_tuning=False,
        moba=False,
        v_norm_with_scale=True,
        qk_norm_with_scale=True,
        global_head_dim=0,
        global_num_kv_heads=0,
        num_kv_shared_layers=0,
        nope_layer_interval=-1,
    ),
    **_keys(
        "maxmig has no multi-head latent attention",
        q_lora_rank=0,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        mla_naive_kvcache=True,
        mla_qk_head_chunk_size=0,
        use_sliced_mla_proj=False,
        use_indexer=False,
        use_qk_clip=False,
        indexer_loss_scaling_factor=0.0,
        o_lora_rank=0,
        o_groups=0,
    ),
    **_keys(
        "maxmig's layers have no such part",
        use_post_attn_norm=False,
        use_post_ffw_norm=False,
        mlp_activations_limit=-1.0,
        use_untrainable_positional_embedding=False,
        inhomogeneous_layer_cycle_interval=1,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        use_double_wide_mlp=False,
        mhc_expansion_rate=1,
        enable_mhc_lite=False,
        engram_layers=(),
    ),
    **_keys(
        "maxmig has MaxText's default rotary positions only",
        rope_type="default",
        rope_linear_scaling_factor=1.0,
        rope_use_scale=True,
        local_rope_max_timescale=-1,
        global_rope_max_timescale=-1,
        partial_rotary_factor=1.0,
        use_mrope=False,
        max_position_embeddings=163840,
        original_max_position_embeddings=4096,
        rope_factor=40,
        beta_fast=32,
        beta_slow=1,
        mscale=1.0,
        rope_interleave=True,
        rope_truncate=True,
        rope_attention_scaling=False,
        rope_pairwise=False,
    ),
    **_keys(
        "maxmig's mixture of experts has no such variant",
        moe_expert_input_dim=-1,
        first_num_dense_layers=0,
        first_num_hash_layers=0,
        shared_experts=0,
        routed_scaling_factor=1.0,
        routed_score_func="",
        routed_bias=False,
        routed_bias_update_rate=0.0,
        n_routing_groups=-1,
        topk_routing_group=-1,
        norm_topk_prob=False,
        capacity_factor=-1.0,
        ragged_buffer_factor=-1.0,
        interleave_moe_layer_step=1,
        use_random_routing=False,
        use_ring_of_experts=False,
        prefuse_moe_weights=False,
        num_moe_token_chunks=1,
        num_moe_emb_chunks=0,
        use_batch_split_schedule=False,
    ),
    **_keys("maxmig leaves the kernel of sparse_matmul to JAX", megablox=[True, False]),
    **_keys("maxmig has no multi-token prediction", mtp_num_layers=0, mtp_eval_target_module=0),
    **_keys("maxmig reads text only", use_multimodal=False, use_audio=False),
}

_TRAINING = {
    **_keys(
        "maxmig trains causal language models on text",
        training_objective="causal_lm",
        use_dpo=False,
        use_sft=False,
        sft_train_on_completion_only=False,
        distill_beta=0.0,
    ),
    **_keys(
        "maxmig does not train adapters",
        lora_input_adapters_path="",
        hf_lora_adapter_path="",
        lora={
            "enable_lora": False,
            "lora_rank": 0,
            "lora_alpha": 0,
            "lora_module_path": "",
            "lora_weight_qtype": None,
            "lora_tile_size": None,
            "lora_restore_path": "",
        },
    ),
    **_keys(
        "maxmig does not tune on preferences",
        dpo={
            "algo": "dpo",
            "dpo_beta": 0.1,
            "orpo_lambda": 0.1,
            "dpo_label_smoothing": 0,
            "max_prompt_length": ANYTHING,
        },
    ),
    **_keys(
        "maxmig computes the loss in one piece", num_vocab_tiling=1, vocab_tiling_ag_once=False
    ),
    **_keys(
        "maxmig does not quantise",
        quantization="",
        use_qwix_quantization=False,
        use_manual_quantization=False,
        quant_cfg_path="",
        constant_bound_config="",
        quantize_kvcache=False,
        checkpoint_is_quantized=False,
        save_quantized_params_path="",
        replicate_quant_scale=False,
    ),
    **_keys("maxmig does not prune weights", weight_sparsity_n=None, weight_sparsity_m=None),
    **_keys("maxmig does not train replicas apart", enable_diloco=False),
    **_keys(
        "maxmig has no such schedule of batches",
        enable_rampup_batch_size=False,
        reuse_example_batch=0,
        expansion_factor_real_data=-1.0,
        num_epoch=1,
        eval_start_step=0,
        target_eval_loss=0.0,
    ),
    **_keys(
        "maxmig does not stop at a loss that is not finite",
        abort_on_nan_loss=False,
        abort_on_inf_loss=False,
    ),
}

_DATA = {
    **_keys("write shuffle: false", enable_data_shuffling=True),
    **_keys(
        "maxmig tokenises text itself",
        tokenize_train_data=True,
        tokenize_eval_data=True,
        use_chat_template=False,
        use_truncation=True,
        chat_template_path="",
        chat_template="",
    ),
    **_keys("write text_field", train_data_columns=("text",), eval_data_columns=("text",)),
    **_keys(
        "write dataset_type and train_files",
        hf_path="",
        hf_train_files="",
        hf_eval_files="",
        grain_train_mixture_config_path="",
        colocated_python_data_input=False,
    ),
    **_keys(
        "maxmig's packing has no such option",
        generate_padding_batch_train=False,
        generate_padding_batch_eval=False,
        max_segments_per_seq=-1,
    ),
}

_CHECKPOINT = {
    **_keys(
        "maxmig saves through Orbax's checkpoint manager, and nothing else",
        enable_continuous_checkpointing=False,
        enable_single_replica_ckpt_restoring=False,
        enable_multi_tier_checkpointing=False,
        enable_emergency_checkpoint=False,
        enable_autocheckpoint=False,
        enable_orbax_v1=False,
        colocated_python_checkpointing=False,
        checkpoint_todelete_subdir=None,
        checkpoint_todelete_full_path=None,
        checkpoint_conversion_fn=None,
        source_checkpoint_layout="orbax",
        local_checkpoint_directory="",
        local_checkpoint_period=0,
        force_unroll=False,
        save_checkpoint_on_start=False,
    ),
}

_SHARDING = {
    **_keys(
        "maxmig's mesh has one device along this axis",
        **{
            f"{network}_{axis}_parallelism": 1
            for network in ("ici", "dcn")
            for axis in (
                "autoregressive",
                "context",
                "context_autoregressive",
                "context_usp_ulysses",
                "diloco",
                "pipeline",
                "sequence",
                "tensor_sequence",
            )
        },
    ),
    **_keys(
        "maxmig shards by mesh_axes and logical_axis_rules alone",
        custom_mesh="",
        custom_mesh_and_rule="",
        custom_mesh_and_rule_for_eval="",
        logical_axis_rules_for_eval=(),
        shard_optimizer_over_data=False,
        optimize_mesh_for_tpu_v6e=False,
        allow_split_physical_axes=False,
        enable_single_controller=False,
        subslice_shape="",
        elastic_enabled=False,
        shard_exp_on_fsdp=False,
        use_2d_fsdp_sharding=False,
        num_slices=[-1, 1],
    ),
    **_keys(
        "maxmig keeps everything on the devices",
        optimizer_memory_host_offload=False,
        parameter_memory_host_offload=False,
    ),
    **_keys("maxmig has no pipeline", pipeline_parallel_layers=-1, num_pipeline_repeats=-1),
}

_RUNNING = {
    **_keys("JAX finds the devices itself", hardware=["cpu", "gpu", "tpu"]),
    **_keys("maxmig does not compile ahead of time", compiled_trainstep_file=""),
    **_keys("use JAX's own tools for this", profiler="", dump_hlo=False, dump_jaxpr=False),
    **_keys(
        "maxmig reports to the console, JSON lines and TensorBoard",
        enable_wandb=False,
        gcs_metrics=False,
        save_config_to_gcs=False,
        use_vertex_tensorboard=False,
        managed_mldiagnostics=False,
        enable_goodput_recording=False,
        monitor_goodput=False,
        record_internal_nn_metrics=[0, False],
        max_checkify=False,
    ),
    **_keys(
        "maxmig generates with one plain cache",
        use_chunked_prefill=False,
        stack_prefill_result_cache=False,
        return_log_prob=False,
        multi_sampling=False,
        enable_prefix_caching=False,
        load_from_prefill_dir=False,
        prefill_cache_dir="",
        autoregressive_decode_assert="",
        model_call_mode="",
        prefill_cache_axis_order="1,2,0,3",
        ar_cache_axis_order="1,2,0,3",
        compute_axis_order="0,1,2,3",
        reshape_q=False,
    ),
}

# Names, tunings and parameters of features whose switch is refused above: no value has an effect.
_INERT = _unused(
    """
    override_model_config
    wi_tile_fwd_batch_seq wi_tile_fwd_embed_dim wi_tile_fwd_mlp_dim wi_tile_dlhs_batch_seq
    wi_tile_dlhs_embed_dim wi_tile_dlhs_mlp_dim wi_tile_drhs_batch_seq wi_tile_drhs_embed_dim
    wi_tile_drhs_mlp_dim wo_tile_fwd_batch_seq wo_tile_fwd_embed_dim wo_tile_fwd_mlp_dim
    wo_tile_dlhs_batch_seq wo_tile_dlhs_embed_dim wo_tile_dlhs_mlp_dim wo_tile_drhs_batch_seq
    wo_tile_drhs_embed_dim wo_tile_drhs_mlp_dim
    sa_block_q sa_block_kv sa_block_kv_compute sa_block_q_dkv sa_block_kv_dkv
    sa_block_kv_dkv_compute sa_block_q_dq sa_block_kv_dq sa_use_fused_bwd_kernel sa_q_layout
    sa_k_layout sa_v_layout ragged_block_size
    checkpoint_storage_target_data_file_size_bytes checkpoint_storage_concurrent_gb
    enable_checkpoint_cloud_logger
    wandb_project_name wandb_run_name vertex_tensorboard_project vertex_tensorboard_region
    jax_cache_dir log_config debug_sharding skip_jax_distributed_system
    jax_distributed_initialization_timeout jax_debug_log_modules max_inflight_computations
    skip_first_n_steps_for_profiler profiler_steps upload_all_profiler_results
    dump_hlo_local_dir dump_hlo_gcs_dir dump_hlo_module_name dump_jaxpr_local_dir
    dataset_path dataset_name eval_dataset_name train_split eval_split hf_name hf_data_dir
    hf_eval_split hf_access_token grain_worker_count_eval grain_per_worker_buffer_size
    grain_num_threads grain_prefetch_buffer_size grain_packing_type max_corpus_chars
    sharding_tolerance input_data_sharding_logical_axes context_sharding shardy
    context_parallel_load_balance context_parallel_strategy
    num_layers_per_pipeline_stage num_pipeline_microbatches
    qk_clip_threshold mtp_loss_scaling_factor diloco_sync_period diloco_outer_lr
    diloco_outer_momentum weight_sparsity_update_step weight_sparsity_start_step
    kv_quant_axis kv_quant_dtype quantization_local_shard_count prefill_chunk_size
    weight_quantization_calibration_method act_quantization_calibration_method
    bwd_quantization_calibration_method moba_chunk_size moba_topk
    indexer_head_dim indexer_n_heads indexer_topk indexer_sparse_training
    compile_topology compile_topology_num_slices
    decoder_layer_input context mlpwi mlpwi_0 mlpwi_1 mlpwo query_proj key_proj value_proj
    kv_proj qkv_proj out_proj
    """
)

TABLE: dict[str, Foreign] = {
    **_MODEL,
    **_TRAINING,
    **_DATA,
    **_CHECKPOINT,
    **_SHARDING,
    **_RUNNING,
    **_INERT,
}
