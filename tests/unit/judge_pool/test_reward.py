"""The custom reward function of stock verl: fixed keys, whatever the judges do."""

import asyncio
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.judges import reward
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

RIGHT = "<think>The red circle is left of the blue square.</think><answer>A</answer>"
WRONG = "<think>The red circle is right of the blue square.</think><answer>B</answer>"
EXTRA = {"uid": "q1", "question": "Where is it?", "options": ["left", "right"], "gold_index": 0}


class Asked:
    def __init__(self, verdict: Any) -> None:
        self.verdict, self.requests = verdict, list[JudgeRequest]()

    async def ask(self, request: JudgeRequest) -> Any:
        self.requests.append(request)
        return self.verdict


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {
        "consistency": Asked(Score(0.0)),
        "grounding": Asked([SentenceVerdict("The red circle is left of the blue square.", 0, 42, Verdict.CORRECT)]),
        "arguments": [],
    }

    def client(pool: str, judge: str, timeout_seconds: float | None, name: str | None) -> Any:
        found["arguments"].append((pool, judge, timeout_seconds, name))
        return found[judge]

    monkeypatch.setattr(reward, "_client", client)
    monkeypatch.delenv("FAITHFUL_JUDGES", raising=False)
    return found


def call(text: str, **more: Any) -> dict[str, float]:
    return asyncio.run(reward.compute_score("scenes", text, "A", more.pop("extra_info", EXTRA), **more))


def test_score_and_columns(clients: dict[str, Any]) -> None:
    row = call(RIGHT, reward_router_address="unused")
    assert set(row) == {"score", *COLUMNS}
    assert "reward" not in row
    assert all(isinstance(value, float) and math.isfinite(value) for value in row.values())
    assert (row["score"], row["task"], row["consistency"], row["consistency_scored"]) == (1.0, 1.0, 0.0, 1.0)
    assert (row["semantic_grounding"], row["semantic_grounding_scored"]) == (1.0, 1.0)
    assert clients["arguments"] == [("default", "consistency", None, None), ("default", "grounding", None, None)]


def test_wrong_answers_are_not_judged_unless_asked(clients: dict[str, Any]) -> None:
    row = call(WRONG)
    assert (row["consistency_scored"], row["consistency_reason"]) == (0.0, float(Reason.MASKED))
    assert not clients["consistency"].requests
    assert call(WRONG, ask_masked=True)["consistency_scored"] == 1.0


@pytest.mark.parametrize("reason", [Reason.JUDGE_ERROR, Reason.JUDGE_TIMEOUT, Reason.JUDGE_UNAVAILABLE])
def test_a_failed_judge_is_never_a_zero(clients: dict[str, Any], reason: Reason) -> None:
    clients["consistency"].verdict = clients["grounding"].verdict = Score(None, reason)
    row = call(RIGHT)
    assert set(row) == {"score", *COLUMNS}
    assert row["score"] == 1.0
    for signal in ("consistency", "semantic_grounding"):
        assert (row[f"{signal}_scored"], row[f"{signal}_reason"]) == (0.0, float(reason))


def test_the_pool_is_chosen_by_argument_then_environment(clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAITHFUL_JUDGES", "lab")
    call(RIGHT)
    call(RIGHT, pool="mine", timeout_seconds=3.0, client="run-7")
    assert clients["arguments"][0][0] == "lab"
    assert clients["arguments"][2] == ("mine", "consistency", 3.0, "run-7")


def test_images_are_taken_from_extra_info(clients: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "four.png").write_bytes(b"four")
    images = [b"one", {"bytes": b"two", "path": ""}, {"bytes": None, "path": "gone.png"}, 3, str(tmp_path / "four.png")]
    call(RIGHT, extra_info=EXTRA | {"images": images, "scene_json": None})
    request = clients["grounding"].requests[0]
    assert request.images == (b"one", b"two", b"", b"", b"four"), "what cannot be read keeps its place: image 5 stays image 5"
    assert request.frames == ()
    assert (request.uid, request.question, request.options, request.scene_json) == ("q1", "Where is it?", ("left", "right"), "")


def test_an_image_that_comes_late_is_read_then(clients: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "late.png"
    for content in (b"", b"picture"):
        if content:
            file.write_bytes(content)
        call(RIGHT, extra_info=EXTRA | {"images": [f"file://{file}", "a\0b"]})
        assert clients["grounding"].requests[-1].images == (content, b"")


def test_boxes_are_in_the_frame_of_the_resized_images(clients: dict[str, Any]) -> None:
    row = EXTRA | {"images": [b"one", b"two"], "img_wh": [[640, 480], [30, 60]], "min_pixels": 3136, "max_pixels": 50176}
    call(RIGHT, extra_info=row)
    call(RIGHT, extra_info=row | {"images": [b"one"]})
    assert [one.frames for one in clients["grounding"].requests] == [((252, 168), (56, 84)), ()]


@pytest.mark.parametrize("text", ["", "no tags", "<think>", "\ud800", "x" * 100_000])
def test_any_text_gives_the_same_keys(clients: dict[str, Any], text: str) -> None:
    assert set(call(text, ask_masked=True)) == {"score", *COLUMNS}


def test_a_row_of_another_data_set(clients: dict[str, Any]) -> None:
    row = asyncio.run(reward.compute_score("gsm8k", "<think>Six times seven.</think><answer>42</answer>", "42"))
    assert row["score"] == 1.0
    with pytest.raises(ValueError, match=r"row uid=q1: reward_model.ground_truth 'A' and extra_info.gold_index 1"):
        call(RIGHT, extra_info=EXTRA | {"gold_index": 1})


def test_it_loads_without_the_heavy_packages_and_verl_sees_a_coroutine_function() -> None:
    code = (
        "import sys, inspect, functools; from faithful_rl.judges.reward import compute_score; "
        "assert inspect.iscoroutinefunction(functools.partial(compute_score, pool='x')); "
        "print(sorted({'ray', 'torch', 'verl', 'vllm', 'openai', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.strip() == "[]"
