"""What a benchmark's files must hold, as data: numbers of rows, rows of each task type, and what is known of the files' hashes.

Figures are those of the benchmarks' own cards and papers, and of counts over their files; a benchmark whose rows differ is another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pinned:
    """Rows of one benchmark.

    Attributes:
        rows: source rows.
        records: questions made of them; differs from `rows` for circular evaluation only.
        by_type: records of each task type; empty where the figures are not known.
        sha256: file name -> (first digits, last digits) of its SHA-256; public sources often print no more than those.
        revision: of the hub repository in which the figures were seen, "" where it is not known.
    """

    rows: int
    records: int = 0
    by_type: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    revision: str = ""

    @property
    def questions(self) -> int:
        return self.records or self.rows


def differences(pinned: Pinned, rows: int, by_type: Mapping[str, int], files: Iterable[Path]) -> list[str]:
    """What differs from the pinned figures, one sentence each; [] where all is as it must be.

    Args:
        rows: source rows found, rejected ones too.
        by_type: records of each task type; {} where some rows were rejected, which are then compared by number only.
        files: the data files, for those whose hash is pinned.
    """
    found = []
    if rows != pinned.rows:
        found.append(f"{rows} rows instead of {pinned.rows}")
    if by_type and pinned.by_type and dict(by_type) != dict(pinned.by_type):
        counts = {name: (by_type.get(name, 0), pinned.by_type.get(name, 0)) for name in sorted({*by_type, *pinned.by_type})}
        found += [f"{here} of type {name} instead of {there}" for name, (here, there) in counts.items() if here != there]
    for path in files:
        if path.name in pinned.sha256:
            first, last = pinned.sha256[path.name]
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if not (digest.startswith(first) and digest.endswith(last)):
                found.append(f"{path.name} has the SHA-256 {digest[:8]}...{digest[-6:]} instead of {first}...{last}")
    return found
