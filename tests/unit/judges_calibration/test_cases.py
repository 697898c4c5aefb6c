"""Labelled cases: the shipped set, what can be read, and what is refused with which words."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep import judge_cases
from faithful_rl.config import ConfigError
from faithful_rl.judges.calibration.cases import SHIPPED, LabelledCase, as_row, fingerprint, read_cases, shipped_path, write_cases
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.types import Verdict

Put = Callable[..., Path]
MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def shipped() -> tuple[LabelledCase, ...]:
    return read_cases(SHIPPED)


@pytest.fixture(scope="module")
def made() -> tuple[LabelledCase, ...]:
    return judge_cases.judge_cases()


def test_the_shipped_set_is_large_varied_and_small_in_bytes(shipped: tuple[LabelledCase, ...]) -> None:
    assert len(shipped) == 600
    assert shipped_path().stat().st_size < 1.5e6
    assert len({(case.request.scene_json, case.request.question) for case in shipped}) == 600  # cases do not share a question
    kinds = Counter(case.kind for case in shipped)
    assert kinds == {kind: count for kind, (count, _, _) in judge_cases.KINDS.items()}
    consistency = Counter(case.consistency for case in shipped)
    assert min(consistency["YES"], consistency["NO"]) >= 150
    verdicts = Counter(label.verdict for case in shipped for label in case.grounding or ())
    assert verdicts["INCORRECT"] >= 300
    assert verdicts["SKIP"] >= 50
    assert sum(len(case.request.images) == 2 for case in shipped) >= 48
    questions = {case.request.question for case in shipped}
    assert sum(question.startswith("How many") for question in questions) >= 4
    assert any(case.request.reasoning != case.request.reasoning.replace("Let me look", "") for case in shipped)  # with trivial sentences


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def test_the_generator_makes_the_shipped_set_again(shipped: tuple[LabelledCase, ...], made: tuple[LabelledCase, ...]) -> None:
    """Content for content; images by their pixels, since another zlib may pack the same picture differently."""
    assert [replace(case, request=replace(case.request, images=())) for case in made] == [
        replace(case, request=replace(case.request, images=())) for case in shipped
    ]
    for ours, theirs in zip(made, shipped, strict=True):
        for one, other in zip(ours.request.images, theirs.request.images, strict=True):
            assert (pixels(one) == pixels(other)).all()


def test_the_same_cases_give_the_same_bytes(made: tuple[LabelledCase, ...], tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_cases(made[:50], tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert fingerprint(tmp_path / "a.parquet") == fingerprint(tmp_path / "b.parquet")
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(SHIPPED))


def test_the_exact_judge_agrees_with_every_label(shipped: tuple[LabelledCase, ...]) -> None:
    """Labels hold by construction and the judge computes its verdicts from the scene: two ways to the same word, without exception."""
    judge = SceneJudge()
    for case in shipped:
        if case.consistency is not None:
            assert judge.consistency(case.request).value == float(case.consistency == "YES"), case.id
        if case.grounding is not None:
            said = [(one.text, one.verdict.name) for one in judge.grounding(case.request)]
            assert said == [(label.sentence, label.verdict) for label in case.grounding], case.id


def test_each_corruption_falsifies_exactly_what_it_says(shipped: tuple[LabelledCase, ...]) -> None:
    for case in shipped:
        wrong = [label for label in case.grounding or () if label.verdict == "INCORRECT"]
        skipped = [label for label in case.grounding or () if label.verdict == "SKIP"]
        false_fact = case.kind in ("wrong_but_consistent", "false_reasoning_right_answer", "fact_contradicts_conclusion")
        false = false_fact or case.kind.startswith(("wrong", "absent", "box"))
        assert len(wrong) == false, case.id
        assert all(label.kind == ("false_fact" if false_fact else case.kind) for label in wrong), case.id
        assert len(skipped) == (case.kind in ("repeated_claim", "restated_claim")), case.id


def test_parquet_round_trip(made: tuple[LabelledCase, ...], tmp_path: Path) -> None:
    path = tmp_path / "cases.parquet"
    write_cases(made, path)
    assert read_cases(path) == made


def test_the_command_that_makes_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge_cases.main(["out=cases.csv"]) == 2
    assert "expected out=FILE.parquet, found ['out=cases.csv']" in capsys.readouterr().err
    assert judge_cases.main([f"out={tmp_path / 'cases.parquet'}"]) == 0
    assert "600 cases" in capsys.readouterr().out
    assert len(read_cases(tmp_path / "cases.parquet")) == 600


def test_jsonl_with_images_by_path_and_by_value(put: Put, make_row: MakeRow, png: bytes, data_url: str, tmp_path: Path) -> None:
    (tmp_path / "scene.png").write_bytes(png)
    first, second = read_cases(put(make_row(images=["scene.png", data_url]), "", make_row("two", grounding=None, dataset="mine")))
    assert first.request.images == (png, png)
    assert first.request.uid == "one"
    assert [(label.verdict, label.kind) for label in first.grounding or ()] == [("CORRECT", "clean"), ("CORRECT", "side")]
    assert (second.grounding, second.consistency, second.request.dataset, second.request.images) == (None, "YES", "mine", ())


def test_a_rollout_without_a_sentence_to_judge_may_be_labelled_so(put: Put, make_row: MakeRow) -> None:
    (case,) = read_cases(put(make_row(reasoning="So the answer is left.", grounding=[])))
    assert case.grounding == ()


P = "The red circle is in the upper left."
S = "The red circle is left of the blue square."
SEE = "See faithful_rl/judges/calibration/cases.py."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"colour": 1},
            ", colour: found an unknown key, expected only id, kind, question, options, reasoning, answer, images, frames, scene_json, dataset, consistency, grounding. Remove or rename it.",
        ),
        ({"answer": None}, ", answer: found nothing, expected a value. Add it."),
        ({"id": " "}, ", id: found empty text, expected text that is not empty. Fill it."),
        ({"kind": 3}, ", kind: found 3, expected text. Write it as a JSON string."),
        ({"options": "left"}, ", options: found 'left', expected a list of text. Use [] for an open question."),
        ({"consistency": "yes"}, ", consistency: found 'yes', expected YES, NO or null. Correct the label."),
        (
            {"consistency": None, "grounding": None},
            ", consistency: found neither consistency nor grounding, expected at least one label. Label the case or remove it.",
        ),
        ({"grounding": "CORRECT"}, ", grounding: found 'CORRECT', expected a list of {sentence, verdict} or null. Correct the entry."),
        ({"grounding": ["CORRECT"]}, ", grounding[0]: found 'CORRECT', expected {sentence, verdict} and perhaps kind. Correct the entry."),
        (
            {"grounding": [{"sentence": P, "verdict": "TRUE"}]},
            ", grounding[0].verdict: found 'TRUE', expected CORRECT, INCORRECT or SKIP. Correct the label.",
        ),
        (
            {"grounding": [{"sentence": P, "verdict": "SKIP", "kind": ""}]},
            ", grounding[0].kind: found '', expected text. Correct the entry or leave it out.",
        ),
        (
            {"grounding": [{"sentence": S, "verdict": "SKIP"}]},
            f", grounding[0].sentence: found {S!r}, expected the non-trivial sentence {P!r}. The filter calls {S!r} visual.",
        ),
        (
            {"grounding": [{"sentence": P, "verdict": "SKIP"}]},
            f", grounding: found 1 labels, expected one per non-trivial sentence of the reasoning (2). Label each, with SKIP for what cannot be checked. The first without a label is {S!r}.",
        ),
        (
            {"grounding": [{"sentence": text, "verdict": "SKIP"} for text in (P, S, "So the answer is left.")]},
            ", grounding: found 3 labels, expected one per non-trivial sentence of the reasoning (2). Label each, with SKIP for what cannot be checked. The filter calls 'So the answer is left.' meta.",
        ),
        ({"images": "scene.png"}, ", images: found 'scene.png', expected a list. Use [] for a question without an image."),
        ({"images": [7]}, ", images[0]: found 7, expected a path, a data URL or (parquet) {bytes}. Correct the entry."),
        (
            {"images": ["data:image/png;base64,AAAA"]},
            ", images[0]: found 3 bytes that are no image, expected an encoded PNG, JPEG or WebP image. Write it again.",
        ),
    ],
)
def test_a_bad_row_is_refused_by_name(put: Put, make_row: MakeRow, changes: dict[str, Any], message: str) -> None:
    path = put(make_row("fine"), make_row(**changes))
    with pytest.raises(ConfigError) as caught:
        read_cases(path)
    assert str(caught.value) == f"{path}, row 2{message}"


def test_a_bad_file_is_refused_by_name(put: Put, make_row: MakeRow, tmp_path: Path) -> None:
    def complaint(path: Path | str) -> str:
        with pytest.raises(ConfigError) as caught:
            read_cases(path)
        return str(caught.value)

    gone, table, empty = tmp_path / "gone.jsonl", put("x", name="cases.csv"), put(name="empty.jsonl")
    assert (
        complaint(gone)
        == f"data: found {gone}, expected a .jsonl or .parquet file of labelled cases. Give an existing file, or data=shipped."
    )
    assert complaint(table) == f"data: found {table}, expected a file that ends in .jsonl or .parquet. Convert it, or rename it."
    assert complaint(empty) == f"data: found {empty} without a row, expected at least one labelled case. {SEE}"
    broken = put(make_row(), "{", name="broken.jsonl")
    assert complaint(broken).startswith(f"{broken}, row 2: found no JSON (")
    assert complaint(put("[]", name="list.jsonl")) == f"{tmp_path / 'list.jsonl'}, row 1: found list, expected a JSON object. {SEE}"
    twice = put(make_row(), make_row(), name="twice.jsonl")
    assert complaint(twice) == f"{twice}, row 2, id: found 'one', expected an id that no earlier row has. Rename one of the two cases."
    missing = put(make_row(images=["no.png"]), name="missing.jsonl")
    assert (
        complaint(missing)
        == f"{missing}, row 1, images[0]: found 'no.png', which cannot be read, expected an image file. Paths are relative to {tmp_path}."
    )
    base64 = put(make_row(images=["data:image/png;base64,***"]), name="base64.jsonl")
    assert complaint(base64).startswith(f"{base64}, row 1, images[0]: found a data URL that is not base64 (")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    assert complaint(tmp_path / "latin.jsonl").startswith(f"{tmp_path / 'latin.jsonl'}: found bytes that are not UTF-8 (")
    (tmp_path / "no.parquet").write_bytes(b"no")
    assert complaint(tmp_path / "no.parquet").startswith(f"{tmp_path / 'no.parquet'}: found no parquet (")


def test_parquet_of_another_schema_is_refused(tmp_path: Path, made: tuple[LabelledCase, ...]) -> None:
    path = tmp_path / "cases.parquet"
    pq.write_table(pa.Table.from_pylist([{**as_row(made[0]), "score": 1.0}]), path)
    with pytest.raises(ConfigError, match=r"row 1, score: found an unknown key"):
        read_cases(path)


def test_every_label_is_a_verdict() -> None:
    assert {Verdict[name] for name in ("CORRECT", "INCORRECT", "SKIP")} == set(Verdict) - {Verdict.UNSCORED}
