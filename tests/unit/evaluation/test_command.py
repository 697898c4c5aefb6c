"""The whole command with a stand-in for the model: generation, judging, resuming, and what is down."""

import io
import json
from pathlib import Path
from typing import Any

import benchmark_sets as sets
import crafted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_doubles import ModelDouble, lost, refused, text_of, use_fleet
from rich.console import Console

from faithful_rl import evaluate
from faithful_rl.evaluation import comparison, present
from faithful_rl.evaluation.judging import Judging
from faithful_rl.evaluation.rows import read_rows
from faithful_rl.judges.backend import BACKENDS, JudgeFailure, SceneBackend
from faithful_rl.judges.chat import Completion
from faithful_rl.types import Reason, Score


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets.build_all(tmp_path_factory.mktemp("benchmarks"))


def run(out: Path, *words: str, benchmarks: str = "mmvp") -> tuple[int, dict[str, Any]]:
    code = evaluate.main(
        ["model=m", "base_url=http://127.0.0.1:1/v1", f"benchmarks=[{benchmarks}]", f"out={out}", "progress=false", *words]
    )
    file = out / "evaluation.json"
    return code, json.loads(file.read_text()) if file.exists() else {}


ALL = "cvbench_2d,cvbench_3d,mindcube,mmvp,omnispatial,realworldqa,sat_real,algopuzzlevqa"


def test_every_benchmark_goes_through_on_its_real_layout(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ModelDouble()
    use_fleet(monkeypatch, chat)
    code, summary = run(tmp_path / "out", f"data={data}", "pins=note", benchmarks=ALL)
    assert code == 1, "a few rows of a benchmark are a part of it"
    found = {
        name: (entry["generated"], entry["scored"] / entry["generated"], entry["metrics"]["accuracy"]["value"])
        for name, entry in summary["benchmarks"].items()
    }
    # the double always says A
    assert found == {
        "cvbench_2d": (4, 1.0, 0.25), "cvbench_3d": (2, 1.0, 0.5), "mindcube": (3, 1.0, pytest.approx(1 / 3)), "mmvp": (4, 1.0, 0.5),
        "omnispatial": (3, 1.0, pytest.approx(1 / 3)), "realworldqa": (4, 1.0, 0.0), "sat_real": (6, 1.0, 0.5), "algopuzzlevqa": (3, 1.0, pytest.approx(1 / 3)),
    }  # fmt: skip
    assert summary["benchmarks"]["sat_real"]["conventions"]["all_orders"]["value"] == 0.0
    assert summary["benchmarks"]["mmvp"]["conventions"]["per_pair"]["value"] == 0.0
    assert summary["benchmarks"]["cvbench_2d"]["conventions"]["mean_of_strata"]["value"] == 0.25
    assert summary["combined"]["cvbench"]["accuracy"]["value"] == pytest.approx(0.375)
    assert summary["benchmarks"]["mindcube"]["by_task_type"].keys() == {"among", "around", "rotation"}
    assert "no judge was asked (judges=none): inconsistency and grounding are not measured" in summary["benchmarks"]["mmvp"]["notes"]
    assert summary["benchmarks"]["mmvp"]["metrics"]["inconsistency_rate"]["value"] is None
    four = next(messages for messages in chat.asked if "right? " in text_of(messages) or "to my right" in text_of(messages))
    assert text_of(four).count("<image>") == 4
    assert len(chat.asked) == 29


def test_no_number_is_cut_off_in_a_narrow_terminal(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fleet(monkeypatch, ModelDouble())
    _, summary = run(tmp_path / "out", f"data={data}", "pins=note", benchmarks=ALL)
    text = io.StringIO()
    narrow = Console(file=text, width=80, highlight=False)
    present.show(summary, narrow)
    present.show_pairs(comparison.compare(*[[comparison.read_evaluation(tmp_path / "out")]] * 2), narrow)
    assert "…" not in text.getvalue()
    assert "p (Holm)" in text.getvalue()
    assert text.getvalue().count("right_for_a_false_reason %") == 4  # eight benchmarks, two beside each other


def test_a_file_in_the_way_and_a_full_disk_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, good = crafted.write_questions(tmp_path / "crafted.parquet"), crafted.write_predictions(tmp_path / "good.jsonl")
    words = ["model=m", f"benchmarks=[{questions}]", f"predictions={good}", "progress=false", "columns.uid=id", "columns.response=output"]
    assert evaluate.main([*words, f"out={good}"]) == 2
    assert "a directory" in capsys.readouterr().err

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("faithful_rl.evaluation.run.write_rows", full)
    assert evaluate.main([*words, f"out={tmp_path / 'out'}"]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_mistake_before_the_first_response_costs_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other settings are refused where they would mix with responses, not where an earlier start was refused itself."""
    questions, wrong = crafted.write_questions(tmp_path / "crafted.parquet"), tmp_path / "wrong.jsonl"
    wrong.write_text('{"id": "unknown", "output": "A"}\n')
    good = crafted.write_predictions(tmp_path / "good.jsonl")
    words = [f"benchmarks=[{questions}]", f"out={tmp_path / 'out'}", "progress=false", "columns.uid=id", "columns.response=output"]
    assert evaluate.main(["model=m", f"predictions={wrong}", *words]) == 2
    assert evaluate.main(["model=other", f"predictions={good}", *words]) == 1  # two questions without a prediction
    kept = (tmp_path / "out" / "evaluation.json").read_bytes()
    capsys.readouterr()
    assert evaluate.main(["model=third", f"predictions={good}", *words]) == 2
    assert "an evaluation with another model" in capsys.readouterr().err
    assert evaluate.main(["model=other", f"predictions={wrong}", *words]) == 2
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == kept  # a refused start touches nothing


def test_a_stopped_evaluation_goes_on_and_asks_only_what_is_missing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    down = ModelDouble(
        lambda messages, tokens: refused() if "tusks" in text_of(messages) else Completion("<answer>A</answer>", 1, 2, "stop")
    )
    use_fleet(monkeypatch, down)
    words = (f"data={data}", "pins=note")
    code, summary = run(tmp_path / "out", *words)
    entry = summary["benchmarks"]["mmvp"]
    assert (code, entry["questions"], entry["generated"], entry["scored"]) == (1, 300, 2, 2)
    assert "2 question(s) without a response (the model refused the prompt): mmvp-99, mmvp-100" in entry["notes"]
    up = ModelDouble()
    use_fleet(monkeypatch, up)
    code, summary = run(tmp_path / "out", *words)
    assert (code, summary["benchmarks"]["mmvp"]["scored"]) == (1, 4)
    assert len(up.asked) == 2
    # 2 responses of 1 and 2 tokens, then 2 of 5 and 9; one entry for each start, and none of the third, which asks nothing
    cost = summary["costs"]
    assert (cost["starts"], cost["responses"], cost["prompt_tokens"], cost["response_tokens"]) == (2, 4, 12, 22)
    assert cost["serving_seconds"] >= cost["generation_seconds"] >= 0
    assert (cost["gpu_seconds"], cost["judge_seconds"], cost["judges"]) == (None, None, {}), (
        "an endpoint's GPUs are not known, nobody judged"
    )
    with (tmp_path / "out" / "state" / "mmvp.responses.jsonl").open("a") as stream:
        stream.write('{"uid": "mmvp-1", "resp')
    use_fleet(monkeypatch)  # nothing is missing: no replica is needed
    again = run(tmp_path / "out", *words)
    assert again == (1, summary)


def test_another_evaluation_is_not_written_over(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    use_fleet(monkeypatch, ModelDouble())
    run(tmp_path / "out", f"data={data}", "pins=note")
    code, _ = run(tmp_path / "out", f"data={data}", "pins=note", "mode=no_reasoning")
    assert code == 2
    assert "an evaluation with another mode" in capsys.readouterr().err


def test_lost_replicas_end_with_a_message_and_keep_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    file = crafted.write_questions(tmp_path / "crafted.parquet")
    use_fleet(monkeypatch, ModelDouble(lambda messages, tokens: lost() if tokens > 1 else Completion(""), healthy=False))
    code, summary = run(tmp_path / "out", "concurrency=4", benchmarks=str(file))
    assert (code, summary) == (1, {})
    assert "no replica of the model answers" in capsys.readouterr().err


class MoodyJudge(SceneBackend):
    """The exact judge, which fails on every fourth response until it is told not to."""

    failing = True

    async def consistency(self, request: Any, deadline: float) -> Score:
        if MoodyJudge.failing and int(request.uid[1:]) % 4 == 0:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "busy")
        return await super().consistency(request, deadline)


def test_a_judge_that_fails_is_counted_and_only_its_failures_are_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = crafted.write_questions(tmp_path / "crafted.parquet")
    monkeypatch.setitem(BACKENDS, "moody", MoodyJudge)
    monkeypatch.setattr(MoodyJudge, "failing", True)
    use_fleet(monkeypatch, ModelDouble())
    code, summary = run(tmp_path / "out", "judges=moody", benchmarks=str(file))
    entry = summary["benchmarks"]["crafted"]
    assert (code, entry["generated"], entry["scored"], entry["coverage"]) == (1, 48, 36, 0.75)
    assert entry["metrics"]["inconsistency_rate"]["n"] == 36
    assert "12 response(s) without a verdict on consistency: judge_unavailable" in entry["notes"]
    first = summary["costs"]["judges"]
    monkeypatch.setattr(MoodyJudge, "failing", False)
    asked: list[str] = []
    judge = Judging.judge

    async def counted(self: Judging, request: Any, unread: Any) -> Any:
        asked.append(request.uid)
        return await judge(self, request, unread)

    monkeypatch.setattr(Judging, "judge", counted)
    code, summary = run(tmp_path / "out", "judges=moody", benchmarks=str(file))
    assert (code, summary["benchmarks"]["crafted"]["coverage"], len(asked)) == (0, 1.0, 12)
    # 48 responses of the first start and the 12 failures of the second
    assert (first["consistency"]["requests"], summary["costs"]["judges"]["consistency"]["requests"]) == (48, 60)
    assert summary["costs"]["judge_seconds"] > 0


def test_a_judge_that_is_down_is_refused_before_anything_is_generated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    async def unhealthy(self: Any) -> bool:
        return False

    monkeypatch.setitem(BACKENDS, "moody", MoodyJudge)
    monkeypatch.setattr(MoodyJudge, "healthy", unhealthy)
    chat = ModelDouble()
    use_fleet(monkeypatch, chat)
    code, _ = run(tmp_path / "out", f"data={data}", "pins=note", "judges=moody")
    assert code == 2
    assert chat.asked == []
    assert "judges.consistency: found moody, which is not healthy" in capsys.readouterr().err


def test_the_exact_judge_does_not_guess_about_photographs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fleet(monkeypatch, ModelDouble())
    code, summary = run(tmp_path / "out", f"data={data}", "pins=note", "judges=scene")
    entry = summary["benchmarks"]["mmvp"]
    assert (code, entry["cells"]["unscored"], entry["scored"]) == (1, 4, 4)  # of 300; nothing is judged, as without a judge
    assert entry["reasons"]["consistent"] == {"cannot_judge": 4}
    assert "4 response(s) that the exact judge of scenes cannot judge, because they are about other images" in entry["notes"]


def test_without_reasoning_there_is_nothing_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = crafted.write_questions(tmp_path / "crafted.parquet")
    use_fleet(monkeypatch, ModelDouble())
    _, summary = run(tmp_path / "out", "judges=scene", "mode=no_reasoning", benchmarks=str(file))
    rows = read_rows(tmp_path / "out", "crafted")
    assert {row["consistent_reason"] for row in rows} == {"nothing_to_judge"}
    assert summary["benchmarks"]["crafted"]["coverage"] == 1.0
    assert summary["mode"] == "no_reasoning"


def test_a_question_that_cannot_be_scored_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [crafted.row("q0"), crafted.row("q1")]
    rows[1]["extra_info"] |= {"img_wh": [[4000, 10]], "gt_boxes": [[1.0, 1.0, 5.0, 5.0]], "box_labels": ["x"], "box_image_idx": [0]}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "odd.parquet")
    use_fleet(monkeypatch, ModelDouble())
    code, summary = run(tmp_path / "out", "judges=scene", benchmarks=str(tmp_path / "odd.parquet"))
    assert (code, summary["benchmarks"]["odd"]["coverage"]) == (1, 0.5)
    assert "1 question(s) without a response (cannot be scored): q1" in summary["benchmarks"]["odd"]["notes"]


def test_help_and_mistakes_have_their_exit_codes(capsys: Any) -> None:
    assert evaluate.main(["--help"]) == 0
    assert "python -m faithful_rl.evaluate compare" in capsys.readouterr().out
    assert evaluate.main([]) == 2
    assert evaluate.main(["model=m"]) == 2
    assert evaluate.main(["compare", "a=x"]) == 2
    assert evaluate.main(["compare", "a=x", "b=y", "c=z"]) == 2
    assert "error: command line: found 'c=z'" in capsys.readouterr().err
