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

DREAMBOOTH = """
    adam_beta1 adam_beta2 adam_epsilon adam_weight_decay allow_tf32 center_crop checkpointing_steps
    checkpoints_total_limit class_data_dir class_prompt dataloader_num_workers
    enable_xformers_memory_efficient_attention gradient_accumulation_steps gradient_checkpointing hub_model_id
    hub_token instance_data_dir instance_prompt learning_rate local_rank logging_dir lr_num_cycles lr_power
    lr_scheduler lr_warmup_steps max_grad_norm max_train_steps mixed_precision num_class_images num_train_epochs
    num_validation_images output_dir pretrained_model_name_or_path prior_generation_precision prior_loss_weight
    push_to_hub report_to resolution resume_from_checkpoint revision sample_batch_size scale_lr seed train_batch_size
    train_text_encoder use_8bit_adam validation_prompt variant with_prior_preservation
    """.split()

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
    "train_dreambooth": """
        class_labels_conditioning offset_noise pre_compute_text_embeddings set_grads_to_none skip_save_text_encoder
        snr_gamma text_encoder_use_attention_mask tokenizer_max_length tokenizer_name validation_images
        validation_scheduler validation_steps
    """.split(),
    "train_dreambooth_lora": """
        class_labels_conditioning image_interpolation_mode lora_dropout pre_compute_text_embeddings rank
        text_encoder_use_attention_mask tokenizer_max_length tokenizer_name validation_epochs validation_images
    """.split(),
    "train_dreambooth_lora_sdxl": """
        adam_weight_decay_text_encoder cache_dir caption_column dataset_config_name dataset_name do_edm_style_training
        image_column image_interpolation_mode lora_dropout optimizer output_kohya_format
        pretrained_vae_model_name_or_path prodigy_beta3 prodigy_decouple prodigy_safeguard_warmup
        prodigy_use_bias_correction random_flip rank repeats snr_gamma text_encoder_lr use_dora validation_epochs
    """.split(),
}


def flags_of(script):
    """Names with dashes."""
    common = DREAMBOOTH if script.startswith("train_dreambooth") else COMMON
    return [f"--{name}" for name in [*common, *FLAGS[script]]]
