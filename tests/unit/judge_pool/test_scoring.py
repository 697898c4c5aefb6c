"""`score`: a file of rollouts read strictly, asked of a pool's clients, written whole. No Ray is started."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray")
from rich.console import Console

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import scoring
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict

RIGHT = "<think>The red circle is left of the blue square.</think><answer>A</answer>"
WRONG = "<think>The red circle is right of the blue square.</think><answer>B</answer>"


def row(**more: Any) -> dict[str, Any]:
    return {"uid": "q", "question": "Where is it?", "options": ["left", "right"], "ground_truth": "A", "response": RIGHT, **more}


def jsonl(folder: Path, *rows: Any) -> Path:
    file = folder / "rollouts.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


class Client:
    """Answers as `verdicts` say, judge by judge, and counts as a pool's client does."""

    verdicts: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str, JudgeRequest]]] = []

    def __init__(self, pool: str, judge: str, timeout_seconds: float | None, client_name: str) -> None:
        self.judge, self.versions = judge, {f"{judge} 1"}

    async def ask(self, request: JudgeRequest) -> Any:
        self.asked.append((self.judge, request))
        return self.verdicts[self.judge]

    def counts(self) -> dict[str, int]:
        number = sum(judge == self.judge for judge, _ in self.asked)
        verdict = self.verdicts[self.judge]
        end = verdict.reason.name.lower() if isinstance(verdict, Score) and not verdict.scored else "scored"
        return {"asked": number, "attempts": number, end: number} if number else {}


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    sentence = SentenceVerdict("The red circle is left of the blue square.", 0, 42, Verdict.CORRECT, "")
    monkeypatch.setattr(Client, "verdicts", {"consistency": Score(1.0), "grounding": [sentence]})
    monkeypatch.setattr(Client, "asked", [])
    monkeypatch.setattr(scoring, "PoolClient", Client)
    return Client


def test_a_file_is_scored_in_its_order(clients: type[Client], tmp_path: Path) -> None:
    image = base64.b64encode(b"a picture").decode()
    rows = scoring.read_rows(jsonl(tmp_path, row(uid="a"), row(uid="b", response=WRONG), row(uid="c", image_png_base64=image)))
    scored = asyncio.run(scoring.score_rows(rows, "lab"))
    assert scored.uids == ["a", "b", "c"]
    assert [one.scores["consistency"] for one in scored.rollouts] == [Score(1.0), Score(None, Reason.MASKED), Score(1.0)]
    assert [(judge, one.uid, one.images) for judge, one in clients.asked] == [
        ("consistency", "a", ()), ("grounding", "a", ()), ("consistency", "c", ()), ("grounding", "c", (b"a picture",)),
    ]  # fmt: skip
    out = tmp_path / "deep" / "scored.jsonl"
    scoring.check_writable(out)
    scoring.write(scored, out)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["uid"], one["accuracy"], one["semantic_grounding_scored"]) for one in written] == [("a", 1, 1), ("b", 0, 0), ("c", 1, 1)]
    assert written[0]["sentences"][0]["verdict"] == "CORRECT"
    assert [one.name for one in out.parent.iterdir()] == ["scored.jsonl"]
    console = Console(width=100)
    with console.capture() as shown:
        console.print(scoring.summary(scored))
    assert "semantic_grounding   1.000        2   masked 1" in shown.get()


def test_the_first_of_several_images_is_not_taken_for_all(clients: type[Client], tmp_path: Path) -> None:
    image = base64.b64encode(b"first").decode()
    rows = scoring.read_rows(jsonl(tmp_path, *(row(image_png_base64=image, image_count=number) for number in (1, 2))))
    asyncio.run(scoring.score_rows(rows, "lab"))
    assert [one.images for judge, one in clients.asked if judge == "grounding"] == [(b"first",), ()]


def test_verls_own_columns_are_read_too(clients: type[Client], tmp_path: Path) -> None:
    file = tmp_path / "rollouts.parquet"
    verl = {
        "response": RIGHT,
        "reward_model": {"ground_truth": "left"},
        "extra_info": {"uid": "v", "question": "Where is it?", "options": ["left", "right"], "gold_index": 0},
        "images": [{"bytes": b"one"}, {"bytes": b"two"}],
    }
    pq.write_table(pa.Table.from_pylist([verl]), file)
    scored = asyncio.run(scoring.score_rows(scoring.read_rows(file), "lab"))
    assert scored.uids == ["v"]
    assert scored.rollouts[0].scores["accuracy"] == Score(1.0)
    (grounding,) = [one for judge, one in clients.asked if judge == "grounding"]
    assert (grounding.images, grounding.question) == ((b"one", b"two"), "Where is it?")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([1], "a list where an object is expected"),
        ({"ground_truth": "A"}, "no text in `response`"),
        ({"response": "x"}, "ground_truth must be non-empty text, found None"),
        (row(ground_truth=3), "ground_truth must be non-empty text, found 3"),
        (row(extra_info="s"), "`extra_info` is a str, expected a dict"),
        (row(ground_truth=None, reward_model="A"), "`reward_model` is a str, expected a dict"),
        (row(images="left.png"), "`images` is a str, expected a list"),
        (row(options="left"), "`options` is a str, expected a list"),
        (row(image_png_base64="abc"), "`image_png_base64` is no base64"),
        (row(image_png_base64=3), "`image_png_base64` is no base64"),
        (row(gt_boxes=[[1, 2, 3, 4]]), "gt_boxes needs extra_info.img_wh"),
        (row(gt_boxes=3), "row 2"),
    ],
)
def test_a_row_that_cannot_be_scored_is_found_before_a_judge_is_asked(tmp_path: Path, wrong: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as failure:
        scoring.read_rows(jsonl(tmp_path, row(), wrong))
    assert "row 2 of" in str(failure.value)


def test_a_file_that_holds_no_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        scoring.read_rows(tmp_path)
    with pytest.raises(ConfigError, match="without a row"):
        scoring.read_rows(jsonl(tmp_path))
    (tmp_path / "x.parquet").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="which is no parquet"):
        scoring.read_rows(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_bytes(b"{\n")
    with pytest.raises(ConfigError, match="one JSON object per line"):
        scoring.read_rows(tmp_path / "x.jsonl")


def test_a_text_may_hold_what_python_calls_a_line_end(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    file.write_text(json.dumps(row(response=f"{RIGHT}\u2028\x85"), ensure_ascii=False) + "\n", encoding="utf-8")
    assert len(scoring.read_rows(file)) == 1


def test_verdicts_that_could_not_be_written_are_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "scored.jsonl"):
        with pytest.raises(ConfigError, match="which cannot be written"):
            scoring.check_writable(out)


def test_a_judge_without_a_single_verdict_is_named(clients: type[Client], tmp_path: Path) -> None:
    clients.verdicts["grounding"] = Score(None, Reason.JUDGE_TIMEOUT)
    scored = asyncio.run(scoring.score_rows(scoring.read_rows(jsonl(tmp_path, row(), row())), "lab"))
    assert scoring.silent(scored, ("consistency", "grounding")) == [
        "the grounding judge gave no verdict on any of 2 rollouts (judge_timeout 2)"
    ]
    assert scoring.silent(scored, ("consistency",)) == [], "a pool without that judge was not asked for it"


def test_half_a_character_can_be_written(clients: type[Client], tmp_path: Path) -> None:
    clients.verdicts["grounding"] = [SentenceVerdict("The \ud83d circle is red.", 0, 22, Verdict.SKIP)]
    scored = asyncio.run(scoring.score_rows(scoring.read_rows(jsonl(tmp_path, row())), "lab"))
    scoring.write(scored, tmp_path / "out.jsonl")
    (written,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert written["sentences"][0]["text"] == "The \ud83d circle is red."
