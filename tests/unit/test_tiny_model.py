"""The tiny model's tokenizer, processor, configuration and traces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

from data_prep.scenes.dataset import SceneDataSettings, scene_rows, user_text
from data_prep.scenes.questions import LEARNABLE, draw_sample
from data_prep.scenes.world import CELL, random_scene, render
from faithful_rl.judges.scene_language import write_question
from faithful_rl.tiny.batches import IGNORED, PROMPT, image_grid, make_batch, pixel_values, position_ids
from faithful_rl.tiny.evaluate import held_out, score, summarise
from faithful_rl.tiny.model import random_tiny_model, tiny_config, tiny_model, tiny_processor
from faithful_rl.tiny.teacher import Imperfection, caption, clean_trace, imperfect_trace
from faithful_rl.tiny.tokenizer import SPECIAL_TOKENS, TAGS, corpus, train_tokenizer
from faithful_rl.tiny.warm_start import WarmStartSettings, _counting_examples, banned_tokens, run

SHIPPED = Path(__file__).parents[2] / "models" / "tiny_warm_start"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def processor(tokenizer):
    return tiny_processor(tokenizer)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "text",
    [
        "The red circle is in the upper left <bbox>[2,2,26,26]</bbox>. So the answer is left.",
        "<think>a</think><answer>A</answer>",
        "Unseen words, ünïcödé, 数字 and 🙂 fall back to bytes.\n\n  spaces  ",
        "",
    ],
)
def test_any_text_survives_a_round_trip(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_word_and_number_is_one_token(tokenizer) -> None:
    for word in [
        " red",
        " circle",
        " triangle",
        " yellow",
        " upper",
        " answer",
        "The",
        " The",
        " So",
        "Is",
        "How",
        " nearest",
        "112",
        "90",
    ]:
        assert len(tokenizer(word)["input_ids"]) == 1, word
    assert len(tokenizer("<bbox>[2,106,26,112]</bbox>")["input_ids"]) == 11


def test_tags_survive_decoding_and_special_tokens_do_not(tokenizer) -> None:
    ids = tokenizer("<|im_start|><think>x</think><answer>A</answer><|im_end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>x</think><answer>A</answer>"
    for token in (*SPECIAL_TOKENS, *TAGS):
        assert len(tokenizer(token)["input_ids"]) == 1


def test_the_tokenizer_is_always_the_same(tokenizer) -> None:
    assert train_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) < 640
    assert corpus() == corpus()


def test_the_processor_gives_one_token_per_cell_and_the_fast_path_agrees(tokenizer, processor) -> None:
    (row,) = scene_rows(SceneDataSettings(train=1), "train")  # the first draw of this seed that is in the split, so it is found again below
    info = row["extra_info"]
    rng = Random("scenes/0/train")
    scene = next(s for s in (draw_sample(rng, "left_right") for _ in range(200)) if write_question(s.question) == info["question"]).scenes[
        0
    ]
    text = row["prompt"][0]["content"].removeprefix("<image>")
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    prompt = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[prompt], images=[render(scene)], return_tensors="pt")
    ids = inputs["input_ids"][0]
    assert (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 16
    assert inputs["image_grid_thw"].tolist() == image_grid(1).tolist() == [[1, 8, 8]]
    assert torch.allclose(inputs["pixel_values"], pixel_values([scene]), atol=1e-6)
    assert tokenizer(PROMPT.format(text=text))["input_ids"] == ids.tolist()
    assert text == user_text(info["question"], tuple(info["options"]))
    assert len(ids) <= 64


def test_string_and_list_content_make_the_same_prompt(processor) -> None:
    text = processor.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True, tokenize=False)
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert text == processor.apply_chat_template(parts, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_positions_are_those_of_qwen(tokenizer) -> None:
    model = tiny_model(tiny_config(tokenizer), 0)
    sample = draw_sample(Random(1), "direction")
    batch = make_batch(tokenizer, [sample.scenes[0]], [user_text(write_question(sample.question), sample.options)], [clean_trace(sample)])
    images = batch.input_ids == model.config.image_token_id
    expected, _ = model.model.get_rope_index(batch.input_ids, image_grid_thw=image_grid(1), mm_token_type_ids=images.int())
    assert torch.equal(expected, position_ids(int(images[0].int().argmax()), batch.input_ids.shape[1]))


def test_labels_cover_the_response_and_its_end_only(tokenizer) -> None:
    samples = [draw_sample(Random(seed), "count") for seed in range(4)]
    responses = [clean_trace(sample) for sample in samples]
    batch = make_batch(tokenizer, [sample.scenes[0] for sample in samples], ["How many?"] * 4, responses)
    for row, response in zip(batch.labels, responses, strict=True):
        assert tokenizer.decode(row[row != IGNORED]) == response + "<|im_end|>"


def test_a_model_loads_like_any_qwen_and_stops_at_the_end_marker(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    directory = random_tiny_model(tmp_path / "model", seed=1)
    processor, model = AutoProcessor.from_pretrained(directory), AutoModelForImageTextToText.from_pretrained(directory)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert 1_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in model.generation_config.eos_token_id
    assert processor.tokenizer.eos_token_id == end
    size = json.loads((directory / "processor_config.json").read_text())["image_processor"]["size"]
    assert set(size.values()) == {112 * 112}
    again = random_tiny_model(tmp_path / "again", seed=1)
    assert (again / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


def test_clean_traces_earn_full_reward_in_96_tokens(tokenizer) -> None:
    rng = Random(0)
    for family in LEARNABLE:
        for _ in range(25):
            sample = draw_sample(rng, family)
            row = score(sample, clean_trace(sample))
            values = [row[name] for name in ("task", "consistency", "semantic_grounding", "spatial_grounding")]
            assert values == pytest.approx([1.0] * 4)
            assert len(tokenizer(clean_trace(sample))["input_ids"]) < 96


def test_captions_name_every_shape() -> None:
    scene = random_scene(Random(2), 4)
    assert all(f"The {shape.name} is in the {shape.quarter} <bbox>" in caption(scene) for shape in scene)


def test_a_teacher_without_faults_is_the_clean_one() -> None:
    faultless = Imperfection(near_fact=0, far_fact=0, location=0, box=0, format=0)
    for family in LEARNABLE:
        sample = draw_sample(Random(family), family)
        assert imperfect_trace(sample, Random(0), faultless) == clean_trace(sample)


def test_each_fault_hits_its_own_signal() -> None:
    none = {"near_fact": 0.0, "far_fact": 0.0, "location": 0.0, "box": 0.0, "format": 0.0}
    faults = {
        "false fact, answer right": (
            {"near_fact": 1, "far_fact": 1, "corrected_answer": 1},
            {"accuracy": 1, "consistency": 0, "format": 1},
        ),
        "false fact, answer follows": (
            {"near_fact": 1, "far_fact": 1, "corrected_answer": 0},
            {"accuracy": 0, "consistency": 1, "format": 1},
        ),
        "location": ({"location": 1}, {"accuracy": 1, "consistency": 1, "spatial_grounding": 1}),
        "format": ({"format": 1}, {"format": 0}),
    }
    for rates, expected in faults.values():
        for family in LEARNABLE:
            sample = draw_sample(Random(f"{family}!"), family)
            row = score(sample, imperfect_trace(sample, Random(0), Imperfection(**{**none, **rates})))
            assert {name: row[name] for name in expected} == pytest.approx(expected), (family, rates)
    sample = draw_sample(Random(3), "left_right")
    assert score(sample, imperfect_trace(sample, Random(0), Imperfection(**{**none, "location": 1})))[
        "semantic_grounding"
    ] == pytest.approx(1 / 3)
    assert score(sample, imperfect_trace(sample, Random(0), Imperfection(**{**none, "box": 1})))["spatial_grounding"] < 0.7


def test_the_warm_start_is_reproducible_and_refuses_to_overwrite(tmp_path: Path) -> None:
    settings = WarmStartSettings(seed=5, alignment_steps=2, clean_steps=3, imperfect_steps=2, counting_steps=2, batch_size=4, threads=1)
    calls: list[tuple[str, int, int]] = []
    first = run(settings, tmp_path / "a", lambda stage, step, steps, loss: calls.append((stage, step, steps)), questions=4)
    second = run(settings, tmp_path / "b", questions=0)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["data_sha256"] == json.loads((second / "manifest.json").read_text())["data_sha256"]
    assert manifest["settings"]["seed"] == 5
    assert set(manifest["metrics"]["greedy"]) >= {"accuracy", "inconsistency_rate", "semantic_grounding"}
    assert calls == [
        ("alignment", 1, 2),
        ("alignment", 2, 2),
        *(("clean", n, 3) for n in (1, 2, 3)),
        ("imperfect", 1, 2),
        ("imperfect", 2, 2),
        ("counting", 1, 2),
        ("counting", 2, 2),
    ]
    with pytest.raises(FileExistsError, match=r"manifest\.json"):
        run(settings, tmp_path / "a")


def test_scaled_settings_shrink_every_stage() -> None:
    scaled = WarmStartSettings(seed=3).scaled(0.001)
    assert (scaled.alignment_steps, scaled.clean_steps, scaled.imperfect_steps, scaled.counting_steps, scaled.seed) == (2, 2, 2, 2, 3)


def test_the_last_stage_counts_in_reading_order() -> None:
    drawn = _counting_examples(WarmStartSettings(imperfection=Imperfection(0, 0, 1, 0, 0, 0)))
    responses = [response for _, prompt, response in (next(drawn) for _ in range(200)) if "How many" in prompt]
    assert 70 < len(responses) < 130
    for response in responses:
        boxes = [json.loads(found) for found in re.findall(r"\[[\d, ]+\]", response)]
        rows_and_columns = [(y1 // CELL, x1 // CELL) for x1, y1, _, _ in boxes]
        assert rows_and_columns == sorted(rows_and_columns)


def test_held_out_questions_are_distinct_and_fixed() -> None:
    assert held_out(20, 0) == held_out(20, 0)
    assert held_out(20, 0) != held_out(20, 1)


def test_summary_counts_scored_rows_only() -> None:
    sample = draw_sample(Random(0), "left_right")
    rows = [score(sample, clean_trace(sample)), score(sample, "nothing")]
    summary = summarise(rows)
    assert (summary["accuracy"], summary["inconsistency_rate"], summary["semantic_grounding"]) == (0.5, 0.5, 1.0)
    assert (summary["accuracy_if_consistent"], summary["accuracy_if_inconsistent"]) == (1.0, 0.0)


@pytest.mark.skipif(not SHIPPED.exists(), reason="the shipped model is not in this checkout")
def test_the_shipped_warm_start_is_what_its_manifest_says() -> None:
    import hashlib

    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    assert hashlib.sha256((SHIPPED / "model.safetensors").read_bytes()).hexdigest() == manifest["weights_sha256"]
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 10_000_000
    model, processor = Qwen2_5_VLForConditionalGeneration.from_pretrained(SHIPPED), AutoProcessor.from_pretrained(SHIPPED)
    assert processor.tokenizer.get_vocab() == train_tokenizer().get_vocab()
    # One forward pass over true traces: it reads images, and never wants to write an image token.
    samples = held_out(8, 7, "test")
    texts = [user_text(write_question(sample.question), sample.options) for sample in samples]
    batch = make_batch(processor.tokenizer, [sample.scenes[0] for sample in samples], texts, [clean_trace(sample) for sample in samples])
    images = batch.input_ids == model.config.image_token_id
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=(batch.input_ids != processor.tokenizer.pad_token_id).int(),
            pixel_values=batch.pixels,
            image_grid_thw=image_grid(len(samples)),
            mm_token_type_ids=images.int(),
        ).logits
    wanted = batch.labels[:, 1:] != IGNORED
    log_probabilities = logits[:, :-1][wanted].log_softmax(-1)
    likelihood = log_probabilities.gather(1, batch.labels[:, 1:][wanted][:, None]).mean()
    assert likelihood > -0.5
    assert log_probabilities[:, banned_tokens(model, processor.tokenizer)].max() < -8
