"""Score a file of rollouts with a serving pool: `python -m faithful_rl.judges score data=FILE`.

A row has `response` (text) and `ground_truth`, or verl's `reward_model`, and verl's `extra_info`, or its entries (`question`, `options`,
...) at the top of the row; `images` as verl's data files hold them, or `image_png_base64` as the rollout viewer's. JSON Lines or parquet.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import JUDGES
from faithful_rl.judge_pool.client import PoolClient
from faithful_rl.judges.reward import score_response
from faithful_rl.rewards import suite
from faithful_rl.types import FAILURES, Reason, ScoredRollout

IN_FLIGHT = 256  # rollouts at the same time; the pool's own limits come on top
_ENDS = frozenset(reason.name.lower() for reason in FAILURES)
ROW_KEYS = ("response", "ground_truth", "reward_model", "extra_info", "images", "image_png_base64", "image_count")


@dataclass(frozen=True)
class ScoredFile:
    """Rollouts of a file in its order, and what the clients of both judges counted."""

    rollouts: list[ScoredRollout]
    uids: list[str]
    counts: dict[str, dict[str, int]]
    versions: dict[str, list[str]]


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines or parquet file, each of which can be scored.

    Raises:
        ConfigError: no such file, another format, no row, or a row that cannot be scored; it names the row.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("data", f"no file {file}", "JSON Lines or parquet with rollouts", "Check the path.")
    rows = _parquet(file) if file.suffix == ".parquet" else _json_lines(file)
    if not rows:
        raise ConfigError("data", f"{file} without a row", "at least one rollout", "Check the path.")
    for number, row in enumerate(rows, 1):
        try:
            _check(row)
        except (ValueError, TypeError) as error:  # TypeError: numbers and lists where others are expected, in a row's reference
            place = f"row {number} of {file}"
            raise ConfigError(
                "data", f"{place} that cannot be scored ({error})", "a rollout as --help describes it", "Correct it."
            ) from error
    return rows


def check_writable(path: str | Path) -> None:
    """Find out before any judge is asked whether verdicts can be written there; the folder is made.

    Raises:
        ConfigError: they cannot.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir() or not os.access(file.parent, os.W_OK | os.X_OK):
            raise PermissionError("it is a directory" if file.is_dir() else f"no right to write into {file.parent}")
    except OSError as error:
        raise ConfigError("out", f"{file}, which cannot be written ({error})", "a file in a writable folder", "Change out.") from error


def _parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("data", f"{file}, which is no parquet ({reason})", "a parquet file", "Write it again.") from error
    return rows


def _json_lines(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError("data", f"{file}: {error}", "one JSON object per line, or a file ending in .parquet", "Convert it.") from error


def _check(row: Any) -> None:
    """Raises ValueError or TypeError that says what is wrong with a row."""
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} where an object is expected")
    if not isinstance(row.get("response"), str):
        raise ValueError("no text in `response`")
    for name, kind in (("extra_info", dict), ("reward_model", dict), ("images", list), ("options", list)):
        if row.get(name) is not None and not isinstance(row[name], kind):
            raise ValueError(f"`{name}` is a {type(row[name]).__name__}, expected a {kind.__name__}")
    truth, extra_info = _reference(row)
    suite.Reference.from_row({"ground_truth": truth}, extra_info)


async def score_rows(
    rows: Sequence[Mapping[str, Any]], pool: str, timeout_seconds: float | None = None, ask_masked: bool = False, client_name: str = "score"
) -> ScoredFile:
    """Ask the judges of `pool` about every row of `read_rows`, many at a time."""
    clients = {judge: PoolClient(pool, judge, timeout_seconds, client_name) for judge in JUDGES}
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(row: Mapping[str, Any]) -> ScoredRollout:
        async with gate:
            truth, extra_info = _reference(row)
            return await score_response(
                str(row["response"]), truth, extra_info, clients["consistency"], clients["grounding"], ask_masked=ask_masked
            )

    rollouts = list(await asyncio.gather(*(one(row) for row in rows)))
    uids = [str((row.get("extra_info") or row).get("uid", number)) for number, row in enumerate(rows)]
    return ScoredFile(
        rollouts,
        uids,
        {judge: client.counts() for judge, client in clients.items()},
        {judge: sorted(client.versions) for judge, client in clients.items()},
    )


def write(scored: ScoredFile, path: str | Path) -> None:
    """One JSON object per rollout: uid, all columns, and the sentence verdicts."""
    half = Path(f"{path}.tmp")
    with half.open("w", encoding="utf-8", errors="backslashreplace") as file:  # a response may hold half a character
        for uid, rollout in zip(scored.uids, scored.rollouts, strict=True):
            sentences = [
                {"text": one.text, "start": one.start, "end": one.end, "verdict": one.verdict.name, "why": one.why}
                for one in rollout.sentences
            ]
            file.write(json.dumps({"uid": uid, **suite.columns(rollout), "sentences": sentences}, ensure_ascii=False) + "\n")
    half.replace(path)


def silent(scored: ScoredFile, served: Collection[str]) -> list[str]:
    """What to say of each of the pool's judges that was asked and gave no verdict at all."""
    told = []
    for judge, counts in scored.counts.items():
        if judge in served and counts.get("asked", 0) and not counts.get("scored", 0):
            ends = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()) if name in _ENDS)
            told.append(f"the {judge} judge gave no verdict on any of {counts['asked']} rollouts ({ends})")
    return told


def summary(scored: ScoredFile) -> Table:
    """Mean of each signal over its scored rollouts, how many those are, and why the others are not."""
    view = Table(title=f"{len(scored.rollouts)} rollouts", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for heading in ("signal", "mean", "scored", "not scored"):
        view.add_column(heading, justify="left" if heading in ("signal", "not scored") else "right")
    for signal in suite.SIGNALS:
        scores = [rollout.scores[signal] for rollout in scored.rollouts]
        values = [score.value for score in scores if score.value is not None]
        reasons = Counter(score.reason for score in scores if score.reason is not Reason.SCORED)
        told = ", ".join(f"{reason.name.lower()} {number}" for reason, number in sorted(reasons.items()))
        view.add_row(signal, f"{sum(values) / len(values):.3f}" if values else "–", str(len(values)), told)
    return view


def _reference(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Ground truth and extra_info of a row, its images in extra_info.images."""
    extra_info = dict(row["extra_info"]) if row.get("extra_info") else {name: row[name] for name in row if name not in ROW_KEYS}
    truth = row.get("ground_truth") or (row.get("reward_model") or {}).get("ground_truth")
    if row.get("images"):
        extra_info["images"] = row["images"]
    elif row.get("image_png_base64") and int(row.get("image_count") or 1) == 1:
        # A run keeps the first of several images: judged by it alone, sentences about the others would be called false.
        try:
            extra_info["images"] = [base64.b64decode(row["image_png_base64"], validate=True)]
        except (ValueError, TypeError) as error:
            raise ValueError(f"`image_png_base64` is no base64 ({error})") from error
    return truth, extra_info  # type: ignore[return-value]  # Reference.from_row refuses what is no text
