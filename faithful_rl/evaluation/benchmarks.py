"""The benchmarks by name: where their questions come from, what is pinned about them, and by which conventions they are counted."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import sources
from data_prep.hub import locate
from data_prep.record import FILTERED, Record, Reject, Unusable
from data_prep.scenes.dataset import SceneDataSettings, scene_rows
from data_prep.sources import algopuzzlevqa, cvbench, mindcube, mmvp, omnispatial, realworldqa, sat_real
from data_prep.sources.pinned import Pinned, differences
from faithful_rl.config import ConfigError
from faithful_rl.evaluation.figures import listed
from faithful_rl.evaluation.questions import TEXT_INSTEAD_OF_IMAGE, Question, description, from_row
from faithful_rl.evaluation.settings import EvaluationSettings, benchmark_name

SCENES = "scenes"
ROW = "row"  # trials of one source row belong together
SENTENCES = 4  # that the note on a benchmark other than the pinned one spells out
LIMITED, REJECTED = "limited", "rejected"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`group` and `stratum` name the metadata that say which trials belong together and which part of a mean a row counts to."""

    name: str
    source: str
    module: Any
    pinned: Pinned
    options: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    stratum: str = ""
    conventions: tuple[str, ...] = ()


BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark(
            "cvbench_2d", "cvbench", cvbench, cvbench.PINNED["2d"], {"part": "2d"}, stratum="source", conventions=("mean_of_strata",)
        ),
        Benchmark("cvbench_3d", "cvbench", cvbench, cvbench.PINNED["3d"], {"part": "3d"}),
        Benchmark("mindcube", "mindcube", mindcube, mindcube.PINNED),
        Benchmark("mmvp", "mmvp", mmvp, mmvp.PINNED, group="pair", conventions=("per_pair",)),
        Benchmark("omnispatial", "omnispatial", omnispatial, omnispatial.PINNED),
        Benchmark("realworldqa", "realworldqa", realworldqa, realworldqa.PINNED),
        Benchmark("sat_real", "sat_real", sat_real, sat_real.PINNED, group=ROW, conventions=("circular_mean", "all_orders")),
        Benchmark("algopuzzlevqa", "algopuzzlevqa", algopuzzlevqa, algopuzzlevqa.PINNED),
    )
}
NAMES = (*BENCHMARKS, SCENES)


@dataclass(frozen=True)
class Inspected:
    """One benchmark after every row of it was looked at once.

    `total` questions it has, rejected ones too, and at least as many as are pinned; `uids` are those that will be asked, in order.
    `others` are ids that the benchmark knows and that are not asked, with `LIMITED` or `REJECTED`. `digest` is a hash of their content.
    `pinned`: whether it is the pinned set; None where nothing is pinned.
    """

    name: str
    word: str
    location: Path | None
    options: Mapping[str, Any]
    total: int
    uids: tuple[str, ...]
    rejects: tuple[Reject, ...]
    remarks: tuple[str, ...]
    conventions: tuple[str, ...]
    digest: str
    most_images: int
    licence: str
    others: Mapping[str, str] = field(default_factory=dict)
    pinned: bool | None = None


def inspect(word: str, settings: EvaluationSettings) -> Inspected:
    """Read a whole benchmark once, so that what is wrong with it is known before a model is loaded.

    Raises:
        ConfigError: it is unknown or not there, holds nothing that can be asked, differs from what is pinned (`pins=strict`), or
            has no description that `mode=text_instead_of_image` needs.
    """
    name, benchmark = benchmark_name(word), BENCHMARKS.get(word)
    location, options = _located(word, settings)
    found: dict[str, tuple[str, int]] = {}  # uid -> group, row
    others: dict[str, str] = {}  # id -> why it is not asked
    content: list[str] = []
    types: Counter[str] = Counter()
    rejects: list[Reject] = []
    most_images = 0
    for item in _stream(word, location, options, settings):
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        if item.uid in found:
            rejects.append(Reject(item.uid, {}, "duplicate_uid", "the same uid twice"))
            continue
        record = item.record
        found[item.uid] = (item.group, record.row if record.row >= 0 else len(found))
        others |= dict.fromkeys((item.uid, str(record.metadata.get("source_id") or item.uid)), LIMITED)
        content.append(json.dumps([record.uid, record.question, record.options, record.gold_text, [i.wh for i in record.images]]))
        types[record.task_type] += 1
        most_images = max(most_images, len(record.images))
        if settings.mode == TEXT_INSTEAD_OF_IMAGE and description(item) is None:
            found_none = f"{settings.mode} for {name}, whose question {item.uid} has none"
            raise ConfigError("mode", found_none, "questions with an exact description", "Leave it out.")
    if not found:
        first = f": {rejects[0].reason}, {rejects[0].detail}" if rejects else ""
        raise ConfigError(f"benchmarks.{name}", f"no usable question{first}", "at least one", "Check the files.")
    total, remarks = _pins(benchmark, name, location, options, found, rejects, types, settings)
    pinned = not remarks if benchmark else None
    uids = _spread({uid: group for uid, (group, _) in found.items()}, settings.limit)
    if len(uids) < len(found):
        remarks.append(f"limited to {len(uids)} of {len(found)} questions (limit={settings.limit})")
    others = {one: REJECTED for reject in rejects for one in _ids(reject)} | others
    remarks += _reject_remarks(rejects)
    return Inspected(
        name=name,
        word=word,
        location=location,
        options=options,
        total=total,
        uids=uids,
        rejects=tuple(rejects),
        remarks=tuple(remarks),
        conventions=benchmark.conventions if benchmark else (),
        digest=hashlib.sha256("\n".join(sorted(content)).encode("utf-8", "surrogatepass")).hexdigest()[:16],
        most_images=most_images,
        licence=sources.get(benchmark.source).licence if benchmark else "",
        others=others,
        pinned=pinned,
    )


def questions(inspected: Inspected, settings: EvaluationSettings) -> Iterator[Question]:
    """The questions that are asked, in order, with their images; they were decoded when the benchmark was inspected."""
    wanted = set(inspected.uids)
    options = {**inspected.options, "verify_images": False} if inspected.word in BENCHMARKS else inspected.options
    for item in _stream(inspected.word, inspected.location, options, settings):
        if isinstance(item, Question) and item.uid in wanted:
            wanted.discard(item.uid)
            yield item


def _located(word: str, settings: EvaluationSettings) -> tuple[Path | None, dict[str, Any]]:
    if word == SCENES:
        return None, {}
    if word.endswith(".parquet"):
        if not Path(word).is_file():
            raise ConfigError("benchmarks", f"{word}, which does not exist", "a parquet file in verl's format", "Correct the path.")
        return Path(word), {}
    benchmark = BENCHMARKS.get(word)
    if benchmark is None:
        close = difflib.get_close_matches(word, NAMES, n=1)
        fix = f"Did you mean {close[0]}?" if close else "Correct the name."
        raise ConfigError("benchmarks", repr(word), f"one of {', '.join(NAMES)}, or a parquet file", fix)
    given = settings.options.get(word) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"options.{word}", repr(given), "options of the benchmark, such as options.mmvp.fix_labels=true", "Correct it.")
    source = sources.get(benchmark.source)
    options = source.resolved({**given, **benchmark.options})
    place = settings.locations.get(word) or str(Path(settings.data) / benchmark.source)
    patterns = None if source.hub_files is None else source.hub_files(options)
    return locate(place, files=patterns, key=f"locations.{word}").path, options


def _stream(word: str, location: Path | None, options: Mapping[str, Any], settings: EvaluationSettings) -> Iterator[Question | Reject]:
    if word == SCENES:
        scenes = SceneDataSettings(seed=settings.scenes.seed, test=settings.scenes.questions)
        yield from (from_row(SCENES, row) for row in scene_rows(scenes, "test"))
    elif word in BENCHMARKS:
        assert location is not None
        benchmark = BENCHMARKS[word]
        for item in sources.get(benchmark.source).load(location, seed=0, options=options):
            if isinstance(item, Record):
                yield _question(benchmark, item)
            elif item.reason != FILTERED:  # what an option leaves out is no part of what is evaluated
                yield item
    else:
        assert location is not None
        yield from _rows_of_file(benchmark_name(word), location)


def _question(benchmark: Benchmark, record: Record) -> Question:
    own = record.row if benchmark.group == ROW else record.metadata.get(benchmark.group)
    group = f"{benchmark.name}-{own}" if benchmark.group else record.uid
    return Question(benchmark.name, record, group, str(record.metadata.get(benchmark.stratum) or "") if benchmark.stratum else "")


def _rows_of_file(name: str, path: Path) -> Iterator[Question | Reject]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=32):
                for index, row in enumerate(batch.to_pylist()):
                    uid = str((row.get("extra_info") or {}).get("uid", f"{name}-{index}"))
                    try:
                        yield from_row(name, row)
                    except Unusable as error:
                        yield Reject(uid, {}, error.reason, error.detail)
                    except (KeyError, TypeError, ValueError) as error:
                        yield Reject(uid, {}, "bad_type", f"{type(error).__name__}: {error}")
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(
            "benchmarks", f"{path}, which cannot be read ({error})", "a parquet file in verl's format", "Make it again."
        ) from error


def _pins(
    benchmark: Benchmark | None,
    name: str,
    location: Path | None,
    options: Mapping[str, Any],
    found: Mapping[str, tuple[str, int]],
    rejects: list[Reject],
    types: Counter[str],
    settings: EvaluationSettings,
) -> tuple[int, list[str]]:
    """(questions that the benchmark has, remarks)."""
    lost = sum(reject.rows for reject in rejects)
    if benchmark is None or location is None:
        return len(found) + lost, []
    pinned = benchmark.pinned
    if benchmark.name == "sat_real" and not options["circular"]:
        pinned = sat_real.PINNED_ONE_ORDER
    elif benchmark.name == "algopuzzlevqa" and options["puzzles"]:
        chosen = {puzzle: pinned.by_type[puzzle] for puzzle in options["puzzles"] if puzzle in pinned.by_type}
        pinned = Pinned(sum(chosen.values()), by_type=chosen)
    rows = len({row for _, row in found.values()}) + lost
    differ = differences(pinned, rows, {} if rejects else types, benchmark.module.files(location, options))
    if not differ:
        return pinned.questions, []
    if settings.pins == "strict":
        fix = "Use the files of the benchmark's own page, or set pins=note to evaluate these and have it noted."
        raise ConfigError(f"benchmarks.{name}", "; ".join(differ), f"the pinned benchmark ({pinned.rows} rows)", fix)
    total = len(found) + lost * max(1, pinned.questions // pinned.rows)
    # Rows that are not there are questions that nobody asked: a part of a benchmark is no smaller benchmark.
    more = f"; and {len(differ) - SENTENCES} more differences" if len(differ) > SENTENCES else ""
    return max(total, pinned.questions), [f"not the pinned benchmark: {'; '.join(differ[:SENTENCES])}{more}"]


def _spread(groups: Mapping[str, str], limit: int | None) -> tuple[str, ...]:
    """At most `limit` uids in order, from groups that are spread evenly and stay whole."""
    if limit is None or limit >= len(groups):
        return tuple(groups)
    names = list(dict.fromkeys(groups.values()))
    largest = max(Counter(groups.values()).values())
    count = min(max(1, limit // largest), len(names))
    chosen = {names[index * len(names) // count] for index in range(count)}
    return tuple(uid for uid, group in groups.items() if group in chosen)


def _reject_remarks(rejects: list[Reject]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for reject in rejects:
        by_reason.setdefault(reject.reason, []).append(reject.uid)
    return [f"{len(uids)} row(s) that cannot be asked ({reason}): {listed(uids)}" for reason, uids in sorted(by_reason.items())]


def _ids(reject: Reject) -> set[str]:
    """What a rejected row may be called: its uid, and the source's own id where the row shows it."""
    row = reject.source_row if isinstance(reject.source_row, Mapping) else {}
    cells = row.get("cells") or [None]
    return {reject.uid, *(str(value) for value in (row.get("id"), row.get("idx"), cells[0]) if value is not None)}
