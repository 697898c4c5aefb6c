"""Score a file of rollouts with a serving pool: `python -m faithful_rl.judges score data=FILE`.

A row has `response` (text) and `ground_truth`, or verl's `reward_model`, and verl's `extra_info`, or its entries (`question`, `options`,
...) at the top of the row; `images` as verl's data files hold them, or `image_png_base64` as the rollout viewer's. JSON Lines or parquet.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
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
from faithful_rl.types import Reason, ScoredRollout

IN_FLIGHT = 256  # rollouts at the same time; the pool's own limits come on top
ROW_KEYS = ("response", "ground_truth", "reward_model", "extra_info", "images", "image_png_base64")


@dataclass(frozen=True)
class ScoredFile:
    """Rollouts of a file in its order, and what the clients of both judges counted."""

    rollouts: list[ScoredRollout]
    uids: list[str]
    counts: dict[str, dict[str, int]]
    versions: dict[str, list[str]]


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines or parquet file.

    Raises:
        ConfigError: no such file, another format, or a row without text in `response`.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("data", f"no file {file}", "JSON Lines or parquet with rollouts", "Check the path.")
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        rows: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    else:
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(
                "data", f"{file}: {error}", "one JSON object per line, or a file ending in .parquet", "Convert it."
            ) from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("response"), str):
            raise ConfigError("data", f"row {number + 1} of {file} without text in `response`", "a response in every row", "Add it.")
    return rows


async def score_rows(
    rows: Sequence[Mapping[str, Any]], pool: str, timeout_seconds: float | None = None, ask_masked: bool = False, client_name: str = "score"
) -> ScoredFile:
    """Ask the judges of `pool` about every row, many at a time.

    Raises:
        ValueError: a row's reference data is unusable; the message names the row.
    """
    clients = {judge: PoolClient(pool, judge, timeout_seconds, client_name) for judge in JUDGES}
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(row: Mapping[str, Any]) -> ScoredRollout:
        truth, extra_info = _reference(row)
        async with gate:
            return await score_response(
                str(row["response"]), truth, extra_info, clients["consistency"], clients["grounding"], ask_masked=ask_masked
            )

    rollouts = list(await asyncio.gather(*(one(row) for row in rows)))
    uids = [str(_reference(row)[1].get("uid", number)) for number, row in enumerate(rows)]
    return ScoredFile(
        rollouts,
        uids,
        {judge: client.counts() for judge, client in clients.items()},
        {judge: sorted(client.versions) for judge, client in clients.items()},
    )


def write(scored: ScoredFile, path: str | Path) -> None:
    """One JSON object per rollout: uid, all columns, and the sentence verdicts."""
    with open(path, "w", encoding="utf-8") as file:
        for uid, rollout in zip(scored.uids, scored.rollouts, strict=True):
            sentences = [
                {"text": one.text, "start": one.start, "end": one.end, "verdict": one.verdict.name, "why": one.why}
                for one in rollout.sentences
            ]
            file.write(json.dumps({"uid": uid, **suite.columns(rollout), "sentences": sentences}, ensure_ascii=False) + "\n")


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
    elif row.get("image_png_base64"):
        extra_info["images"] = [base64.b64decode(row["image_png_base64"])]
    return truth, extra_info  # type: ignore[return-value]  # Reference.from_row refuses what is no text, and names the row
