"""One evaluation from settings to files: inspect, generate, judge, count; every step goes on where an earlier start was stopped."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import benchmarks, comparison, figures, known_box, servers, viewing
from faithful_rl.evaluation.append_log import AppendLog
from faithful_rl.evaluation.benchmarks import Inspected
from faithful_rl.evaluation.costs import Ledger
from faithful_rl.evaluation.generation import generate, probe
from faithful_rl.evaluation.judging import NONE, Judging
from faithful_rl.evaluation.predictions import Predictions, read_predictions
from faithful_rl.evaluation.questions import NO_REASONING, Question
from faithful_rl.evaluation.reading import AnswerReader, agreement
from faithful_rl.evaluation.rows import CANNOT_JUDGE, FORMAT, write_rows
from faithful_rl.evaluation.scoring import Scorer, failed
from faithful_rl.evaluation.settings import EvaluationSettings
from faithful_rl.run_directory import EVALUATION, read_json, write_json
from faithful_rl.run_record import code_version, versions

SETTINGS, STATE, LOGS, LOCK = "settings.json", "state", "logs", "evaluation.lock"
LEFT_OUT = "predictions_left_out.json"  # ids of prediction files, by benchmark and by why they are in no figure
# What decides responses. Judges and display may change between two starts; verdicts know which judge they are from.
DECIDES = ("mode", "prompt", "max_new_tokens", "context", "min_pixels", "max_pixels", "server", "limit", "predictions", "columns")
CANNOT_SCORE = "cannot be scored"
CVBENCH = (("cvbench_2d", "mean_of_strata"), ("cvbench_3d", "per_question"))


class Evaluation:
    """One evaluation; `run` does all of it.

    Args:
        settings: checked ones.
        console: for the progress bar.
    """

    def __init__(self, settings: EvaluationSettings, console: Console) -> None:
        self._settings, self._console = settings, console
        self._out = Path(settings.out)
        self._judging = Judging(settings.judges, settings.judge_seconds)
        self._reader = AnswerReader(settings.extractor, self._out / LOGS) if settings.extractor else None
        self._ledger = Ledger(self._out)
        self._gpus: float | None = None  # of the model's servers, where they are ours
        self._inspected: list[Inspected] = []
        self._predicted: dict[str, Predictions] = {}

    async def run(self) -> dict[str, Any]:
        """Evaluate and write everything; returns the summary, which is also in `evaluation.json`.

        Raises:
            ConfigError: something that a user can correct, before a response is generated where that is possible.
            GenerationError: the model's servers are gone; what was generated is kept.
        """
        settings = self._settings
        servers.check_model(settings)
        against = comparison.read_evaluation(Path(settings.against)) if settings.against else None
        name = servers.model_name(settings)
        self._inspected = [benchmarks.inspect(word, settings) for word in settings.benchmarks]
        with self._held():
            self._read_predictions()  # before anything of an earlier evaluation is touched
            self._keep_settings(name)
            if self._predicted:
                write_json(self._out / LEFT_OUT, {one: found.left_out for one, found in self._predicted.items()})
            (self._out / EVALUATION).unlink(missing_ok=True)
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(self._judging.close)
                if self._reader is not None:
                    stack.push_async_callback(self._reader.close)
                stack.callback(self._keep_costs)  # before judges forget what they were asked, and also of a start that is stopped
                missing = {} if settings.predictions else {one.name: set(one.uids) - set(self._kept(one)) for one in self._inspected}
                if any(missing.values()):
                    await servers.check_cluster(settings)
                    await known_box.check(settings)
                await self._start_judges(late=False)
                if any(missing.values()):
                    await self._generate(missing)
                await self._start_judges(late=True)
                entries = {one.name: await self._score(one) for one in self._inspected}
            return self._write(name, entries, against)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the directory, so that the same command started twice cannot write one file; the system drops a dead process's lock."""
        if self._out.exists() and not self._out.is_dir():
            raise ConfigError("out", f"the file {self._out}", "a directory", "Choose another out.")
        self._out.mkdir(parents=True, exist_ok=True)
        with (self._out / LOCK).open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                found = f"{self._out}, in use by a running evaluation"
                raise ConfigError("out", found, "a directory that nobody writes", "Wait for it, or choose another out.") from error
            yield

    def _keep_settings(self, name: str) -> None:
        """Refuse a directory that holds an evaluation of other settings."""
        own = asdict(self._settings)
        decided = {
            "model": name,
            **{key: own[key] for key in DECIDES},
            "questions": {one.name: hashlib.sha256(f"{one.digest} {one.uids}".encode()).hexdigest()[:16] for one in self._inspected},
        }
        path = self._out / SETTINGS
        try:
            kept = read_json(path)
        except ValueError as error:
            raise ConfigError("out", str(error), "an absent or empty directory, or one of these settings", "Choose another out.") from error
        begun = any((self._out / STATE).glob("*.jsonl"))  # nothing is lost where an earlier start was refused before its first response
        if kept and begun and kept.get("decided") != json.loads(json.dumps(decided)):
            old = kept.get("decided", {})
            differ = [key for key in decided if json.loads(json.dumps(decided[key])) != old.get(key)]
            found = f"{self._out}, an evaluation with another {', '.join(differ)}"
            raise ConfigError("out", found, "an absent or empty directory, or one of these settings", "Choose another out.")
        write_json(path, {"format": FORMAT, "decided": decided, "settings": own})

    def _read_predictions(self) -> None:
        for one in self._inspected:
            if self._settings.predictions:
                ids = {q.uid: str(q.record.metadata.get("source_id") or "") for q in benchmarks.questions(one, self._settings)}
                path = self._settings.predictions[one.name]
                self._predicted[one.name] = read_predictions(path, self._settings.columns, ids, one.name, one.others)

    async def _start_judges(self, late: bool) -> None:
        if self._judging.late is late:
            await self._judging.start()
        if self._reader is not None and self._reader.late is late:
            await self._reader.start()

    async def _generate(self, missing: Mapping[str, set[str]]) -> None:
        """Ask for the responses that are missing, by benchmark and id."""
        images = max(one.most_images for one in self._inspected)
        with self._ledger.clock("serving_seconds"):
            with self._console.status("starting the model"):
                fleet = await servers.start_fleet(self._settings, images, self._out / LOGS)
            self._gpus = fleet.gpus
            with self._ledger.clock("generation_seconds"):
                await self._ask(fleet, missing)

    async def _ask(self, fleet: servers.Fleet, missing: Mapping[str, set[str]]) -> None:
        """Ask the model's servers for what is missing, and end them."""
        try:
            first = next(one for one in self._inspected if missing[one.name])
            await probe(next(benchmarks.questions(first, self._settings)), fleet.chats, self._settings)
            for one in self._inspected:
                if missing[one.name]:
                    stream = (question for question in benchmarks.questions(one, self._settings) if question.uid in missing[one.name])
                    with AppendLog(self._responses(one)) as log:
                        async with self._progress(f"{one.name}: responses", len(one.uids), len(one.uids) - len(missing[one.name])) as done:
                            await generate(stream, fleet.chats, log, self._settings, done, fleet.why_gone)
        finally:
            await fleet.close()

    def _responses(self, one: Inspected) -> Path:
        return self._out / STATE / f"{one.name}.responses.jsonl"

    def _kept(self, one: Inspected) -> dict[str, Mapping[str, Any]]:
        """Responses that an earlier start left; failures are tried again."""
        path = self._responses(one)
        if not path.exists():
            return {}
        with AppendLog(path) as log:
            return {uid: line for uid, line in log.lines.items() if "failure" not in line}

    def _lines(self, one: Inspected) -> Mapping[str, Mapping[str, Any]]:
        if self._settings.predictions:
            return self._predicted[one.name].lines
        with AppendLog(self._responses(one)) as log:
            return dict(log.lines)

    async def _score(self, one: Inspected) -> dict[str, Any]:
        """Judge what no verdict is kept of, write the rows, and count."""
        scorer = Scorer(self._settings, self._judging, self._reader, servers.pixel_limits(self._settings))
        lines = self._lines(one)
        rows: dict[str, dict[str, Any]] = {}
        stream = benchmarks.questions(one, self._settings)
        lock = asyncio.Lock()
        with AppendLog(self._out / STATE / f"{one.name}.verdicts.jsonl") as log:
            async with self._progress(f"{one.name}: verdicts", len(one.uids), 0) as done:

                async def work() -> None:
                    while True:
                        async with lock:
                            question = await asyncio.to_thread(next, stream, None)
                        if question is None:
                            return
                        rows[question.uid] = await self._row(scorer, question, lines[question.uid], log)
                        done()

                with self._ledger.clock("judge_seconds"):
                    async with asyncio.TaskGroup() as group:
                        for _ in range(self._settings.judge_concurrency):
                            group.create_task(work())
        ordered = [rows[uid] for uid in one.uids]
        await asyncio.to_thread(write_rows, self._out, one.name, ordered)
        if self._settings.rollouts:
            path, asked = viewing.rollouts_file(self._out, one.name), benchmarks.questions(one, self._settings)
            with self._console.status(f"{one.name}: keeping responses and images for the viewer"):
                await asyncio.to_thread(viewing.write, path, asked, rows, scorer.limits)
        remarks = [*one.remarks, *(self._predicted[one.name].remarks if one.name in self._predicted else ()), *self._judge_remarks(ordered)]
        entry = await asyncio.to_thread(figures.benchmark_summary, ordered, one.total, one.conventions, remarks)
        if self._reader is not None:
            entry["extractor"] = {"model": self._reader.name, **agreement(ordered)}
        known = {"digest": one.digest, "licence": one.licence, "pinned": one.pinned}
        return {**entry, **known, "rejects": [[r.uid, r.reason, r.detail] for r in one.rejects]}

    async def _row(self, scorer: Scorer, question: Question, said: Mapping[str, Any], log: AppendLog) -> dict[str, Any]:
        if "failure" in said:
            return scorer.row(question, said, {})
        kept = log.lines.get(question.uid)
        try:
            if kept is None or kept["key"] != scorer.key(said) or failed(kept):
                kept = await scorer.judge(question, said)
                log.append(kept)
            return scorer.row(question, said, kept)
        except ValueError as error:  # the question itself contradicts itself: sizes that no processor takes, a damaged scene
            return scorer.row(question, {"uid": question.uid, "failure": f"{CANNOT_SCORE}: {error}"}, {})

    def _keep_costs(self) -> None:
        asked = self._judging.counts()
        if self._reader is not None:
            asked["extractor"] = self._reader.counts()
        self._ledger.keep(self._gpus, asked)

    def _judge_remarks(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        if self._settings.mode == NO_REASONING:
            return ["no reasoning was asked for: inconsistency and grounding do not apply"]
        if self._judging.kind == NONE:
            return ["no judge was asked (judges=none): inconsistency and grounding are not measured"]
        unknown = sum(row["generated"] and row["consistent_reason"] == CANNOT_JUDGE for row in rows)
        if unknown:
            return [f"{unknown} response(s) that the exact judge of scenes cannot judge, because they are about other images"]
        return []

    def _write(self, name: str, entries: dict[str, Any], against: comparison.Evaluated | None) -> dict[str, Any]:
        settings = self._settings
        lines = None if settings.predictions else [line for one in self._inspected for line in self._lines(one).values()]
        summary: dict[str, Any] = {
            "format": FORMAT,
            "model": name,
            "mode": settings.mode,
            "decoding": {
                "temperature": 0,
                "max_new_tokens": settings.max_new_tokens,
                "context": settings.context,
                "prompt": settings.prompt,
                "pixel_limits": servers.pixel_limits(settings),
                "generated_here": not settings.predictions,
            },
            "judges": {
                judge: {"is": what, "version": self._judging.identity.get(judge)} for judge, what in self._judging.describe().items()
            },
            "versions": {"code": code_version(), **versions()},
            "costs": self._ledger.totals(lines),
            "benchmarks": entries,
            "not_pinned": [one.name for one in self._inspected if one.pinned is False],
            "combined": {},
            "paired": [],
        }
        cvbench = figures.combined_mean(entries, [part for part, _ in CVBENCH], [kind for _, kind in CVBENCH])
        if cvbench is not None:
            summary["combined"]["cvbench"] = {"accuracy": cvbench, "convention": "mean of 2D's mean of strata and 3D's accuracy"}
        path = self._out / EVALUATION
        write_json(path, summary)
        if against is not None:
            summary["paired"] = comparison.compare([against], [comparison.read_evaluation(self._out)])
            write_json(path, summary)
        return summary

    @contextlib.asynccontextmanager
    async def _progress(self, what: str, total: int, before: int) -> AsyncIterator[Callable[[], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, disable=not self._settings.progress) as bar:
            task = bar.add_task(what, total=total, completed=before)
            yield lambda: bar.advance(task)
