"""From a source's file to what training sees: verl's dataset, its rendered prompt, and Qwen2.5-VL's real processor.

Every image of the fixtures is black with a white rectangle, so the processor's own pixels say whether a box sits right.
"""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_sets as sets

from data_prep import prepare
from data_prep.frames import PROCESSOR_MAX_PIXELS, PROCESSOR_MIN_PIXELS, Frame, _white_area, check_model, check_processor, processor_size
from data_prep.prepare import Job
from faithful_rl.config import ConfigError
from faithful_rl.response import parse
from faithful_rl.rewards.suite import Reference

pytest.importorskip("verl")
MODEL = Path(__file__).parents[2] / "models" / "tiny_warm_start"
# One set in pixels with room to move in each direction: sizes below, inside and above the limits occur in the fixtures.
FRAME = Frame(max_pixels=200_704)


@pytest.fixture(scope="module")
def processor() -> Any:
    """The shipped Qwen2.5-VL processor with the pixel limits of the full-size models (the tiny one sees 112 x 112 only)."""
    from faithful_rl.verl_plugin.guards import torchvision_schema

    torchvision_schema.apply()
    from verl.utils import hf_processor

    loaded = hf_processor(str(MODEL))
    loaded.image_processor.size = {"shortest_edge": PROCESSOR_MIN_PIXELS, "longest_edge": PROCESSOR_MAX_PIXELS}
    return loaded


def made(name: str, tmp_path: Path, form: str = "rl") -> Path:
    location, options = sets.build(name, tmp_path / "raw")
    prepare.prepare(Job(sets.source_of(name), str(location), tmp_path / "out", format=form, options=options, frame=FRAME))
    return tmp_path / "out" / "train.parquet"


def white(inputs: Any, index: int, processor: Any) -> list[float]:
    """Where the `index`-th image of a processed prompt is bright, in pixels of the model's frame."""
    grids = np.asarray(inputs["image_grid_thw"])
    patches = np.asarray(inputs["pixel_values"])
    start = int(grids[:index].prod(axis=1).sum())
    _, rows, columns = (int(value) for value in grids[index])
    images = processor.image_processor
    return _white_area(patches[start : start + rows * columns], rows, columns, images.patch_size, images.merge_size).as_list()


@pytest.mark.parametrize("name", sets.SOURCES)
def test_from_file_to_prompt(name: str, tmp_path: Path, processor: Any) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"max_prompt_length": 8192, "filter_overlong_prompts": True, "filter_overlong_prompts_workers": None,
                               "cache_dir": str(tmp_path / "cache")})  # fmt: skip
    dataset = RLHFDataset([str(made(name, tmp_path))], processor.tokenizer, config, processor)
    plain, _ = sets.build(name, tmp_path / "raw")
    assert len(dataset) == len(sets_rows(name))  # verl filters rows that raise: none did
    checked = 0
    for number in range(len(dataset)):
        item = dataset[number]
        extra = item["extra_info"]
        prompt = processor.apply_chat_template(item["raw_prompt"], add_generation_prompt=True, tokenize=False)
        assert extra["question"] in prompt
        assert all(f"{'ABCD'[place]}) {option}" in prompt for place, option in enumerate(extra["options"]))
        assert prompt.count("<|image_pad|>") == len(extra["img_wh"])
        images, _ = asyncio.run(RLHFDataset.process_vision_info(item["raw_prompt"], image_patch_size=14, config=config))
        inputs = processor(text=[prompt], images=images, return_tensors="np")
        sizes = [FRAME.size((width, height)) for width, height in extra["img_wh"]]
        assert [(int(w) * 14, int(h) * 14) for _, h, w in inputs["image_grid_thw"]] == sizes
        pads = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert int((np.asarray(inputs["input_ids"]) == pads).sum()) == sum(width * height // 784 for width, height in sizes)
        reference = Reference.from_row(item["reward_model"], extra)
        if reference.boxes:
            assert (
                any(near(white(inputs, 0, processor), box.as_list()) for box in reference.boxes)
                or "page" in extra["meta_json"]
                or clipped(extra)
            )
            checked += 1
    assert checked or not any(dataset[number]["extra_info"]["gt_boxes"] for number in range(len(dataset)))
    assert plain.exists()


def near(found: list[float], wanted: list[float], tolerance: float = 2.5) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


def clipped(extra: dict[str, Any]) -> bool:
    """The one fixture row whose box is wider than its rectangle."""
    return extra["uid"] == "vgr-short-2"


def sets_rows(name: str) -> list[Any]:
    return {
        "sat": sets.SAT_ROWS,
        "sat_v2": sets.SAT_ROWS,
        "vgr": sets.VGR_ROWS,
        "viscot": [row for rows in sets.VISCOT_ROWS.values() for row in rows],
        "viscot_363k": sets.VISCOT_363K_ROWS,
        "treevgr_rl": sets.TREEVGR_ROWS,
    }[name]


def test_supervised_rows_reach_training(tmp_path: Path, processor: Any) -> None:
    """verl's SFT dataset takes the rows, the loss covers the response only, and its citation lies on the white rectangle."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    config = OmegaConf.create({"max_length": 8192, "pad_mode": "no_padding", "truncation": "error", "ignore_input_ids_mismatch": False})
    dataset = MultiTurnSFTDataset([str(made("vgr", tmp_path, "sft"))], processor.tokenizer, config, processor)
    item = dataset[0]
    trained = processor.tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
    assert trained.lstrip().startswith("<think>The man is here <bbox>")
    assert "What is the man holding" not in trained
    (cited,) = parse(trained).boxes
    assert near(white(item["multi_modal_inputs"], 0, processor), cited.as_list())


@pytest.mark.parametrize("chain", ["verl", "processor", "easyr1", "llama_factory"])
@pytest.mark.parametrize("wh", [(500, 336), (336, 500), (60, 40), (1920, 1080), (30, 12)])
def test_the_start_up_check_passes_where_limits_agree(chain: str, wh: tuple[int, int], processor: Any) -> None:
    frame = Frame(chain)
    limits = {"min_pixels": frame.min_pixels, "max_pixels": frame.max_pixels} if chain == "processor" else None
    check_processor(processor, frame, wh, limits)


def test_the_start_up_check_finds_limits_that_differ(processor: Any) -> None:
    with pytest.raises(ConfigError, match="after the processor"):
        check_processor(processor, Frame("processor"), (1920, 1080))  # the processor alone would allow twelve times as many pixels
    with pytest.raises(ConfigError, match="after the processor"):
        check_model(MODEL, Frame())  # the tiny model's own limits are 112 x 112
    with pytest.raises(ConfigError, match="Qwen2"):
        check_model(MODEL.parent, Frame())


@pytest.mark.parametrize("limits", [(3136, 12_845_056), (3136, 1_003_520), (1_003_520, 12_845_056), (12_544, 12_544)])
def test_our_sizes_are_those_of_both_libraries(limits: tuple[int, int], processor: Any) -> None:
    from qwen_vl_utils.vision_process import smart_resize as utilities
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as transformers

    generator = np.random.default_rng(0)
    low, high = limits
    for width, height in generator.integers(1, 5000, size=(500, 2)).tolist() + generator.integers(1, 60, size=(200, 2)).tolist():
        if max(width, height) > 200 * min(width, height):
            continue
        assert processor_size((width, height), low, high) == transformers(height, width, 28, low, high)[::-1]
        theirs = utilities(height, width, 28, low, high)[::-1]
        if 0 not in theirs:  # very long images under very low limits: qwen_vl_utils computes an impossible size and raises later
            assert Frame("verl", low, high).steps((width, height))[0] == theirs
