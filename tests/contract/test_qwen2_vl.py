"""Qwen2-VL, CORA's other backbone: what our code takes for granted of Qwen2.5-VL holds for it, but for the scale of its boxes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from data_prep.frames import Frame, check_processor
from data_prep.prompts import SYSTEM_PROMPTS
from faithful_rl.compose import compose_recipe
from faithful_rl.config import from_node


def test_its_processor_sees_images_in_our_frame() -> None:
    """Same patches and the same resizing as Qwen2.5-VL's, whose processor uses the same class."""
    from faithful_rl.tiny.model import Qwen2VLImageProcessor

    limits = {"min_pixels": 56 * 56, "max_pixels": 1280 * 28 * 28}
    processor = SimpleNamespace(image_processor=Qwen2VLImageProcessor(**limits))
    for size in ((336, 336), (624, 419), (100, 60)):
        check_processor(processor, Frame("verl", processor_max_pixels=limits["max_pixels"]), size, {})


def test_its_vision_tower_can_be_held() -> None:
    import torch

    import faithful_rl.tiny  # transformers' models need its guard on a CPU  # noqa: F401
    from faithful_rl.verl_plugin.vision_tower import freeze_vision_tower

    transformers = pytest.importorskip("transformers")
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2VLConfig(text_config={**text, "vocab_size": 512, "rope_parameters": rope}, vision_config=vision)
    with torch.device("meta"):
        model = transformers.Qwen2VLForConditionalGeneration(config)
    assert freeze_vision_tower(model) > 0
    assert all(one.requires_grad == (".visual." not in name) for name, one in model.named_parameters())


@pytest.mark.parametrize("method", ["cora", "grpo"])
@pytest.mark.parametrize("size", ["2b", "7b"])
def test_its_recipes_ask_for_no_boxes(method: str, size: str) -> None:
    """It writes boxes on a scale of 0 to 1000; our rewards compare pixels."""
    composed = compose_recipe([f"recipe={method}_qwen2_vl_{size}"])
    typed = from_node(composed.faithful_rl)
    assert typed.data.source == "puzzles"  # whose rows have no boxes
    assert "<bbox>" not in SYSTEM_PROMPTS[typed.data.puzzles.prompt]
    assert all(tag in SYSTEM_PROMPTS[typed.data.puzzles.prompt] for tag in ("<think>", "<answer>"))  # which R_fmt pays for
    assert not typed.constraints
    assert "spatial_grounding" not in typed.advantage.weights
    assert composed.actor_rollout_ref.model.path == f"models/qwen2_vl_{size}"
