"""From a response to its row: answer, rule signals, verdicts of the judges, each with its reason where there is none."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_prep.prompts import letter
from data_prep.record import Record
from faithful_rl import response
from faithful_rl.evaluation import rows
from faithful_rl.evaluation.answers import Extracted, extract, is_right
from faithful_rl.evaluation.judging import NONE, Judging, Verdicts
from faithful_rl.evaluation.questions import NO_REASONING, Question, extra_info, image_bytes
from faithful_rl.evaluation.reading import AnswerReader, Reading
from faithful_rl.evaluation.settings import EvaluationSettings
from faithful_rl.judges.reward import request_from
from faithful_rl.rewards import designs, suite
from faithful_rl.types import FAILURES, ParsedResponse, Reason, Score, SentenceVerdict, Verdict

MAX_BOXES = 64  # of a response that a row keeps
ORDER = 2  # of reading and judging: verdicts of version 1 on an answer that a model read were made before it was read
DIRECT = ("answer",)  # the blocks of a response without reasoning
NOTHING = Score(None, Reason.NOTHING_TO_JUDGE)
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Scorer:
    """Scores responses of one evaluation. `limits` are the pixel limits of the model's image processor, None where nobody knows them."""

    settings: EvaluationSettings
    judging: Judging
    reader: AnswerReader | None
    limits: tuple[int, int] | None

    def key(self, said: Line) -> str:
        """What verdicts on a response depend on; a kept verdict of another key is not used."""
        own = self.settings
        reader = None if self.reader is None else [self.reader.name, ORDER]
        content = [said.get("response"), self.judging.describe(), self.judging.identity, own.untagged, own.mode, own.prompt, reader]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    async def judge(self, question: Question, said: Line) -> dict[str, Any]:
        """The line that keeps a response's verdicts: `consistency`, `grounding` and `llm`.

        Judges get the answer that decides: where the rule reads none and a model reads answers, they wait for that model.
        """
        text = said.get("response")
        parsed, found = self._parsed(text, question) if text is not None else _answer_only(said, question)
        if found.parsed or self.reader is None or text is None:
            stated = parsed.answer if parsed.answer is not None else found.text
            judged, read = await asyncio.gather(self._judged(question, parsed, stated, text), self._read(question, text))
        else:
            read = await self._read(question, text)
            judged = await self._judged(question, parsed, _decided(parsed, found, read, question.record), text, read.reason)
        consistency, grounding = judged
        return {
            "uid": question.uid,
            "key": self.key(said),
            "consistency": [consistency.value, consistency.reason.name.lower()],
            "grounding": _plain(grounding),
            "llm": {"choice": read.choice, "correct": read.correct, "failure": read.failure},
        }

    def row(self, question: Question, said: Line, verdict: Line) -> dict[str, Any]:
        """The row of one question, from its line of responses and, for one that has a response, its line of verdicts."""
        record = question.record
        row: dict[str, Any] = {
            "uid": question.uid,
            "benchmark": question.benchmark,
            "task_type": record.task_type,
            "group": question.group,
            "stratum": question.stratum,
            "question": record.question,
            "options": list(record.options),
            "gold": record.gold_text,
            "gold_index": record.gold_index,
            "generated": "failure" not in said,
            "failure": said.get("failure"),
            "response": said.get("response"),
        }
        return row | (_nothing() if "failure" in said else self._signals(question, said, verdict))

    def _signals(self, question: Question, said: Line, verdict: Line) -> dict[str, Any]:
        text, record = said.get("response"), question.record
        parsed, found = self._parsed(text, question) if text is not None else _answer_only(said, question)
        reference = suite.Reference.from_row({"ground_truth": question.truth}, extra_info(question, self.limits))
        by_rule = is_right(found, record.gold_text, record.gold_index, record.options)
        read = Reading(**verdict["llm"])
        unread = None if found.parsed else read.reason  # nobody knows what is answered: neither right nor wrong
        use_llm = _by_model(found, read, record)
        right = bool(read.correct) if use_llm else by_rule
        scores = suite.rule_scores(parsed, reference) | {"accuracy": Score(float(right)) if unread is None else Score(None, unread)}
        spatial = self._spatial(question, text, scores["spatial_grounding"])
        rollout = suite.assemble(parsed, reference, scores, _score(verdict["consistency"]), _verdicts(verdict["grounding"]))
        columns = suite.columns(rollout)
        return {
            "answer": _decided(parsed, found, read, record) if use_llm else found.text,
            "choice": read.choice if use_llm else found.choice,
            "place": "llm" if use_llm else found.place,
            "parsed": use_llm or found.parsed if unread is None else None,
            "correct": right if unread is None else None,
            "answer_reason": rows.SCORED if unread is None else unread.name.lower(),
            "rule_choice": found.choice,
            "rule_correct": by_rule,
            "llm_choice": read.choice if record.options and read.correct is not None else None,
            "llm_correct": read.correct,
            "llm_failure": read.failure or None,
            **self._signal("consistent", rollout.scores["consistency"]),
            **self._signal("semantic_grounding", rollout.scores["semantic_grounding"]),
            **self._signal("spatial_grounding", spatial),
            "format": None if text is None else bool(columns["format"]),
            "truncated": said.get("truncated"),
            "response_tokens": said.get("response_tokens"),
            **{name: int(columns[name]) for name in ("sentence_count", "correct_sentence_count", "judged_sentence_count")},
            "sentences": json.dumps(_sentences(rollout.sentences), ensure_ascii=False),
            "boxes": json.dumps(
                {
                    "predicted": [box.as_list() for box in parsed.boxes[:MAX_BOXES]],
                    "reference": [box.as_list() for box in reference.boxes],
                    "invalid": parsed.invalid_boxes,
                }
            ),
        }

    def _parsed(self, text: str, question: Question) -> tuple[ParsedResponse, Extracted]:
        design = designs.DESIGNS.get(self.settings.prompt)
        asked = response.BLOCKS if design is None else design.blocks
        parsed = response.parse(text, DIRECT if self.settings.mode == NO_REASONING else asked)
        found = extract(text, question.record.options)
        if self.settings.untagged == "text" and not parsed.reasoning and "<think>" not in text:
            parsed = replace(parsed, reasoning=text[: found.start])
        return parsed, found

    def _spatial(self, question: Question, text: str | None, found: Score) -> Score:
        """R_G; none where no reasoning was asked for or kept, and where nobody knows the frame of the boxes that the row has."""
        if self.settings.mode == NO_REASONING or text is None:
            return NOTHING
        unknown = question.record.boxes and self.limits is None and question.limits is None
        return Score(None, Reason.MASKED) if unknown else found

    def _signal(self, name: str, score: Score) -> dict[str, Any]:
        """The three columns of a signal. Nothing is masked by its answer here: a judge is missing, or cannot say this."""
        reason = score.reason.name.lower()
        if score.reason is Reason.MASKED:
            reason = rows.NOT_ASKED if self.judging.kind == NONE and name != "spatial_grounding" else rows.CANNOT_JUDGE
        return {name: score.value, f"{name}_scored": score.scored, f"{name}_reason": reason}

    async def _judged(
        self, question: Question, parsed: ParsedResponse, answer: str | None, text: str | None, unread: Reason | None = None
    ) -> Verdicts:
        if self.settings.mode == NO_REASONING or text is None:
            return NOTHING, NOTHING
        images: list[bytes] = []
        if self.judging.needs_images:
            try:
                images = await asyncio.to_thread(lambda: [image_bytes(image) for image in question.record.images])
            except OSError:
                images = []  # the judge says then that it has none
        request = replace(request_from(parsed, extra_info(question, self.limits, images)), answer=answer or "")
        return await self.judging.judge(request, unread)

    async def _read(self, question: Question, text: str | None) -> Reading:
        if self.reader is None or text is None:
            return Reading()
        return await self.reader.read(question, text, self.settings.judge_seconds)


def failed(verdict: Line) -> bool:
    """Whether a judge or the extracting model failed, so that asking again may help."""
    reasons = {reason.name.lower() for reason in FAILURES}
    grounding = verdict["grounding"]
    return (
        verdict["consistency"][1] in reasons
        or (isinstance(grounding, str) and grounding in reasons)
        or any(entry["verdict"] == Verdict.UNSCORED.name for entry in grounding if not isinstance(grounding, str))
        or bool(verdict["llm"]["failure"])
    )


def _answer_only(said: Line, question: Question) -> tuple[ParsedResponse, Extracted]:
    """A prediction that consists of an answer alone."""
    answer = str(said.get("answer") or "")
    return ParsedResponse(text="", well_formed=False, reasoning="", answer=answer or None), extract(
        f"<answer>{answer}</answer>", question.record.options
    )


def _by_model(found: Extracted, read: Reading, record: Record) -> bool:
    """Whether the reading model decides what is answered: the rule reads nothing, and the model reads something."""
    return not found.parsed and (read.choice >= 0 or (not record.options and bool(read.correct)))


def _decided(parsed: ParsedResponse, found: Extracted, read: Reading, record: Record) -> str | None:
    """The answer that judges compare the reasoning with: the option that the model reads, as a letter; the reference of an open question,
    which the model found the response to say; else what stands in the answer's place."""
    if _by_model(found, read, record):
        return letter(read.choice) if record.options else record.gold_text
    return parsed.answer if parsed.answer is not None else found.text


def _plain(grounding: list[SentenceVerdict] | Score) -> Any:
    if isinstance(grounding, Score):
        return grounding.reason.name.lower()
    return _sentences(grounding)


def _sentences(verdicts: Any) -> list[dict[str, Any]]:
    return [{"text": one.text, "start": one.start, "end": one.end, "verdict": one.verdict.name, "why": one.why} for one in verdicts]


def _score(kept: Any) -> Score:
    value, reason = kept
    return Score(value, Reason[reason.upper()])


def _verdicts(kept: Any) -> list[SentenceVerdict] | Score:
    if isinstance(kept, str):
        return Score(None, Reason[kept.upper()])
    return [SentenceVerdict(one["text"], one["start"], one["end"], Verdict[one["verdict"]], one["why"]) for one in kept]


def _nothing() -> dict[str, Any]:
    """Columns of a question without a response."""
    unscored: dict[str, Any] = {}
    for name in ("consistent", "semantic_grounding", "spatial_grounding"):
        unscored |= {name: None, f"{name}_scored": False, f"{name}_reason": rows.NOT_ASKED}
    return {
        "answer": None, "choice": -1, "place": None, "parsed": False, "correct": False, "answer_reason": rows.NOT_ASKED,
        "rule_choice": -1, "rule_correct": False, "llm_choice": None, "llm_correct": None, "llm_failure": None, **unscored,
        "format": None, "truncated": None, "response_tokens": None,
        "sentence_count": 0, "correct_sentence_count": 0, "judged_sentence_count": 0, "sentences": "[]",
        "boxes": json.dumps({"predicted": [], "reference": [], "invalid": 0}),
    }  # fmt: skip
