"""Rows that are there twice, and rows that a benchmark asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.curation.hashes import Row

DUPLICATE, OTHER_ANSWER = "duplicate", "duplicate_with_other_answer"
BENCHMARK_IMAGE, BENCHMARK_ITEM, BENCHMARK_QUESTION = "benchmark_image", "benchmark_item", "benchmark_question"
BENCHMARK_STEM = "benchmark_stem"  # the question of a benchmark with other options, or without them, or the other way round
STEM_WORDS = 8  # about another image a shorter stem says nothing: "What is this?", "How many cars are in the image?"
_CHUNK = 1024  # rows whose distances are held at a time


def duplicates(pools: Mapping[str, Sequence[Row]]) -> dict[str, dict[int, str]]:
    """Pool -> row number -> reason, for every row whose images (by pixels, in order) and question were seen before.

    Pools count in their order, so the first pool keeps a row that two share. The reason says whether the gold answer is the same:
    where it is not, one of the two labels is wrong.
    """
    seen: dict[tuple[tuple[str, ...], str], str] = {}
    found: dict[str, dict[int, str]] = {name: {} for name in pools}
    for name, rows in pools.items():
        for number, row in enumerate(rows):
            key = (row.pixels, row.question)
            if key not in seen:
                seen[key] = row.gold
            else:
                found[name][number] = DUPLICATE if seen[key] == row.gold else OTHER_ANSWER
    return found


@dataclass(frozen=True, slots=True)
class Match:
    """Why a row is a benchmark's: the item it meets and the bits in which their images differ (-1: the text alone, about another image)."""

    reason: str
    benchmark: str
    item: str
    distance: int

    @property
    def text_alone(self) -> bool:
        return self.distance < 0


class BenchmarkIndex:
    """Images and questions of the benchmarks."""

    def __init__(self, benchmarks: Mapping[str, Iterable[Row]]) -> None:
        self._owners: list[tuple[str, Row]] = []
        hashes: list[int] = []
        self._questions: dict[str, tuple[str, str]] = {}
        self._stems: dict[str, tuple[str, str]] = {}
        for name, rows in benchmarks.items():
            for row in rows:
                self._questions.setdefault(row.question, (name, row.uid))
                if len(row.stem.split()) >= STEM_WORDS:
                    self._stems.setdefault(row.stem, (name, row.uid))
                for pixels, perceptual in zip(row.pixels, row.perceptual, strict=True):
                    if pixels:
                        self._owners.append((name, row))
                        hashes.append(perceptual)
        self._hashes = np.array(hashes, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._owners)

    def matches(self, rows: Sequence[Row], distance: int) -> dict[int, Match]:
        """Row number -> match, for rows with an image within `distance` bits of a benchmark's, or with a benchmark's question, or with
        a stem of one of at least `STEM_WORDS` words."""
        found = self._by_text(rows)
        flat = [
            (number, value) for number, row in enumerate(rows) for value, pixels in zip(row.perceptual, row.pixels, strict=True) if pixels
        ]
        for start in range(0, len(flat) if len(self) else 0, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            bits = hamming(np.array([value for _, value in chunk], dtype=np.uint64), self._hashes)
            nearest = bits.argmin(axis=1)
            for (number, _), place, row_bits in zip(chunk, nearest, bits, strict=True):
                # Among equally near images the one of the same question says most.
                if row_bits[place] <= distance:
                    near = [self._owners[one] for one in np.flatnonzero(row_bits == row_bits[place])]
                    owner = min(near, key=lambda one: _RANK[_of_image(one[1], rows[number])])
                    found[number] = _nearer(found.get(number), owner, int(row_bits[place]), rows[number])
        return found

    def _by_text(self, rows: Sequence[Row]) -> dict[int, Match]:
        found = {}
        for number, row in enumerate(rows):
            for reason, item in ((BENCHMARK_QUESTION, self._questions.get(row.question)), (BENCHMARK_STEM, self._stems.get(row.stem))):
                if item is not None:
                    found[number] = Match(reason, *item, -1)
                    break
        return found


# What says most of a row whose image is a benchmark's.
_RANK = {BENCHMARK_ITEM: 0, BENCHMARK_STEM: 1, BENCHMARK_IMAGE: 2}


def _of_image(item: Row, row: Row) -> str:
    """The reason for a row with the image of `item`: the whole question, its stem (however short, for the image says the rest), or none."""
    if item.question == row.question:
        return BENCHMARK_ITEM
    return BENCHMARK_STEM if item.stem == row.stem else BENCHMARK_IMAGE


def _nearer(known: Match | None, owner: tuple[str, Row], bits: int, row: Row) -> Match:
    benchmark, item = owner
    match = Match(_of_image(item, row), benchmark, item.uid, bits)
    if known is None or known.text_alone or _RANK[match.reason] < _RANK[known.reason]:
        return match
    return match if _RANK[match.reason] == _RANK[known.reason] and bits < known.distance else known


def hamming(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Differing bits of every pair: (len(one), len(other)), values in [0, 64]."""
    result: npt.NDArray[np.int64] = np.bitwise_count(one[:, None] ^ other[None, :]).astype(np.int64)
    return result
