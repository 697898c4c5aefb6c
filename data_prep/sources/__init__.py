"""Sources by name. A module `data_prep/sources/<name>.py` offers `SOURCE` and is listed in `MODULES`; it is imported when asked for.

Most sources are a stream of raw rows and a function that converts one row:

    def rows(location: Path, request: Request) -> Iterator[tuple[int, RawRow]]: ...   # cheap: opens no image
    def convert(index: int, raw: RawRow, request: Request) -> Record | Iterable[Record]: ...   # raises Unusable
    SOURCE = Source(name="sat", licence="MIT", load=streamed("sat", rows, convert), files=files, ...)
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_prep.record import Record, Reject, Unusable, placed
from faithful_rl.config import ConfigError

# name -> module. Names are what `python -m data_prep NAME` and recipes say.
MODULES: dict[str, str] = {
    "sat": "data_prep.sources.sat",
    "vgr": "data_prep.sources.vgr",
    "viscot": "data_prep.sources.viscot",
    "viscot_363k": "data_prep.sources.viscot_363k",
    "treevgr_rl": "data_prep.sources.treevgr_rl",
    "algopuzzlevqa": "data_prep.sources.algopuzzlevqa",
    "cvbench": "data_prep.sources.cvbench",
    "mindcube": "data_prep.sources.mindcube",
    "mmvp": "data_prep.sources.mmvp",
    "omnispatial": "data_prep.sources.omnispatial",
    "realworldqa": "data_prep.sources.realworldqa",
    "sat_real": "data_prep.sources.sat_real",
}

# Options that every source understands, beside its own.
COMMON_OPTIONS: dict[str, Any] = {
    "images": "",  # image root; empty: beside the file (each source says where)
    "max_image_pixels": 89_478_485,  # width x height; above it an image is a bomb (Pillow's own warning level)
    "bad_boxes": "reject",  # reject the row | drop the box and note it
    "verify_images": True,  # decode every image once, so that a truncated one is found here and not in training
    "max_answer_words": 0,  # open answers with more words are left out, because no rule can grade them; 0: keep all
    "workers": 0,  # threads that convert rows; 0: one for each core. Changes no byte of the result
}


COMMON_CHOICES: dict[str, tuple[str, ...]] = {"bad_boxes": ("reject", "drop")}


class Load(Protocol):
    def __call__(
        self,
        location: Path,
        *,
        limit: int | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        chosen: Callable[[int], bool] | None = None,
    ) -> Iterator[Record | Reject]:
        """Stream a source in the order of its rows, in flat memory.

        Args:
            location: a local file or directory.
            limit: at most so many source rows, from the start.
            seed: for what the source shuffles (option order); the same seed gives the same records.
            options: see `Source.options` and `COMMON_OPTIONS`.
            chosen: row index (0-based, over the whole source) -> whether to convert it; other rows are passed over unopened. Sampling
                and the continuation of an interrupted run use it. A file that breaks off is told (`Reject.lost_file`) in any case.

        Raises:
            ConfigError: the location does not hold this source, or an option is wrong. A bad row never raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """What is known about one data set. `options` holds every own option with its default, `choices` the words that some of them take.

    `files` names the data files that `load` reads, no more and no fewer: their hashes are the identity of the input. `images` names the
    image root that the layout implies where the option `images` is empty; None where the files hold their images.
    """

    name: str
    licence: str
    load: Load
    files: Callable[[Path, Mapping[str, Any]], list[Path]]
    images: Callable[[Path, Mapping[str, Any]], Path] | None = None
    home: str = ""  # hub id
    describe: str = ""  # one line for --help
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    count: Callable[[Path, Mapping[str, Any]], int] | None = None  # source rows, without converting them; None: unknown
    hub_files: Callable[[Mapping[str, Any]], list[str]] | None = None  # patterns of the files to fetch from the hub
    open_answers: bool = False  # whether some rows have free-text answers
    version: int = 1  # raise it when the same file gives other records: manifests of older records no longer match

    def resolved(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """Every option with its value. Raises ConfigError for an unknown one, one of another type than its default, a negative number, or a
        word that is no choice."""
        known = {**COMMON_OPTIONS, **self.options}
        values = dict(known)
        for key, value in (options or {}).items():
            if key not in known:
                raise ConfigError(f"{self.name}.{key}", repr(value), f"one of the options {', '.join(sorted(known))}", "Correct its name.")
            values[key] = _typed(f"{self.name}.{key}", value, known[key])
        for key, words in {**COMMON_CHOICES, **self.choices}.items():
            if values[key] not in words:
                expected = ", ".join(word or "nothing" for word in words)
                raise ConfigError(f"{self.name}.{key}", repr(values[key]), f"one of {expected}", "Choose one of them.")
        return values

    def root(self, location: Path, options: Mapping[str, Any]) -> Path | None:
        """The image root: the option `images`, else what the layout implies. Raises ConfigError where the files are not there."""
        if options["images"]:
            return Path(options["images"]).expanduser()
        return self.images(location, options) if self.images else None

    def check_root(self, options: Mapping[str, Any], key: str) -> None:
        """Raise ConfigError when the option `images` is given and is no directory: otherwise every row would become a reject."""
        given = options["images"]
        if given and not Path(given).expanduser().is_dir():
            raise ConfigError(key, f"{given}, which is no directory", "the directory that image paths begin in", f"Correct {key}=.")


@dataclass(frozen=True, slots=True)
class Request:
    """What a converter needs besides the row: the source's location, the seed, every option with its value, and the image root."""

    source: str
    location: Path
    seed: int
    options: Mapping[str, Any]
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A raw row with what its converter must know about where it stood: `uid` names it in a `Reject`, `place` is the source's own."""

    row: Any
    uid: str
    place: Any = None


Rows = Callable[[Path, Request], Iterator[tuple[int, Any]]]
Convert = Callable[[int, Any, Request], Record | Iterable[Record | Reject]]


def streamed(name: str, rows: Rows, convert: Convert) -> Load:
    """A `load` made of a row stream and a converter.

    `rows` yields (row index, raw row or `Placed`); a raw row that is itself a `Reject` (a damaged line) goes through as it is, and one
    that stands for a file that broke off has no index and passes `chosen` and `limit` too.
    `convert` raises `Unusable`, which becomes a `Reject` with the raw row; a KeyError or TypeError on a malformed row becomes one too.
    """

    def load(
        location: Path,
        *,
        limit: int | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        chosen: Callable[[int], bool] | None = None,
    ) -> Iterator[Record | Reject]:
        source, place = get(name), Path(location)
        resolved = source.resolved(options)
        request = Request(name, place, seed, resolved, source.root(place, resolved))

        def wanted() -> Iterator[tuple[int, Any]]:
            for index, raw in rows(request.location, request):
                if isinstance(raw, Reject) and raw.lost_file:
                    yield -1, raw
                    continue
                if chosen is None or chosen(index):
                    yield index, raw
                if limit is not None and index + 1 >= limit:
                    return

        def one(numbered: tuple[int, Any]) -> list[Record | Reject]:
            index, raw = numbered
            if isinstance(raw, Reject):
                return [placed(raw, index, None)]
            return converted(raw.uid if isinstance(raw, Placed) else f"{name}-{index}", index, raw, request, convert)

        for items in in_order(one, wanted(), request.options["workers"]):
            yield from items

    return load


def in_order(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """`map` on threads (Pillow decodes outside the interpreter's lock) in the order of `items`, a bounded number of them at a time.

    `workers` is the number of threads; 0 means one for each usable core.
    """
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="convert") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def converted(uid: str, index: int, raw: Any, request: Request, convert: Convert) -> list[Record | Reject]:
    """Records of one raw row, or the one `Reject` that says why there are none; each carries the row's index."""
    kept = raw.row if isinstance(raw, Placed) else raw
    try:
        result = convert(index, raw, request)
        return [placed(item, index, kept) for item in ([result] if isinstance(result, Record) else result)]
    except ConfigError:  # a mistake of the user's, and not of this row
        raise
    except Unusable as error:
        return [Reject(uid, kept, error.reason, error.detail, row=index)]
    except KeyError as error:
        return [Reject(uid, kept, "missing_field", f"no field {error}", row=index)]
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        return [Reject(uid, kept, "bad_type", f"{type(error).__name__}: {error}", row=index)]


def names() -> list[str]:
    return sorted(MODULES)


def get(name: str) -> Source:
    """The source called `name`. Raises ConfigError for an unknown name."""
    if name not in MODULES:
        raise ConfigError("source", repr(name), f"one of {', '.join(names())}", "Correct the source's name.")
    source = importlib.import_module(MODULES[name]).SOURCE
    if not isinstance(source, Source):
        raise TypeError(f"{MODULES[name]}.SOURCE is a {type(source).__name__}, expected a Source")
    return source


def _typed(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`; text from a command line is read, so `true` is True and `3` is 3."""
    wanted = type(default)
    if wanted is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
    elif wanted is int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value)
    elif wanted is tuple:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(str(item) for item in value)
    elif isinstance(value, str):
        return value
    expected = "a whole number >= 0" if wanted is int else f"a value of type {wanted.__name__}, as the default {default!r}"
    raise ConfigError(key, repr(value), expected, "Correct the value.")
