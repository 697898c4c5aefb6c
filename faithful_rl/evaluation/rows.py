"""One row per question: what `rows/<benchmark>.parquet` holds, and every figure is computed from.

A signal without a verdict is null with its reason, never zero.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faithful_rl.config import ConfigError

FOLDER = "rows"
FORMAT = 1

_SIGNALS = ("consistent", "semantic_grounding", "spatial_grounding")

# Words of a `..._reason` beside those of `types.Reason`. An evaluation asks about every response, so that nothing is masked by its answer.
SCORED = "scored"
NOT_ASKED = "not_asked"  # there is no judge (judges=none)
CANNOT_JUDGE = "cannot_judge"  # the judge that was chosen cannot say this about such a question; another one might
FAILED = frozenset({"judge_error", "judge_timeout", "judge_unavailable"})  # it was tried and failed
DOES_NOT_APPLY = frozenset({"nothing_to_judge", "no_reference"})

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("benchmark", pa.string()),
        ("task_type", pa.string()),
        ("group", pa.string()),  # trials that share it are not independent: an MMVP pair, the orders of one SAT row
        ("stratum", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("gold", pa.string()),
        ("gold_index", pa.int64()),
        ("generated", pa.bool_()),  # false: no response, `failure` says why; such a row is in no figure
        ("failure", pa.string()),
        ("response", pa.string()),
        ("answer", pa.string()),
        ("choice", pa.int64()),  # option that was named, -1: none
        ("place", pa.string()),  # where the answer was found: evaluation.answers.PLACES, or "llm"
        ("parsed", pa.bool_()),  # null, as `correct`: the rule reads nothing and the extracting model failed, so that nobody knows
        ("correct", pa.bool_()),
        ("answer_reason", pa.string()),  # "scored", or why `correct` is null
        ("rule_choice", pa.int64()),  # option that the rule names, -1: none
        ("rule_correct", pa.bool_()),  # by rule alone
        ("llm_choice", pa.int64()),  # option that the extracting model names, -1: none; null: not asked, failed, or an open question
        ("llm_correct", pa.bool_()),  # by the extracting model alone; null where none was asked or it failed
        ("llm_failure", pa.string()),  # how the extracting model failed
        *[
            field
            for signal in _SIGNALS
            for field in ((signal, pa.float64()), (f"{signal}_scored", pa.bool_()), (f"{signal}_reason", pa.string()))
        ],
        ("format", pa.bool_()),
        ("truncated", pa.bool_()),
        ("response_tokens", pa.int64()),
        ("sentence_count", pa.int64()),
        ("correct_sentence_count", pa.int64()),
        ("judged_sentence_count", pa.int64()),
        ("sentences", pa.string()),  # JSON list of {text, start, end, verdict, why}
        ("boxes", pa.string()),  # JSON object of predicted and reference boxes in the model's frame
    ]
)

# Columns that rows of earlier versions do not have: null there.
ADDED = ("answer_reason", "rule_choice", "llm_choice", "llm_failure")

Row = Mapping[str, Any]


def rows_file(directory: Path, benchmark: str) -> Path:
    return directory / FOLDER / f"{benchmark}.parquet"


def write_rows(directory: Path, benchmark: str, rows: Sequence[Row]) -> Path:
    """Write all rows of a benchmark under their final name, complete or not at all."""
    path = rows_file(directory, benchmark)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
    pq.write_table(table, half, compression="zstd", row_group_size=500)
    os.replace(half, path)
    return path


def read_rows(directory: Path, benchmark: str) -> list[dict[str, Any]]:
    """The rows of one benchmark of an evaluation.

    Raises:
        ConfigError: there is no such file, it is damaged, or it was written in another layout.
    """
    path = rows_file(directory, benchmark)
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ConfigError(str(directory), f"no {path.name}", "the rows of a finished evaluation", "Evaluate it again.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(str(path), f"a damaged file ({error})", "the rows of an evaluation", "Evaluate it again.") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    for name in [name for name in missing if name in ADDED]:
        missing.remove(name)
        table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    if missing:
        raise ConfigError(str(path), f"no column {missing[0]}", "the rows of an evaluation of this version", "Evaluate it again.")
    found: list[dict[str, Any]] = table.select(SCHEMA.names).to_pylist()
    return found
