"""Curation as a data recipe runs it: counts of every step, shortage, interruption, determinism."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import training_sets as sets
import yaml
from curation_pictures import encoded, open_record, picture, record

from data_prep import command
from data_prep import recipe as data_recipe
from data_prep.curation import pipeline
from data_prep.curation.difficulty import Answered, Answers, accuracy, chat_messages, measure, selected
from data_prep.curation.settings import Difficulty, read_settings
from data_prep.frames import Frame
from data_prep.recipe import Part, Recipe
from data_prep.record import Record
from data_prep.writers import write_rl
from data_prep.writers.rl import rl_row
from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Completion
from faithful_rl.types import Reason


class BaseModel:
    """Answers "number N" rightly in N of four rollouts; `fail_at` makes that request fail."""

    model = "scripted"

    def __init__(self, fail_at: int = -1, failure: Exception | None = None) -> None:
        self.requests, self.fail_at, self.failure = 0, fail_at, failure
        self.asked: dict[str, int] = {}

    async def sample(self, messages: list[dict[str, Any]], *, max_tokens: int, seed: int, json_schema: Any = None) -> Completion:
        self.requests += 1
        if self.failure is not None and self.requests - 1 >= self.fail_at >= 0:
            raise self.failure
        text = messages[-1]["content"][-1]["text"]
        strength = int(text.split("number ")[1].split("?")[0]) % 5
        turn = self.asked[text] = self.asked.get(text, -1) + 1
        await asyncio.sleep(0)
        return Completion(f"<think>x</think><answer>{'A' if turn < strength else 'B'}</answer>", 50, 10)

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def question(number: int, image: int | None = None) -> Record:
    return record(f"u{number}", encoded(picture(number if image is None else image)), f"Which is number {number}?")


def recipe(amount: int, curation: dict[str, Any], **pools: int) -> Recipe:
    parts = {name: Part(name, "x", amount) for name in pools or {"x": 0}}
    return Recipe("r", "", parts, curation=curation)


def pools(tmp_path: Path, **records: list[Record]) -> dict[str, Path]:
    for name, rows in records.items():
        write_rl(rows, tmp_path / "pools" / name / "rl.parquet")
    return {name: tmp_path / "pools" / name for name in records}


def test_every_row_left_out_has_a_reason(tmp_path: Path) -> None:
    rows = [question(number) for number in range(20)]
    rows += [record("twice", encoded(picture(3)), "Which is number 3?"), record("bench", encoded(picture(777)), "Which is number 99?")]
    made = pools(tmp_path, x=rows)
    write_rl([record("b", encoded(picture(777)), "Other?")], tmp_path / "bench.parquet")
    curation = {
        "duplicates": True,
        "contamination": {"benchmarks": {"bench": str(tmp_path / "bench.parquet")}},
        "difficulty": {"rollouts": 4, "keep_rest": 0.5},
        "representative": {"clusters": 3},
    }
    selection = pipeline.run(recipe(8, curation), made, tmp_path, sampler=BaseModel())
    report = selection.report["pools"]["x"]
    # Of numbers 0..19 strengths 0..4 occur four times each: 12 are sometimes right, 4 never, 4 always; half of the rest stays.
    assert report["difficulty"] == {
        "sometimes_right": 12,
        "sometimes_right_kept": 12,
        "always_right": 4,
        "always_right_kept": 2,
        "never_right": 4,
        "never_right_kept": 2,
        "mean_accuracy": 0.5,
    }
    assert report["dropped"] == {"duplicate": 1, "benchmark_image": 1, "too_easy_or_too_hard": 4, "not_drawn": 8}
    assert report["pool"] - sum(report["dropped"].values()) == report["kept"] == 8 == len(selection.rows["x"])
    assert report["contamination"]["examples"][0]["uid"] == "bench"
    reasons = selection.reasons["x"]  # of every single row
    assert (reasons[20], reasons[21], len(reasons)) == ("duplicate", "benchmark_image", 14)
    assert set(reasons) | set(selection.rows["x"]) == set(range(22))
    json.dumps(selection.report)


def test_the_first_pool_keeps_a_row_that_two_share(tmp_path: Path) -> None:
    made = pools(tmp_path, x=[question(1), question(2)], y=[question(2), question(3)])
    selection = pipeline.run(recipe(1, {"duplicates": True}, x=0, y=0), made, tmp_path)
    assert selection.rows["y"] == [1]


def test_a_stem_about_another_image_is_counted_and_dropped_only_on_demand(tmp_path: Path) -> None:
    text = "Where is the dog with respect to the cat?"
    made = pools(tmp_path, x=[open_record("u0", picture(1), text), question(1)])
    write_rl([record("b", encoded(picture(777)), text)], tmp_path / "bench.parquet")
    for questions, rows in (("count", [0, 1]), ("drop", [1])):
        curation = {"contamination": {"benchmarks": {"bench": str(tmp_path / "bench.parquet")}, "questions": questions}}
        selection = pipeline.run(recipe(len(rows), curation), made, tmp_path)
        assert selection.rows["x"] == rows
        told = selection.report["pools"]["x"]["contamination"]
        assert (told["same_question_other_image"], told["same_stem_other_image"]) == (0, 1)
        assert told["examples"][0]["reason"] == "benchmark_stem"


def test_a_step_that_is_none_is_not_taken() -> None:
    assert read_settings({"contamination": "none", "difficulty": "none", "representative": "none"}) == read_settings({})


def test_a_quick_look_takes_what_curation_leaves(tmp_path: Path) -> None:
    made = pools(tmp_path, x=[question(1), question(1)])
    quick = Recipe("r", "", {"x": Part("x", "x", 2)}, curation={"duplicates": True}, quick=True)
    assert pipeline.run(quick, made, tmp_path).rows["x"] == [0]


def test_a_shortage_names_the_source_and_its_counts(tmp_path: Path) -> None:
    made = pools(tmp_path, sat=[question(1), question(1), question(2)])
    with pytest.raises(ConfigError) as caught:
        pipeline.run(recipe(3, {"duplicates": True}, sat=0), made, tmp_path)
    assert caught.value.key == "sat.amount"
    assert "3, with 2 of 3 rows of the pool left (1 duplicate)" in str(caught.value)


def test_an_interrupted_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    made = pools(tmp_path, x=[question(number) for number in range(10)])
    curation = {"difficulty": {"rollouts": 4, "concurrency": 4, "keep_rest": 0.0}}
    whole = pipeline.run(recipe(5, curation), made, tmp_path / "whole", sampler=BaseModel())

    class PowerCut(Exception):
        pass

    out = tmp_path / "broken"
    with pytest.raises(PowerCut):
        pipeline.run(recipe(5, curation), made, out, sampler=BaseModel(21, PowerCut()))
    file = out / "curation" / "x.answers.jsonl"
    lines = file.read_bytes().splitlines()
    assert len(lines) == 1 + 5
    file.write_bytes(b"\n".join(lines) + b'\n{"row": 5, "uid": "u5", "cor')  # and the last line was cut off
    model = BaseModel()
    again = pipeline.run(recipe(5, curation), made, out, sampler=model)
    assert model.requests == 4 * 5
    assert again == whole
    assert pipeline.run(recipe(5, curation), made, out, sampler=BaseModel(0, PowerCut())) == whole  # nothing is asked


def test_answers_to_something_else_are_refused(tmp_path: Path) -> None:
    Answers(tmp_path / "a.jsonl", {"model": "one"}).close()
    with pytest.raises(ConfigError, match="answers of another model"):
        Answers(tmp_path / "a.jsonl", {"model": "two"})
    (tmp_path / "a.jsonl").write_text('{"asked": {"model": "one"}}\nnonsense\n')
    with pytest.raises(ConfigError, match="line 2"):
        Answers(tmp_path / "a.jsonl", {"model": "one"})


def test_rows_without_rollouts_are_counted_and_too_many_fail(tmp_path: Path) -> None:
    made = pools(tmp_path, x=[question(number) for number in range(5)])
    busy = JudgeFailure(Reason.JUDGE_UNAVAILABLE, "no server")
    curation = {"difficulty": {"concurrency": 1, "max_failed": 0.5}}
    with pytest.raises(ConfigError, match=r"3 of 5 rows of x without rollouts \(u2: no server\)"):
        pipeline.run(recipe(1, curation), made, tmp_path / "a", sampler=BaseModel(8, busy))
    selection = pipeline.run(recipe(1, curation), made, tmp_path / "b", sampler=BaseModel(16, busy))
    assert selection.report["pools"]["x"]["dropped"]["no_rollouts"] == 1


def test_candidates_bound_the_cost(tmp_path: Path) -> None:
    made = pools(tmp_path, x=[question(number) for number in range(12)])
    model = BaseModel()
    curation = {"difficulty": {"candidates": 2.0, "keep_rest": 1.0}}
    report = pipeline.run(recipe(3, curation), made, tmp_path, sampler=model).report["pools"]["x"]
    assert model.requests == 4 * 6
    assert report["dropped"] == {"not_a_candidate": 6, "not_drawn": 3}


def test_the_seeded_tenth() -> None:
    answers = {number: Answered(f"u{number}", (1, 1) if number < 100 else (0, 0) if number < 200 else (0, 1)) for number in range(210)}
    kept, counts = selected(answers, 0.1, 0)
    assert counts == {
        "sometimes_right": 10,
        "sometimes_right_kept": 10,
        "always_right": 100,
        "always_right_kept": 10,
        "never_right": 100,
        "never_right_kept": 10,
    }
    assert (len(kept), kept) == (30, sorted(kept))
    assert selected(answers, 0.1, 0)[0] == kept
    assert selected(answers, 0.1, 1)[0] != kept
    assert selected({}, 0.1, 0)[0] == []


def test_a_base_models_answer_is_found() -> None:
    asked = record("u", encoded(picture(1)))
    assert accuracy("<think>x</think><answer>(A)</answer>", asked) == 1.0
    assert accuracy("It is clear.\n\nA\n", asked) == 1.0
    assert accuracy("I think A", asked) == 0.0
    assert accuracy("", asked) == 0.0


def test_the_prompt_is_the_rows_own_with_images_in_their_places() -> None:
    row = rl_row(question(1), 0, "Be careful.", Frame())
    system, user = chat_messages(question(1), row)
    assert system == {"role": "system", "content": "Be careful."}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert user["content"][1]["text"].startswith("Which is number 1?\nA) one")


def test_measure_counts_its_progress(tmp_path: Path) -> None:
    rows = [(number, rl_row(question(number), number, "", Frame())) for number in range(3)]
    seen: list[int] = []
    answers = Answers(tmp_path / "a.jsonl", {})
    assert asyncio.run(measure(rows, answers, BaseModel(), Difficulty(concurrency=1), 0, seen.append)) == {}
    answers.close()
    assert seen == [1, 2, 3]
    assert [answers.rows[number].mean for number in range(3)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"duplicate": True}, "curation.duplicate"),
        ({"duplicates": 1}, "curation.duplicates"),
        ({"contamination": {"benchmarks": {"b": "x"}, "distance": 40}}, "curation.contamination.distance"),
        ({"contamination": {"benchmarks": {"b": "x"}, "questions": "maybe"}}, "curation.contamination.questions"),
        ({"difficulty": {"rollouts": 1}}, "curation.difficulty.rollouts"),
        ({"difficulty": {"rollouts": "four"}}, "curation.difficulty.rollouts"),
        ({"difficulty": {"keep_rest": 2}}, "curation.difficulty.keep_rest"),
        ({"difficulty": {"candidates": 0.5}}, "curation.difficulty.candidates"),
        ({"difficulty": "hard"}, "curation.difficulty"),
        ({"representative": {"cluster": 5}}, "curation.representative.cluster"),
    ],
)
def test_a_mistake_in_the_settings_is_named(node: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(node)
    assert caught.value.key == key


def test_a_data_recipe_runs_its_steps_and_tells_of_them_in_the_manifest(tmp_path: Path) -> None:
    sat = sets.sat(tmp_path / "sat", copies=8)
    tree = {
        "description": "one set",
        "curation": {"duplicates": True, "representative": {"clusters": 4}},
        "sources": {"sat": {"source": "sat", "in": str(sat), "amount": 4, "options": {"split": "train"}}},
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(tree))
    for name in ("a", "b"):
        made = data_recipe.run(data_recipe.read_recipe(str(tmp_path / "one.yaml")), tmp_path / name)
    counts = made["curation"]["pools"]["sat"]
    assert counts["kept"] == 4 == made["rows"]["train.parquet"]
    assert counts["pool"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["dropped"]["duplicate"] > 0  # the fixture repeats its rows
    lines = [json.loads(text) for text in (tmp_path / "a" / "dropped.jsonl").read_text().splitlines()]
    assert len(lines) == counts["pool"] - counts["kept"]
    assert Counter(line["reason"] for line in lines) == counts["dropped"]
    assert {(line["pool"], line["uid"]) for line in lines} == {("sat", f"sat-train-{line['row']}") for line in lines}
    for file in ("train.parquet", "manifest.json", "dropped.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_rollouts_of_a_recipe_have_a_bar_and_the_summary_tells_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    sat = sets.sat(tmp_path / "sat")
    rows = [question(number) for number in range(10)]  # right in none, 1, 2, 3 and all of four rollouts, twice each
    made = {"sources": {"x": {}}, "rows": {"train.parquet": 10}, "files": {}, "settings": {}}

    def pool(job: Any, progress: Any = None) -> dict[str, Any]:
        job.out.mkdir(parents=True)
        write_rl(rows, job.out / "train.parquet")
        (job.out / "rejects.jsonl").touch()
        return made

    monkeypatch.setattr(data_recipe, "prepare", pool)
    monkeypatch.setattr(pipeline, "endpoint_sampler", lambda *_: BaseModel())
    node = {"difficulty": {"base_url": "http://127.0.0.1:1/v1", "model": "scripted", "keep_rest": 0.5}}
    shown: list[tuple[str, int, int | None]] = []
    recipe_of = Recipe("r", "", {"x": Part("sat", str(sat), 6)}, curation=node)
    result = data_recipe.run(recipe_of, tmp_path / "out", progress=lambda name: lambda done, total: shown.append((name, done, total)))
    assert shown[-1] == ("x, rollouts", 10, 10)
    assert command._curation(result["curation"]["pools"]["x"]) == (
        "6 of 10 rows; left out: 2 not drawn, 2 too easy or too hard; tried: 6 sometimes right (6 kept), 2 always right (1 kept), "
        "2 never right (1 kept), mean accuracy 0.500"
    )


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"difficulty": {"model": "m"}}, "curation.difficulty.base_url"),
        ({"difficulty": {"base_url": "http://127.0.0.1:1/v1"}}, "curation.difficulty.model"),
        ({"contamination": {"benchmarks": {"b": "/absent"}}}, "curation.contamination.benchmarks.b"),
        ({"contamination": {}}, "curation.contamination.benchmarks"),
        (
            {"contamination": {}, "difficulty": {}},
            "curation.contamination.benchmarks, curation.difficulty.base_url, curation.difficulty.model",
        ),
    ],
)
def test_what_the_steps_need_is_asked_for_before_the_pools(node: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        data_recipe.run(Recipe("r", "", {"x": Part("sat", str(tmp_path), 4)}, curation=node), tmp_path / "out")
    assert caught.value.key == key
    assert not (tmp_path / "out").exists()
