"""A real Qwen2.5-VL of about a million parameters, its tokenizer, and the warm start that RL begins from."""

from faithful_rl.verl_plugin.guards import torchvision_schema

# Before any module of this package imports transformers: Qwen2.5-VL's classes import torchvision.
torchvision_schema.apply()
