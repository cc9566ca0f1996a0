"""The flags of diffusers' training scripts, apart from those of the previews. Each program takes them or refuses them by name."""

COMMON = (
    """
    adam_beta1 adam_beta2 adam_epsilon adam_weight_decay allow_tf32 cache_dir caption_column checkpointing_steps
    checkpoints_total_limit dataloader_num_workers dataset_config_name dataset_name enable_xformers_memory_efficient_attention
    gradient_accumulation_steps gradient_checkpointing hub_model_id hub_token image_column learning_rate logging_dir
    lr_scheduler lr_warmup_steps max_grad_norm max_train_samples max_train_steps mixed_precision num_train_epochs output_dir
    pretrained_model_name_or_path push_to_hub report_to resolution resume_from_checkpoint revision scale_lr seed
    train_batch_size train_data_dir use_8bit_adam variant
    """.split()
)

FLAGS = {
    "train_text_to_image": """
        center_crop dream_detail_preservation dream_training foreach_ema image_interpolation_mode input_perturbation
        local_rank noise_offset non_ema_revision offload_ema prediction_type random_flip snr_gamma tracker_project_name
        use_ema
    """.split(),
    "train_text_to_image_sdxl": """
        center_crop enable_npu_flash_attention image_interpolation_mode local_rank noise_offset prediction_type
        pretrained_vae_model_name_or_path proportion_empty_prompts random_flip snr_gamma timestep_bias_begin timestep_bias_end
        timestep_bias_multiplier timestep_bias_portion timestep_bias_strategy use_ema
    """.split(),
    "train_text_to_image_lora": """
        center_crop image_interpolation_mode local_rank noise_offset prediction_type random_flip rank snr_gamma
    """.split(),
    "train_text_to_image_lora_sdxl": """
        center_crop debug_loss enable_npu_flash_attention image_interpolation_mode local_rank noise_offset prediction_type
        pretrained_vae_model_name_or_path random_flip rank snr_gamma train_text_encoder
    """.split(),
    "train_controlnet": """
        conditioning_image_column controlnet_model_name_or_path lr_num_cycles lr_power proportion_empty_prompts
        set_grads_to_none tokenizer_name tracker_project_name
    """.split(),
    "train_controlnet_sdxl": """
        conditioning_image_column controlnet_model_name_or_path crops_coords_top_left_h crops_coords_top_left_w
        enable_npu_flash_attention image_interpolation_mode lr_num_cycles lr_power pretrained_vae_model_name_or_path
        proportion_empty_prompts set_grads_to_none tokenizer_name tracker_project_name
    """.split(),
    "train_t2i_adapter_sdxl": """
        adapter_model_name_or_path conditioning_image_column crops_coords_top_left_h crops_coords_top_left_w
        detection_resolution lr_num_cycles lr_power pretrained_vae_model_name_or_path proportion_empty_prompts
        set_grads_to_none tokenizer_name tracker_project_name
    """.split(),
    "textual_inversion": """
        center_crop initializer_token learnable_property local_rank lr_num_cycles no_safe_serialization num_train_epochs
        num_vectors placeholder_token repeats save_as_full_pipeline save_steps tokenizer_name
    """.split(),
    "train_instruct_pix2pix": """
        center_crop conditioning_dropout_prob edit_prompt_column edited_image_column local_rank non_ema_revision
        original_image_column random_flip use_ema val_image_url
    """.split(),
}


def flags_of(script):
    """Names with dashes."""
    return [f"--{name}" for name in [*COMMON, *FLAGS[script]]]
