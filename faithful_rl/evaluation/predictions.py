"""Responses that exist already: JSON Lines, a JSON list or parquet of any tool, matched to questions by uid or the benchmark's own id."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faithful_rl.config import ConfigError
from faithful_rl.metrics import read_jsonl

SHOWN = 10  # ids that a message lists
DEFAULTS = {"uid": "uid", "response": "response", "answer": "answer", "truncated": "truncated", "response_tokens": "response_tokens"}
MISSING = "no prediction"
CUT = ("length", "max_tokens")  # finish reasons that mean a response was cut


@dataclass(frozen=True)
class Predictions:
    """Lines as `generation` writes them, by uid; a question without a prediction is there with a failure. `remarks` say what was odd."""

    lines: Mapping[str, Mapping[str, Any]]
    remarks: tuple[str, ...]


def read_predictions(path: str, columns: Mapping[str, str], ids: Mapping[str, str], benchmark: str) -> Predictions:
    """Read a file of predictions.

    Args:
        columns: our column -> the file's; absent ones have our names.
        ids: uid -> the benchmark's own id of that question ("" where it has none).

    Raises:
        ConfigError: no such file or column, rows without text, one question with two different responses, or ids most of which the
            benchmark does not know.
    """
    key = f"predictions.{benchmark}"
    rows = _rows(Path(path).expanduser(), key)
    names = {**DEFAULTS, **columns}
    present = set().union(*(row.keys() for row in rows))
    for name in columns:
        if columns[name] not in present:
            raise ConfigError(
                f"columns.{name}", f"no column {columns[name]} in {path}", f"one of {', '.join(sorted(present))}", "Correct it."
            )
    if names["uid"] not in present or not {names["response"], names["answer"]} & present:
        found = f"{path} with the columns {', '.join(sorted(present))}"
        raise ConfigError(key, found, f"{names['uid']}, and {names['response']} or {names['answer']}", "Name them: columns.uid=..., ...")
    own = _by_own_id(ids)
    lines: dict[str, dict[str, Any]] = {}
    unknown: list[str] = []
    repeated: list[str] = []
    for number, row in enumerate(rows, 1):
        said = _id(row.get(names["uid"]))
        uid = said if said in ids else own.get(said)
        if uid is None:
            unknown.append(said)
            continue
        line = _line(uid, row, names, f"{path}, row {number}")
        if uid in lines and lines[uid] != line:
            raise ConfigError(key, f"two different responses to {said} in {path}", "each question once", "Remove one of them.")
        if uid in lines:
            repeated.append(said)
        lines[uid] = line
    if len(unknown) > len(rows) / 2:
        found = f"{len(unknown)} of {len(rows)} ids that {benchmark} does not know, such as {', '.join(unknown[:3])}"
        raise ConfigError(key, found, f"ids such as {', '.join(list(ids)[:2])}, or the benchmark's own", "Correct the file or columns.uid.")
    missing = [uid for uid in ids if uid not in lines]
    failures = {uid: {"uid": uid, "failure": MISSING} for uid in missing}
    remarks = [
        _remark(unknown, "prediction(s) of unknown ids left out"),
        _remark(repeated, "prediction(s) twice with the same text, counted once"),
    ]
    return Predictions({**lines, **failures}, tuple(remark for remark in remarks if remark))


def _remark(ids: Sequence[str], what: str) -> str:
    if not ids:
        return ""
    return f"{len(ids)} {what}: {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}"


def _by_own_id(ids: Mapping[str, str]) -> dict[str, str]:
    """The benchmark's own id -> uid, for those that only one question has."""
    counts = Counter(ids.values())
    return {own: uid for uid, own in ids.items() if own and counts[own] == 1}


def _rows(path: Path, key: str) -> list[dict[str, Any]]:
    expected = "JSON Lines, a JSON list or parquet with responses"
    rows: list[dict[str, Any]] | None
    if not path.is_file():
        raise ConfigError(key, f"{path}, which does not exist", expected, "Correct the path.")
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            rows = _json_list(path) if path.suffix == ".json" else None
            rows = [row for _, row in read_jsonl(path)] if rows is None else rows
    except (ValueError, pa.ArrowException, OSError) as error:
        raise ConfigError(key, f"{path}, which cannot be read ({error})", expected, "Correct it.") from error
    if not rows:
        raise ConfigError(key, f"{path}, which is empty", "responses", "Correct the path.")
    return rows


def _id(value: Any) -> str:
    """An id as text; `7.0`, which tables make of 7 when another row lacks one, is 7."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _json_list(path: Path) -> list[dict[str, Any]] | None:
    """The objects of one JSON list; None where the file is none, so that it is read line by line. Raises ValueError for another list."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(found, list):
        return None
    wrong = next((number for number, row in enumerate(found) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise ValueError(f"entry {wrong} is a JSON {type(found[wrong]).__name__}, expected an object")
    return found


def _line(uid: str, row: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    text, answer = row.get(names["response"]), row.get(names["answer"])
    if text is not None and not isinstance(text, str):
        raise ConfigError("predictions", f"{where} with a response of type {type(text).__name__}", "text", "Write the response as text.")
    if text is None and answer is None:
        return {"uid": uid, "failure": "an empty prediction"}
    line: dict[str, Any] = {"uid": uid, "response": None if text is None else _writable(text)}
    if text is None:
        line["answer"] = _writable(answer if isinstance(answer, str) else json.dumps(answer))
    line["truncated"] = _truncated(row.get(names["truncated"]))
    tokens = row.get(names["response_tokens"])
    counted = isinstance(tokens, int | float) and not isinstance(tokens, bool) and 0 <= tokens < math.inf
    line["response_tokens"] = int(tokens or 0) if counted else None
    return line


def _writable(text: str) -> str:
    """JSON can spell half of a character (a lone surrogate), which no file of ours can hold: it becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _truncated(value: Any) -> bool | None:
    """From a boolean or a finish reason ("length" is a cut); None where it says neither."""
    if isinstance(value, bool):
        return value
    return value.lower() in CUT if isinstance(value, str) and value else None
