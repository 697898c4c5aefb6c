"""Responses that exist already: JSON Lines, a JSON list or parquet of any tool, matched to questions by uid or the benchmark's own id."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.benchmarks import LIMITED, REJECTED
from faithful_rl.evaluation.figures import listed

DEFAULTS = {"uid": "uid", "response": "response", "answer": "answer", "truncated": "truncated", "response_tokens": "response_tokens"}
MISSING = "no prediction"
CUT = ("length", "max_tokens")  # finish reasons that mean a response was cut
EXPECTED = "JSON Lines, a JSON list or parquet with responses"
TABLES = (".csv", ".tsv", ".xls", ".xlsx")  # what people have in such files, and is not read
# What is left out, and how a remark says it; also the keys of `Predictions.left_out`.
LEFT_OUT = {
    "unknown": "prediction(s) of unknown ids left out",
    LIMITED: "prediction(s) of questions that are not asked (limit)",
    REJECTED: "prediction(s) of rows that cannot be asked",
    "repeated": "prediction(s) twice with the same text, counted once",
    "not_json": "torn last line, which is not JSON, left out",
}
Placed = tuple[str, dict[str, Any]]  # where a row stands, for messages, and the row


@dataclass(frozen=True)
class Predictions:
    """Lines as `generation` writes them, by uid; a question without a prediction is there with a failure. `remarks` say what was odd;
    `left_out` has all ids of that, by `LEFT_OUT` and as `missing`."""

    lines: Mapping[str, Mapping[str, Any]]
    remarks: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_predictions(
    path: str, columns: Mapping[str, str], ids: Mapping[str, str], benchmark: str, others: Mapping[str, str] | None = None
) -> Predictions:
    """Read a file of predictions.

    Args:
        columns: our column -> the file's; absent ones have our names.
        ids: uid -> the benchmark's own id of that question ("" where it has none).
        others: ids that the benchmark knows and does not ask -> `LIMITED` or `REJECTED`.

    Raises:
        ConfigError: no such file or column, a line that is no JSON before the last one, rows without text or with a number that is none,
            one question with two different responses, or ids most of which the benchmark does not know.
    """
    key = f"predictions.{benchmark}"
    rows, torn = _rows(Path(path).expanduser(), key)
    names = {**DEFAULTS, **columns}
    present = set().union(*(row.keys() for _, row in rows))
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
    left: dict[str, list[str]] = {kind: [] for kind in LEFT_OUT} | {"not_json": torn}
    for place, row in rows:
        said = _id(row.get(names["uid"]))
        uid = said if said in ids else own.get(said)
        if uid is None:
            left[(others or {}).get(said, "unknown")].append(said)
            continue
        line = _line(uid, row, names, f"{path}, {place}")
        if uid in lines and lines[uid] != line:
            raise ConfigError(key, f"two different responses to {said} in {path}", "each question once", "Remove one of them.")
        if uid in lines:
            left["repeated"].append(said)
        lines[uid] = line
    unknown = left["unknown"]
    if len(unknown) > len(rows) / 2:
        found = f"{len(unknown)} of {len(rows)} ids that {benchmark} does not know, such as {', '.join(unknown[:3])}"
        raise ConfigError(key, found, f"ids such as {', '.join(list(ids)[:2])}, or the benchmark's own", "Correct the file or columns.uid.")
    missing = [uid for uid in ids if uid not in lines]
    failures = {uid: {"uid": uid, "failure": MISSING} for uid in missing}
    remarks = tuple(f"{len(left[kind])} {what}: {listed(left[kind])}" for kind, what in LEFT_OUT.items() if left[kind])
    kept = {kind: tuple(said) for kind, said in {**left, "missing": missing}.items() if said}
    return Predictions({**lines, **failures}, remarks, kept)


def _by_own_id(ids: Mapping[str, str]) -> dict[str, str]:
    """The benchmark's own id -> uid, for those that only one question has."""
    counts = Counter(ids.values())
    return {own: uid for uid, own in ids.items() if own and counts[own] == 1}


def _rows(path: Path, key: str) -> tuple[list[Placed], list[str]]:
    """(rows with their places, places of what is no JSON)."""
    if not path.is_file():
        raise ConfigError(key, f"{path}, which does not exist", EXPECTED, "Correct the path.")
    if path.suffix.lower() in TABLES:
        fix = "CSV and spreadsheets are not read: write one JSON object a line, with an id and the response."
        raise ConfigError(key, f"{path}, a {path.suffix[1:].upper()} file", EXPECTED, fix)
    torn: list[str] = []
    try:
        if path.suffix == ".parquet":
            rows: list[Placed] | None = _numbered(pq.read_table(path).to_pylist())
        else:
            rows = _json_list(path) if path.suffix == ".json" else None
            if rows is None:
                rows, torn = _json_lines(path)
    except (ValueError, pa.ArrowException, OSError) as error:
        raise ConfigError(key, f"{path}, which cannot be read ({error})", EXPECTED, "Correct it.") from error
    if not rows:
        found = f"{path}, in which no line is whole ({torn[0]} is torn)" if torn else f"{path}, which is empty"
        raise ConfigError(key, found, "responses", "Correct the path.")
    return rows, torn


def _numbered(rows: Sequence[dict[str, Any]]) -> list[Placed]:
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _json_lines(path: Path) -> tuple[list[Placed], list[str]]:
    """(rows, the place of a last line that breaks off, as a tool leaves it that was stopped). Raises ValueError for another bad line."""
    rows: list[Placed] = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # bytes that are no text too
                if not line.endswith(b"\n"):
                    return rows, [f"line {number}"]
                raise ValueError(f"line {number} is not JSON: {error}; expected one object per line") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds a JSON {type(row).__name__}, expected an object")
            rows.append((f"line {number}", row))
    return rows, []


def _id(value: Any) -> str:
    """An id as text; `7.0`, which tables make of 7 when another row lacks one, is 7."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _json_list(path: Path) -> list[Placed] | None:
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
    return _numbered(found)


def _line(uid: str, row: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    text, answer = row.get(names["response"]), row.get(names["answer"])
    if text is not None and not isinstance(text, str):
        raise ConfigError("predictions", f"{where} with a response of type {type(text).__name__}", "text", "Write the response as text.")
    if text is None and answer is None:
        return {"uid": uid, "failure": "an empty prediction"}
    line: dict[str, Any] = {"uid": uid, "response": None if text is None else _writable(text)}
    if text is None:
        line["answer"] = _writable(answer if isinstance(answer, str) else json.dumps(answer))
    line["truncated"] = _truncated(row.get(names["truncated"]), where)
    line["response_tokens"] = _tokens(row.get(names["response_tokens"]), where)
    return line


def _writable(text: str) -> str:
    """JSON can spell half of a character (a lone surrogate), which no file of ours can hold: it becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _truncated(value: Any, where: str) -> bool | None:
    """From a boolean, 0 or 1, or a finish reason ("length" is a cut); None where nothing stands. Raises ConfigError."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        return value.lower() in CUT
    raise ConfigError("predictions", f"{where} with truncated {value!r}", "true, false or a finish reason", "Correct columns.truncated.")


def _tokens(value: Any, where: str) -> int | None:
    """A count; None where nothing stands, or no number as tables write it (NaN, infinity). Raises ConfigError."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        found = f"{where} with response_tokens {value!r} ({type(value).__name__})"
        raise ConfigError("predictions", found, "a number >= 0, or null", "Write it as a number, or correct columns.response_tokens.")
    return int(value)
