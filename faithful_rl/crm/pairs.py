"""Premise and hypothesis pairs: from one rollout, from files of rollouts, and as parquet files of labelled pairs.

The premise is the question, its lettered options and the thinking; the hypothesis is "The final answer is {a}". Boxes are left out of
the thinking: they name places, never an answer, and are half of its tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faithful_rl import response
from faithful_rl.config import ConfigError
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.reward import request_from
from faithful_rl.rewards.accuracy import MAX_OPTIONS, read_options
from faithful_rl.rewards.designs import DESIGNS

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWER_CHARACTERS = 200  # a longer answer is no answer
ROW_KEYS = ("response", "ground_truth", "reward_model", "extra_info", "images", "image_png_base64", "columns")

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("question", pa.string()),
        ("thinking", pa.string()),
        ("answer", pa.string()),
        ("consistent", pa.float64()),
        ("origin", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One labelled pair.

    `uid` names the question: pairs of one question always stand on one side of a split. `question` carries its options,
    `answer` is what the hypothesis says. `consistent` is the label in [0, 1], `origin` says where the pair comes from.
    """

    uid: str
    question: str
    thinking: str
    answer: str
    consistent: float
    origin: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.consistent <= 1.0:
            raise ValueError(f"a label lies in [0, 1], got {self.consistent}")


def asked(question: str, options: Sequence[str]) -> str:
    """A question and its lettered options, one a line, as the policy reads them."""
    return "\n".join([question.strip(), *(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))])


def stated(answer: str, options: Sequence[str]) -> str:
    """What the hypothesis calls the answer: letter and text of the one option it names ("B) left"), else the answer as it stands.

    A reasoning may conclude with the letter or with the text; the hypothesis holds both, so that either can be matched.
    """
    named = read_options(answer, options[:MAX_OPTIONS]) if options else frozenset()
    if len(named) == 1:
        index = next(iter(named))
        return f"{LETTERS[index]}) {options[index]}"
    return " ".join(answer.split())[:ANSWER_CHARACTERS]


def hypothesis(answer: str) -> str:
    return f"The final answer is {answer}"


def without_boxes(thinking: str) -> str:
    """The thinking without its `<bbox>...</bbox>` spans; white space collapses to single blanks."""
    pieces, position = [], 0
    for start, end in response.box_spans(thinking):
        pieces.append(thinking[position:start])
        position = end
    text = " ".join(" ".join([*pieces, thinking[position:]]).split())
    return text.replace(" .", ".").replace(" ,", ",")


def of_request(request: JudgeRequest) -> tuple[str, str, str]:
    """(question, thinking, answer) of what a judge is asked: everything the model sees."""
    return asked(request.question, request.options), without_boxes(request.reasoning), stated(request.answer, request.options)


def labelled(request: JudgeRequest, consistent: float, origin: str) -> Pair:
    """The pair of a rollout that a judge has labelled."""
    question, thinking, answer = of_request(request)
    return Pair(request.uid or digest(question), question, thinking, answer, consistent, origin)


def digest(*texts: str) -> str:
    """16 hexadecimal digits of some texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def content_hash(pairs: Iterable[Pair]) -> str:
    """SHA-256 (hex) of pairs in their order, labels included."""
    found = hashlib.sha256()
    for pair in pairs:
        found.update(json.dumps([pair.question, pair.thinking, pair.answer, pair.consistent]).encode())
    return found.hexdigest()


def swapped(request: JudgeRequest, rng: Random) -> JudgeRequest | None:
    """The same reasoning with another option as its answer: inconsistent wherever the original is consistent. None without options."""
    named = read_options(request.answer, request.options)
    others = [index for index in range(len(request.options)) if index not in named]
    return replace(request, answer=LETTERS[rng.choice(others)]) if len(named) == 1 and others else None


def read_rows(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Rollouts of JSON Lines or parquet files, such as a run's `rollouts/*.jsonl` and `heldout/*.jsonl`; a directory gives its
    `rollouts` and `heldout` files.

    Raises:
        ConfigError: no such file, another format, or a row without text in `response`.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        for file in _files(Path(path).expanduser()):
            found = pq.read_table(file).to_pylist() if file.suffix == ".parquet" else list(_json_lines(file))
            for number, row in enumerate(found):
                if not isinstance(row, dict) or not isinstance(row.get("response"), str):
                    raise ConfigError(
                        "data", f"row {number + 1} of {file} without text in `response`", "a response in every row", "Add it."
                    )
            rows += found
    return rows


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted([*path.glob("rollouts/*.jsonl"), *path.glob("heldout/*.jsonl"), *path.glob("*.jsonl"), *path.glob("*.parquet")])
        found = [file for file in found if file.name != "metrics.jsonl"]
        if found:
            return found
    if not path.is_file():
        raise ConfigError("data", f"no file {path}", "JSON Lines or parquet with rollouts, or a run's directory", "Check the path.")
    return [path]


def _json_lines(file: Path) -> Iterator[Any]:
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError("data", f"{file}: {error}", "one JSON object per line, or a file ending in .parquet", "Convert it.") from error


def request_of(row: Mapping[str, Any], questions: Mapping[str, Mapping[str, Any]] | None = None) -> JudgeRequest:
    """What a judge would be asked about a row, without images.

    `questions` are the `extra_info` of a data file by uid, for rows that hold a uid and a response only (`heldout/*.jsonl`).

    Raises:
        ConfigError: neither the row nor `questions` knows the question.
    """
    info = dict(row["extra_info"]) if row.get("extra_info") else {name: row[name] for name in row if name not in ROW_KEYS}
    if not info.get("question"):
        known = (questions or {}).get(str(info.get("uid", "")))
        if known is None:
            raise ConfigError(
                "data", f"a row uid={info.get('uid')!s} without its question", "`question` in the row, or in questions=FILE",
                "Give the data file that the rollouts answered: questions=.../test.parquet.",
            )  # fmt: skip
        info = {**info, **known}
    info.pop("images", None)
    text = str(row["response"])
    return request_from(response.parse(text, blocks_of(text)), info)


def blocks_of(text: str) -> tuple[str, ...]:
    """The blocks that a response was asked for, by those that it holds: a description or a rethink block belongs to the thinking under the
    reward designs that ask for them, and the judges of such a run read all of it. Rows do not say their design.
    """
    asked_for = DESIGNS["mixture"].blocks
    found = response.placed(text, asked_for)
    return asked_for if found["description"] or found["rethink"] else response.BLOCKS


def own_label(row: Mapping[str, Any]) -> float | None:
    """The consistency that the row's own judge gave, in [0, 1]; None where it gave none."""
    columns = row.get("columns") or row
    if float(columns.get("consistency_scored") or 0.0) <= 0.0:
        return None
    return float(columns["consistency"])


def read_questions(path: str | Path) -> dict[str, dict[str, Any]]:
    """`extra_info` of verl's parquet rows by uid.

    Raises:
        ConfigError: no such file, or no column `extra_info`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError("questions", f"no file {file}", "a parquet file of questions in verl's format", "Check the path.")
    table = pq.ParquetFile(file)
    if "extra_info" not in table.schema_arrow.names:
        raise ConfigError("questions", f"{file} without the column extra_info", "a parquet file in verl's format", "Check the path.")
    rows = table.read(columns=["extra_info"]).to_pylist()
    return {str(row["extra_info"].get("uid")): row["extra_info"] for row in rows}


def write_pairs(pairs: Sequence[Pair], path: str | Path) -> Path:
    """A parquet file of pairs, which appears whole or not at all."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.tmp")
    pq.write_table(pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=SCHEMA), half, compression="zstd")
    half.replace(file)
    return file


def read_pairs(paths: Sequence[str | Path]) -> list[Pair]:
    """Pairs of parquet files in their order.

    Raises:
        ConfigError: no such file, or none that `write_pairs` wrote.
    """
    found = []
    for path in paths:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ConfigError(
                "faithful_rl.crm.pairs", f"no file {file}", "parquet files of pairs", "Make it: `python -m faithful_rl.crm pairs`."
            )
        try:
            rows = pq.read_table(file, columns=SCHEMA.names).to_pylist()
            found += [Pair(**row) for row in rows]
        except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, TypeError, ValueError) as error:
            expected = f"the columns {', '.join(SCHEMA.names)}, labels in [0, 1]"
            raise ConfigError("faithful_rl.crm.pairs", f"{file}: {error}", expected, "Make it again.") from error
    return found


def split_of(uid: str, valid_percent: int = 10, test_percent: int = 10) -> str:
    """train, valid or test: a function of the question, so that no question is on two sides whatever else is in the files."""
    bucket = int(digest("crm", uid), 16) % 100
    if bucket < test_percent:
        return "test"
    return "valid" if bucket < test_percent + valid_percent else "train"
