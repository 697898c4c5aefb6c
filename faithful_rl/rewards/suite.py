"""The signals of one rollout by name: reference data in, rule scores and judge verdicts together, fixed numeric columns out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faithful_rl.geometry import to_resized
from faithful_rl.response import MAX_COORDINATE
from faithful_rl.rewards import designs
from faithful_rl.rewards.accuracy import MAX_OPTIONS, accuracy_score, normalise, option_text, read_options
from faithful_rl.rewards.format import format_score, task_score
from faithful_rl.rewards.sentences import non_trivial, semantic_grounding_score
from faithful_rl.rewards.spatial_grounding import spatial_grounding_score
from faithful_rl.types import Box, ParsedResponse, Reason, Score, ScoredRollout, SentenceVerdict, Verdict

SIGNALS = ("task", "accuracy", "format", "consistency", "semantic_grounding", "spatial_grounding")
COUNTS = (
    "has_reference_boxes",  # 0 or 1: the row carries ground-truth boxes; mask of spatial_grounding
    "sentence_count",  # non-trivial sentences of the reasoning, judged or not
    "correct_sentence_count",
    "judged_sentence_count",  # correct + incorrect
    "predicted_box_count",
    "reference_box_count",
    "invalid_box_count",
    *designs.COLUMNS,  # parts of the task reward of a design; 0 under `paper`
)
COLUMNS: tuple[str, ...] = tuple(column for signal in SIGNALS for column in (signal, f"{signal}_scored", f"{signal}_reason")) + COUNTS


@dataclass(frozen=True, slots=True)
class Reference:
    """What a row knows about the right answer.

    `boxes` are already in the frame that the policy writes in (pixels of the resized image). `gold_index` is -1 for an open
    question, whose `options` are empty.
    """

    ground_truth: str
    options: tuple[str, ...] = ()
    gold_index: int = -1
    boxes: tuple[Box, ...] = ()

    @classmethod
    def from_row(cls, reward_model: Mapping[str, Any], extra_info: Mapping[str, Any]) -> Reference:
        """Read verl's `reward_model` and `extra_info` columns.

        Uses `reward_model.ground_truth` (str: letter, `(B)` or an option's text) and, from `extra_info`: `options` and
        `gold_index` of a multiple choice question; `gt_boxes` (x1, y1, x2, y2 in pixels of the original image), and with them
        `img_wh` ([[width, height], ...]), `min_pixels`, `max_pixels` and, when there are several images, `box_image_idx`.

        Raises:
            ValueError: a field is missing, has the wrong form or contradicts another; the message names row, field and fix.
        """
        row = f"row uid={extra_info.get('uid', extra_info.get('index', 'unknown'))!s}"
        truth = reward_model.get("ground_truth")
        if not isinstance(truth, str) or not truth.strip():
            raise ValueError(f"{row}: reward_model.ground_truth must be non-empty text, found {truth!r}. Regenerate the data file")
        options = tuple(str(option) for option in _listed(extra_info.get("options")))
        if len(options) > MAX_OPTIONS:
            raise ValueError(f"{row}: extra_info.options has {len(options)} entries, at most {MAX_OPTIONS} have a letter")
        gold = _gold_index(row, truth, options, extra_info.get("gold_index"))
        return cls(truth, options, gold, _reference_boxes(row, extra_info))


def rule_scores(parsed: ParsedResponse, reference: Reference, design: designs.Design | None = None) -> dict[str, Score]:
    """The signals that need no judge: accuracy, format, task and spatial_grounding.

    With a `design` the task reward is the design's, and its parts stand beside the signals; `parsed` must have been made with the
    design's `blocks`. R_acc stays what it is: right or wrong.
    """
    right = accuracy_score(parsed.answer, reference.ground_truth, reference.options, reference.gold_index)
    form = format_score(parsed)
    truth = (reference.ground_truth, reference.options, reference.gold_index)
    task = {"task": task_score(right, form)} if design is None else designs.design_scores(design, parsed, *truth)
    return {
        **task,
        "accuracy": right,
        "format": form,
        "spatial_grounding": spatial_grounding_score(parsed.boxes, reference.boxes),
    }


def needs_judge(scores: Mapping[str, Score], ask_masked: bool) -> bool:
    """Whether a judge's verdict can matter: the answer is right (the mask of both judged signals), or `ask_masked`."""
    return ask_masked or (scores["accuracy"].value or 0.0) > 0.0


MASKED = Score(None, Reason.MASKED)


def assemble(
    parsed: ParsedResponse,
    reference: Reference,
    scores: Mapping[str, Score],
    consistency: Score = MASKED,
    sentences: Sequence[SentenceVerdict] | Score = MASKED,
) -> ScoredRollout:
    """Join rule scores and judge verdicts.

    Args:
        scores: from `rule_scores`.
        consistency: R_C in {0, 1}, or unscored; MASKED when the judge was not asked.
        sentences: the grounding judge's verdicts (possibly none), or an unscored `Score` that says why there are none.

    Raises:
        ValueError: a rule signal is missing, R_C is outside [0, 1], or `sentences` is a `Score` with a value.
    """
    missing = {"task", "accuracy", "format", "spatial_grounding"} - scores.keys()
    if missing:
        raise ValueError(f"scores lack {sorted(missing)}: pass what rule_scores returned")
    if consistency.value is not None and not 0.0 <= consistency.value <= 1.0:
        raise ValueError(f"consistency must lie in [0, 1], got {consistency.value}")
    if isinstance(sentences, Score):
        if sentences.scored:
            raise ValueError(f"sentences must be verdicts or an unscored Score, got a Score with value {sentences.value}")
        grounding = sentences
        verdicts: tuple[SentenceVerdict, ...] = ()
    else:
        grounding, verdicts = semantic_grounding_score(sentences), tuple(sentences)
    given = [verdict.verdict for verdict in verdicts]
    correct = given.count(Verdict.CORRECT)
    counts = (
        float(bool(reference.boxes)),
        float(len(non_trivial(parsed.reasoning))),
        float(correct),
        float(correct + given.count(Verdict.INCORRECT)),
        float(len(parsed.boxes)),
        float(len(reference.boxes)),
        float(parsed.invalid_boxes),
        *(float(scores[name].value or 0.0) if name in scores else 0.0 for name in designs.COLUMNS),
    )
    by_name = {**scores, "consistency": consistency, "semantic_grounding": grounding}
    return ScoredRollout(
        scores={name: by_name[name] for name in SIGNALS}, sentences=verdicts, extras=dict(zip(COUNTS, counts, strict=True))
    )


def columns(rollout: ScoredRollout) -> dict[str, float]:
    """The same keys, `COLUMNS`, and only finite floats for every rollout, as verl's reward_extra_info needs: 0.0 stands in the
    value column of an unscored signal, whose `_scored` is 0 and whose `_reason` tells why."""
    row: dict[str, float] = {}
    for signal in SIGNALS:
        score = rollout.scores[signal]
        row[signal] = 0.0 if score.value is None else float(score.value)
        row[f"{signal}_scored"] = float(score.scored)
        row[f"{signal}_reason"] = float(score.reason)
    for name in COUNTS:
        row[name] = float(rollout.extras.get(name, 0.0))
    return row


def _listed(value: Any) -> list[Any]:
    """Lists, tuples and NumPy arrays as parquet readers give them; None is empty."""
    return [] if value is None else list(value)


def _gold_index(row: str, truth: str, options: tuple[str, ...], stated: Any) -> int:
    gold = -1 if stated is None else int(stated)
    if not options:
        if gold != -1:
            raise ValueError(f"{row}: extra_info.gold_index is {gold} but extra_info.options is empty. Add the options or use -1")
        return -1
    if not -1 <= gold < len(options):
        raise ValueError(f"{row}: extra_info.gold_index is {gold}, expected -1 or 0 to {len(options) - 1} for {len(options)} options")
    # A truth of one letter may be meant as the letter or as an option's text ("A" among ["B", "A"]): gold_index decides.
    named = read_options(truth, options)
    as_text = {index for index, option in enumerate(options) if option_text(option, index) == normalise(truth)}
    if gold >= 0:
        if gold not in named | as_text:
            raise ValueError(
                f"{row}: reward_model.ground_truth {truth!r} and extra_info.gold_index {gold} ({options[gold]!r}) disagree. Correct the row"
            )
        return gold
    if len(named) != 1:
        raise ValueError(
            f"{row}: reward_model.ground_truth {truth!r} names {len(named)} of the options {list(options)}, expected exactly one"
        )
    return next(iter(named))


def _reference_boxes(row: str, extra_info: Mapping[str, Any]) -> tuple[Box, ...]:
    boxes = [[float(value) for value in box] for box in _listed(extra_info.get("gt_boxes"))]
    if not boxes:
        return ()
    missing = [key for key in ("img_wh", "min_pixels", "max_pixels") if extra_info.get(key) is None]
    if missing:
        raise ValueError(f"{row}: extra_info.gt_boxes needs extra_info.{', extra_info.'.join(missing)} to map boxes to the resized image")
    sizes = [(int(size[0]), int(size[1])) for size in _listed(extra_info["img_wh"])]
    owners = [int(index) for index in _listed(extra_info.get("box_image_idx"))] or ([0] * len(boxes) if len(sizes) == 1 else [])
    if len(owners) != len(boxes) or any(not 0 <= owner < len(sizes) for owner in owners):
        raise ValueError(
            f"{row}: {len(boxes)} boxes on {len(sizes)} images need extra_info.box_image_idx with one valid index each, found {owners}"
        )
    limits = {"min_pixels": int(extra_info["min_pixels"]), "max_pixels": int(extra_info["max_pixels"])}
    mapped = []
    for box, owner in zip(boxes, owners, strict=True):
        if len(box) != 4 or not (box[0] <= box[2] and box[1] <= box[3]) or not all(abs(value) <= MAX_COORDINATE for value in box):
            raise ValueError(f"{row}: extra_info.gt_boxes holds {box}, expected finite x1 <= x2 and y1 <= y2")
        try:
            mapped.append(to_resized(Box(*box), sizes[owner], **limits))
        except ValueError as error:
            raise ValueError(f"{row}: extra_info.img_wh or pixel limits: {error}") from error
    return tuple(mapped)
