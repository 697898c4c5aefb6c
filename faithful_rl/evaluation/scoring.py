"""From a response to its row: answer, rule signals, verdicts of the judges, each with its reason where there is none."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from faithful_rl import response
from faithful_rl.evaluation.answers import Extracted, extract, is_right
from faithful_rl.evaluation.judging import NOT_ASKED, Judging, Verdicts
from faithful_rl.evaluation.questions import NO_REASONING, Question, extra_info, image_bytes
from faithful_rl.evaluation.reading import AnswerReader, Reading
from faithful_rl.evaluation.settings import EvaluationSettings
from faithful_rl.judges.reward import request_from
from faithful_rl.rewards import designs, suite
from faithful_rl.types import FAILURES, ParsedResponse, Reason, Score, SentenceVerdict, Verdict

MAX_BOXES = 64  # of a response that a row keeps
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
        reader = None if self.reader is None else self.reader.name
        content = [said.get("response"), self.judging.describe(), self.judging.identity, own.untagged, own.mode, own.prompt, reader]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    async def judge(self, question: Question, said: Line) -> dict[str, Any]:
        """The line that keeps a response's verdicts: `consistency`, `grounding` and `llm`."""
        text = said.get("response")
        parsed, found = self._parsed(text, question) if text is not None else _answer_only(said, question)
        judged, read = await asyncio.gather(self._judged(question, parsed, found, text), self._read(question, text))
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
        llm = verdict["llm"]
        use_llm = not found.parsed and (llm["choice"] >= 0 or (not record.options and llm["correct"]))
        right = bool(llm["correct"]) if use_llm else by_rule
        scores = suite.rule_scores(parsed, reference) | {"accuracy": Score(float(right))}
        rollout = suite.assemble(parsed, reference, scores, _score(verdict["consistency"]), _verdicts(verdict["grounding"]))
        columns = suite.columns(rollout)
        return {
            "answer": found.text,
            "choice": llm["choice"] if use_llm else found.choice,
            "place": "llm" if use_llm else found.place,
            "parsed": use_llm or found.parsed,
            "correct": right,
            "rule_correct": by_rule,
            "llm_correct": llm["correct"],
            **_signal("consistent", rollout.scores["consistency"]),
            **_signal("semantic_grounding", rollout.scores["semantic_grounding"]),
            **_signal("spatial_grounding", rollout.scores["spatial_grounding"]),
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
        parsed = response.parse(text) if design is None else response.parse(text, design.blocks)
        found = extract(text, question.record.options)
        if self.settings.untagged == "text" and not parsed.reasoning and "<think>" not in text:
            parsed = replace(parsed, reasoning=text[: found.start])
        return parsed, found

    async def _judged(self, question: Question, parsed: ParsedResponse, found: Extracted, text: str | None) -> Verdicts:
        if self.settings.mode == NO_REASONING or text is None:
            nothing = Score(None, Reason.NOTHING_TO_JUDGE)
            return nothing, nothing
        images: list[bytes] = []
        if self.judging.needs_images:
            try:
                images = await asyncio.to_thread(lambda: [image_bytes(image) for image in question.record.images])
            except OSError:
                images = []  # the judge says then that it has none
        request = request_from(parsed, extra_info(question, self.limits, images))
        if parsed.answer is None and found.text is not None:
            request = replace(request, answer=found.text)
        return await self.judging.judge(request)

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


def _signal(name: str, score: Score) -> dict[str, Any]:
    return {name: score.value, f"{name}_scored": score.scored, f"{name}_reason": score.reason.name.lower()}


def _nothing() -> dict[str, Any]:
    """Columns of a question without a response."""
    return {
        "answer": None, "choice": -1, "place": None, "parsed": False, "correct": False, "rule_correct": False, "llm_correct": None,
        **_signal("consistent", NOT_ASKED), **_signal("semantic_grounding", NOT_ASKED), **_signal("spatial_grounding", NOT_ASKED),
        "format": None, "truncated": None, "response_tokens": None,
        "sentence_count": 0, "correct_sentence_count": 0, "judged_sentence_count": 0, "sentences": "[]",
        "boxes": json.dumps({"predicted": [], "reference": [], "invalid": 0}),
    }  # fmt: skip
