"""Held-out evaluation inside a run, by the same servers and judges: each question once at temperature 1 and once greedily."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.run_directory import HELDOUT, heldout_file, read_json, rollout_file, write_json
from faithful_rl.verl_plugin import queue_io, rollout_dump
from faithful_rl.verl_plugin.reward_columns import split_key
from faithful_rl.verl_plugin.reward_manager import DETAILS_KEY
from faithful_rl.verl_plugin.rollout_workers import DECODING_FIELD

logger = logging.getLogger(__name__)

PARTITION = "val"
CHUNK = 512  # questions in flight at once
SUMMARY = "summary.json"


def summarise(rows: Sequence[Mapping[str, Any]], failed: int = 0) -> dict[str, float]:
    """Numbers of one evaluation.

    Means of a signal are over the samples where it was scored. `right_for_false_reason` is the share of right answers with a
    judged sentence that have at least one false sentence. A number with nothing under it is left out.
    """
    result: dict[str, float] = {"questions": float(len(rows)), "failed": float(failed)}

    def mean(name: str, values: Sequence[float]) -> None:
        if values:
            result[name] = float(np.mean(values))

    for signal in ("task", "accuracy", "format", "consistency", "semantic_grounding", "spatial_grounding"):
        scored = [row[signal] for row in rows if row[f"{signal}_scored"] > 0]
        mean(signal, scored)
        result[f"{signal}_scored"] = float(len(scored))
    if "consistency" in result:
        result["inconsistency_rate"] = 1.0 - result["consistency"]
    mean("sentence_count", [row["sentence_count"] for row in rows])
    mean("response_tokens", [row["response_tokens"] for row in rows])
    right = [row for row in rows if row["accuracy"] > 0 and row["judged_sentence_count"] > 0]
    mean("right_for_false_reason", [float(row["correct_sentence_count"] < row["judged_sentence_count"]) for row in right])
    return result


def question_uid(decoding: str, position: int) -> str:
    """Unique in verl's partition, without "_" (verl splits keys there), and equal before and after training: both evaluations
    draw with the same random numbers."""
    return f"heldout-{decoding}-{position:06d}"


class HeldoutEvaluation:
    """Evaluates a trainer's policy on its validation set.

    Args:
        trainer: a verl V1 trainer whose servers are awake.
        run_dir: where `heldout/` goes.
        decodings: of `rollout_workers.DECODINGS`.
        max_questions: the first so many questions; -1 for all.
        viewer_rollouts: so many questions of each decoding also go to the rollout viewer.
    """

    def __init__(self, trainer: Any, run_dir: Path, decodings: Sequence[str], max_questions: int, viewer_rollouts: int = 0) -> None:
        self._trainer, self._run_dir, self._decodings = trainer, run_dir, tuple(decodings)
        self._viewer_rollouts = viewer_rollouts
        total = len(trainer.val_dataset)
        self._questions = total if max_questions < 0 else min(total, max_questions)

    def done(self, when: str) -> bool:
        """Whether this evaluation was made by an earlier start of the run."""
        return when in read_json(self._run_dir / HELDOUT / SUMMARY)

    def run(self, when: str, step: int) -> dict[str, dict[str, float]]:
        """Evaluate and write `heldout/<when>_<decoding>.jsonl` and the summary; returns decoding -> numbers."""
        rows: dict[str, list[dict[str, Any]]] = {decoding: [] for decoding in self._decodings}
        viewer: dict[str, list[dict[str, Any]]] = {decoding: [] for decoding in self._decodings}
        # One decoding after the other: vLLM's CPU sampler heeds seeds only when every request of its batch is sampled with one.
        for decoding in self._decodings:
            for positions in self._chunks():
                for row, record in self._evaluate(decoding, positions, step):
                    rows[decoding].append(row)
                    if len(viewer[decoding]) < self._viewer_rollouts:
                        viewer[decoding].append(record)
        summary = {}
        for decoding in self._decodings:
            failed = self._questions - len(rows[decoding])
            if failed:
                logger.warning("held-out %s, %s: %d of %d questions have no answer", when, decoding, failed, self._questions)
            summary[decoding] = summarise(rows[decoding], failed)
            rollout_dump.write_lines(heldout_file(self._run_dir, when, decoding), rows[decoding])
        records = [record for decoding in self._decodings for record in viewer[decoding]]
        if records:
            path = rollout_file(self._run_dir, step)
            rollout_dump.write_lines(path.with_name(f"{path.stem}_heldout.jsonl"), records)
        path = self._run_dir / HELDOUT / SUMMARY
        write_json(path, {**read_json(path), when: {"step": step, **summary}})
        return summary

    def _chunks(self) -> Iterator[range]:
        for start in range(0, self._questions, CHUNK):
            yield range(start, min(start + CHUNK, self._questions))

    def _evaluate(self, decoding: str, positions: range, step: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Submit some questions; yields (line, viewer record) in question order."""
        with self._trainer.control.watchdog.phase(f"held-out questions {positions.start} to {positions.stop - 1}, {decoding}"):
            yield from self._generate(decoding, positions, step)

    def _generate(self, decoding: str, positions: range, step: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        trainer = self._trainer
        uids = [question_uid(decoding, position) for position in positions]
        batch_dict = collate_fn([trainer.val_dataset[position] for position in positions])
        batch_dict["uid"] = np.array(uids, dtype=object)
        batch_dict[DECODING_FIELD] = np.array([decoding] * len(uids), dtype=object)
        batch_dict["__rollout_n__"] = np.array([1] * len(uids), dtype=object)
        batch = tu.get_tensordict(batch_dict)
        tu.assign_non_tensor_data(batch, "global_steps", step)
        tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": step} for _ in uids]
        tq.kv_batch_put(keys=uids, partition_id=PARTITION, tags=tags)
        trainer.agent_loop_manager.generate_sequences(batch)
        sampled, _ = trainer.replay_buffer.sample(global_steps=step, partition_id=PARTITION, batch_size=len(uids))
        if not sampled.keys:
            return
        try:
            yield from self._lines(decoding, sorted(sampled.keys, key=split_key), step)
        finally:
            tq.kv_clear(keys=sampled.keys, partition_id=PARTITION)

    def _lines(self, decoding: str, keys: Sequence[str], step: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        data = queue_io.read_objects(keys, PARTITION, ["extra_fields", "extra_info", "reward_model", "raw_prompt"])
        tokens = queue_io.read_responses(keys, PARTITION)
        for index, key in enumerate(keys):
            uid, extra, info = split_key(key)[0], data["extra_fields"][index], data["extra_info"][index] or {}
            columns = {name: float(extra["reward_extra_info"][name]) for name in COLUMNS}
            text = self._trainer.tokenizer.decode(tokens[index], skip_special_tokens=True)
            line = {
                "uid": str(info.get("uid", uid)),
                "task_type": info.get("task_type"),
                "response": text,
                "response_tokens": len(tokens[index]),
                **columns,
            }
            record = rollout_dump.record(
                step=step,
                split="heldout",
                decoding=decoding,
                group=uid,
                response=text,
                fields={name: values[index] for name, values in data.items()},
                columns=columns,
                judged_json=extra.get(DETAILS_KEY, ""),
            )
            yield line, record
