"""From every source's file to what training sees: verl's dataset, its rendered prompt, and Qwen2.5-VL's real processor; and
LLaMA-Factory's rows to the same processor.

Every image of the fixtures is black with a white rectangle, so the processor's own pixels say whether a box sits right.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import benchmark_sets as benchmarks
import numpy as np
import pytest
import training_sets as sets

from data_prep import prepare, sources
from data_prep.frames import PROCESSOR_MAX_PIXELS, PROCESSOR_MIN_PIXELS, Frame, _white_area, check_model, check_processor, processor_size
from data_prep.prepare import Job
from faithful_rl.config import ConfigError
from faithful_rl.response import parse
from faithful_rl.rewards.suite import Reference
from faithful_rl.types import Box

pytest.importorskip("verl")
MODEL = Path(__file__).parents[2] / "models" / "tiny_warm_start"
# Records that each benchmark's fixture gives; SAT-Real's three rows stand in both orders of their options.
BENCHMARK_RECORDS = {"cvbench": 6, "mindcube": 3, "mmvp": 4, "omnispatial": 3, "realworldqa": 4, "sat_real": 6, "algopuzzlevqa": 3}
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


def read_by_verl(path: Path, processor: Any, cache: Path) -> Any:
    """verl's own dataset, which filters rows that raise."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"max_prompt_length": 8192, "filter_overlong_prompts": True, "filter_overlong_prompts_workers": None,
                               "cache_dir": str(cache)})  # fmt: skip
    return RLHFDataset([str(path)], processor.tokenizer, config, processor)


def processed(item: dict[str, Any], processor: Any) -> Any:
    """A verl item through template and processor: question, options and images are all there, each image in the size that FRAME predicts."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    extra = item["extra_info"]
    prompt = processor.apply_chat_template(item["raw_prompt"], add_generation_prompt=True, tokenize=False)
    assert extra["question"] in prompt
    assert all(f"{'ABCDEF'[place]}) {option}" in prompt for place, option in enumerate(extra["options"]))
    assert prompt.count("<|image_pad|>") == len(extra["img_wh"])
    images, _ = asyncio.run(RLHFDataset.process_vision_info(item["raw_prompt"], image_patch_size=14, config=None))
    inputs = processor(text=[prompt], images=images, return_tensors="np")
    sizes = [FRAME.size((width, height)) for width, height in extra["img_wh"]]
    assert [(int(w) * 14, int(h) * 14) for _, h, w in inputs["image_grid_thw"]] == sizes
    pads = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert int((np.asarray(inputs["input_ids"]) == pads).sum()) == sum(width * height // 784 for width, height in sizes)
    return inputs


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
    dataset = read_by_verl(made(name, tmp_path), processor, tmp_path / "cache")
    plain, _ = sets.build(name, tmp_path / "raw")
    assert len(dataset) == len(sets_rows(name))  # verl filters rows that raise: none did
    checked = 0
    for number in range(len(dataset)):
        item = dataset[number]
        extra = item["extra_info"]
        inputs = processed(item, processor)
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


@pytest.mark.parametrize("name", benchmarks.BUILDERS)
def test_from_a_benchmarks_file_to_prompt(name: str, tmp_path: Path, processor: Any) -> None:
    """With the fixture's bad rows in the file: none of them comes through, and no other is lost."""
    assert set(benchmarks.BUILDERS) | set(map(sets.source_of, sets.SOURCES)) == set(sources.names())  # every source has its test here
    location = benchmarks.build(name, tmp_path / "raw", bad=True)
    prepare.prepare(Job(name, str(location), tmp_path / "out", frame=FRAME, reject_share=1.0))
    (path,) = (tmp_path / "out").glob("*.parquet")
    dataset = read_by_verl(path, processor, tmp_path / "cache")
    assert len(dataset) == BENCHMARK_RECORDS[name]
    for number in range(len(dataset)):
        item = dataset[number]
        processed(item, processor)
        assert Reference.from_row(item["reward_model"], item["extra_info"]).ground_truth == item["reward_model"]["ground_truth"]


def test_several_images_reach_the_model_in_the_order_of_the_question(tmp_path: Path, processor: Any) -> None:
    """MindCube's four views, each with a size and a rectangle of its own."""
    views = {"front": ((80, 60), (10, 10, 40, 40)), "left": ((160, 120), (80, 20, 150, 100)),
             "back": ((90, 140), (20, 70, 60, 130)), "right": ((300, 100), (200, 30, 280, 90))}  # fmt: skip
    location = benchmarks.mindcube(tmp_path / "raw")
    for side, (wh, box) in views.items():
        sets.put(location / "data" / benchmarks.VIEWS / f"{side}_007.jpg", sets.jpeg(*wh, box))
    prepare.prepare(Job("mindcube", str(location), tmp_path / "out", frame=FRAME))
    (path,) = (tmp_path / "out").glob("*.parquet")
    dataset = read_by_verl(path, processor, tmp_path / "cache")
    named = [[Path(image).name.removesuffix("_007.jpg") for image in row["images"]] for row in benchmarks.MINDCUBE]
    assert list(map(len, named)) == [4, 2, 3]
    for number, sides in enumerate(named):
        inputs = processed(dataset[number], processor)
        for index, side in enumerate(sides):
            wh, box = views[side]
            wanted = FRAME.to_model(Box(*map(float, box)), wh).as_list()
            assert near(white(inputs, index, processor), wanted, tolerance=4.0)


def test_llama_factory_rows_are_what_its_reader_expects(tmp_path: Path, processor: Any) -> None:
    """Its rules: a list of rows, columns by dataset_info.json, roles in turn, one `<image>` for each image, paths below the folder. It
    resizes before the processor does; the cited box lies on the white rectangle then."""
    from PIL import Image

    location, options = sets.build("vgr", tmp_path / "raw")
    frame = Frame(chain="llama_factory", max_pixels=200_704)
    out = tmp_path / "out"
    prepare.prepare(Job("vgr", str(location), out, format="llama_factory", options=options, frame=frame))
    ((name, info),) = json.loads((out / "dataset_info.json").read_text()).items()
    assert (name, info["file_name"], info["formatting"]) == ("train", "train.json", "sharegpt")
    columns = info["columns"]
    assert columns == {"messages": "conversations", "images": "images", "system": "system"}
    rows = json.loads((out / info["file_name"]).read_text())
    assert len(rows) == len(sets.VGR_ROWS)
    for row, source in zip(rows, sets.VGR_ROWS, strict=True):
        assert sorted(row) == sorted(columns.values())
        turns, images = row[columns["messages"]], row[columns["images"]]
        assert [turn["from"] for turn in turns] == ["human", "gpt"]
        assert all(isinstance(turn["value"], str) and turn["value"].strip() for turn in turns)
        assert turns[0]["value"].count("<image>") == len(images) == 1
        assert "<image>" not in turns[1]["value"] + row[columns["system"]]
        picture = Image.open(out / images[0])
        assert picture.size == sets.VGR_WH
        assert not Path(images[0]).is_absolute()
        inputs = processor.image_processor(images=[picture.resize(frame.steps(picture.size)[0])], return_tensors="np")
        assert [(int(w) * 14, int(h) * 14) for _, h, w in inputs["image_grid_thw"]] == [frame.size(sets.VGR_WH)]
        cited = parse(turns[1]["value"]).boxes
        assert cited
        if "1.004" not in json.dumps(source):  # the one whose box is wider than its rectangle
            assert all(near(white(inputs, 0, processor), box.as_list()) for box in cited)


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
