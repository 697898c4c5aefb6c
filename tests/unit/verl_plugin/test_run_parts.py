"""Small parts of a run: seeds, random states, rollout records, the summary of an evaluation, the multiplier store, the wish to stop."""

import base64
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("verl")
import torch

from faithful_rl import main as command
from faithful_rl import stop_request
from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.verl_plugin import random_state, rollout_dump
from faithful_rl.verl_plugin.heldout import question_uid, summarise
from faithful_rl.verl_plugin.multiplier_store import MultiplierStore
from faithful_rl.verl_plugin.rollout_workers import request_sampling, sampling_seed, seeded
from faithful_rl.verl_plugin.task_runner import namespace


def test_sampling_seeds_are_the_same_everywhere_and_differ_by_rollout() -> None:
    assert sampling_seed(0, "000000000007", 3) == 1649265774  # a constant of the format: changing it breaks resumed runs
    seeds = {sampling_seed(run, uid, rollout) for run in range(3) for uid in ("a", "b") for rollout in range(5)}
    assert len(seeds) == 30
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_prompts_own_decoding_overrides_the_batchs() -> None:
    batch = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "logprobs": True}
    greedy = request_sampling(batch, 0, "a", 0, "greedy", seeded=False)
    assert greedy == {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "logprobs": True}
    assert request_sampling(batch, 0, "a", 0, None, seeded=False) == batch
    assert "seed" not in batch
    assert request_sampling(batch, 0, "a", 0, None, seeded=True)["seed"] == sampling_seed(0, "a", 0)


@pytest.mark.parametrize(
    ("words", "training", "heldout"),
    [
        ([], True, True),
        (["faithful_rl.hardware.seeded_rollouts=false"], False, True),
        (["trainer.v1.trainer_mode=colocate_async"], False, True),
        (["actor_rollout_ref.rollout.name=sglang"], False, False),
    ],
)
def test_who_gets_a_seed(words: list[str], training: bool, heldout: bool) -> None:
    composed = command.prepare(["recipe=fgrpo_tiny", *words]).composed
    assert seeded(composed, heldout=False) is training
    assert seeded(composed, heldout=True) is heldout


def test_random_states_continue_exactly_after_json() -> None:
    random_state.seed(7)
    np.random.standard_normal()  # leaves a cached second value behind
    state = json.loads(json.dumps(random_state.capture()))
    expected = (random.random(), float(np.random.standard_normal()), torch.rand(3).tolist())
    random_state.seed(8)
    random_state.restore(state)
    assert (random.random(), float(np.random.standard_normal()), torch.rand(3).tolist()) == expected


def png(size: tuple[int, int] = (4, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("part", [{"bytes": png()}, {"image": Image.new("RGB", (4, 3), (255, 0, 0))}])
def test_a_record_carries_its_first_image_as_png(part: dict[str, object]) -> None:
    prompt = [{"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": "?"}]}]
    encoded = rollout_dump.first_image_base64(prompt)
    assert encoded is not None
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (4, 3)
    assert rollout_dump.first_image_base64([{"role": "user", "content": "no image"}]) is None


def test_a_record_says_how_many_images_the_question_has() -> None:
    picture = {"type": "image", "bytes": png()}
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": [picture, {"type": "text", "text": "?"}, picture]}]
    assert rollout_dump.image_count(prompt) == 2
    assert rollout_dump.image_count([]) == rollout_dump.image_count([{"role": "user", "content": "no image"}]) == 0
    fields = {"raw_prompt": prompt}
    one = rollout_dump.record(step=1, split="train", decoding=None, group="g", response="", fields=fields, columns={}, judged_json="")
    assert one["image_count"] == 2


def test_records_are_json_whatever_the_row_is_made_of(tmp_path: Path) -> None:
    extra = {"uid": "q1", "options": np.array(["a", "b"]), "gt_boxes": np.array([[1.0, 2.0, 3.0, 4.0]]), "img_wh": [np.array([112, 112])]}
    fields = {"extra_info": extra, "reward_model": {"ground_truth": "A"}, "raw_prompt": []}
    judged = json.dumps({"boxes_predicted": [[0, 0, 1, 1]], "sentences": []})
    one = rollout_dump.record(
        step=3,
        split="train",
        decoding=None,
        group="g",
        response="r",
        fields=fields,
        columns={"task": 1.0},
        judged_json=judged,
        advantage=0.5,
    )
    rollout_dump.write_lines(tmp_path / "rollouts" / "step_000003.jsonl", [one])
    (line,) = (tmp_path / "rollouts" / "step_000003.jsonl").read_text().splitlines()
    read = json.loads(line)
    assert (read["image_wh"], read["boxes_reference"], read["boxes_predicted"]) == ([112, 112], [[1.0, 2.0, 3.0, 4.0]], [[0, 0, 1, 1]])
    assert (read["options"], read["ground_truth"], read["advantage"]) == (["a", "b"], "A", 0.5)


def sample(**values: float) -> dict[str, float]:
    return {**dict.fromkeys(COLUMNS, 0.0), "response_tokens": 10.0, **values}


def test_summary_of_an_evaluation_by_hand() -> None:
    rows = [
        sample(accuracy=1, accuracy_scored=1, consistency=1, consistency_scored=1, judged_sentence_count=2, correct_sentence_count=1),
        sample(accuracy=1, accuracy_scored=1, consistency=0, consistency_scored=1, judged_sentence_count=2, correct_sentence_count=2),
        sample(accuracy=0, accuracy_scored=1, consistency=0, consistency_scored=1, judged_sentence_count=1, correct_sentence_count=0),
        sample(accuracy=1, accuracy_scored=1),
    ]
    summary = summarise(rows, failed=1)
    assert summary["accuracy"] == 0.75
    assert summary["inconsistency_rate"] == pytest.approx(2 / 3)  # over the three that were scored, right or wrong
    assert summary["right_for_false_reason"] == 0.5  # of the two right answers with a judged sentence
    assert (summary["questions"], summary["failed"], summary["response_tokens"]) == (4.0, 1.0, 10.0)
    assert "semantic_grounding" not in summary


def test_no_rows_no_means() -> None:
    assert summarise([])["questions"] == 0.0


def test_uids_of_held_out_questions_survive_verls_key_format() -> None:
    assert "_" not in question_uid("T1", 7)
    assert question_uid("T1", 7) != question_uid("greedy", 7)


def test_multipliers_only_move_forward() -> None:
    store = MultiplierStore()
    assert store.read() == {"step": -1, "multipliers": {}}
    assert store.publish(2, {"consistency": 1.1})
    assert not store.publish(1, {"consistency": 9.9})
    assert store.read() == {"step": 2, "multipliers": {"consistency": 1.1}}


def test_a_stop_can_be_asked_for_and_is_forgotten_at_the_next_start(tmp_path: Path) -> None:
    stop_request.request_stop(tmp_path, "SIGTERM")
    assert (tmp_path / stop_request.STOP_FILE).read_text() == "SIGTERM"
    stop_request.clear_stop(tmp_path)
    stop_request.clear_stop(tmp_path)
    assert not (tmp_path / stop_request.STOP_FILE).exists()


def test_two_runs_have_two_namespaces(tmp_path: Path) -> None:
    assert namespace(tmp_path / "a") != namespace(tmp_path / "b")
