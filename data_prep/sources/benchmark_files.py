"""What the benchmarks' sources share beyond `reading` and `fields`: where files lie, rows over several files, images, gold letters,
the record of a test question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.record import Image, Record, Reject, Unusable
from data_prep.sources import Request
from data_prep.sources.fields import letter_answer, row_image
from data_prep.sources.reading import numbered
from faithful_rl.config import ConfigError


def find(location: Path, patterns: Sequence[str], source: str) -> list[Path]:
    """Files of a benchmark: `location` itself where it is a file, else what the first pattern that matches finds below it, by name.
    Only the first, because a download may hold the same rows in two layouts.

    Raises:
        ConfigError: nothing is there.
    """
    if location.is_file():
        return [location]
    for pattern in patterns:
        found = sorted(path for path in location.glob(pattern) if path.is_file())
        if found:
            return found
    archives = sorted(path.name for path in location.glob("*.zip")) if location.is_dir() else []
    if archives:
        state, fix = f"with {', '.join(archives)}, not unpacked", f"Unpack it (unzip {location / archives[0]} -d DIR) and give DIR."
    else:
        state = "without them" if location.is_dir() else "which does not exist"
        fix = "Download the benchmark, or correct the path."
    raise ConfigError(f"{source} files", f"{location}, {state}", f"{' or '.join(patterns)} below it", fix)


def rows_of(files: Sequence[Path], name: str, read: Callable[[Path, str], Iterator[Any]]) -> Iterator[tuple[int, Any]]:
    """(row index over all files, row or `Reject`)."""
    yield from numbered(row for path in files for row in read(path, name))


def row_images(sources: Sequence[Any], request: Request) -> tuple[tuple[Image, ...], tuple[str, ...]]:
    """All images of one row, and the notes on them. Raises Unusable."""
    loaded = [row_image(source, request, request.root) for source in sources]
    return tuple(image for image, _ in loaded), tuple(note for _, notes in loaded for note in notes)


def gold_letter(answer: Any, options: Sequence[str]) -> int:
    """Position of a gold answer written as a letter: `C`, `(C)`, `(c)` or `C.`. Raises Unusable for anything else."""
    text = str(answer).strip()
    if not text:
        raise Unusable("empty_answer", "the gold answer is empty")
    index = letter_answer(text, options)
    if index is None:
        raise Unusable("answer_not_in_options", f"{text!r} is no letter of {len(options)} options")
    return index


def lost_file(name: str, path: Path, error: Exception) -> Reject:
    """The `Reject` of a file whose rows nobody can count."""
    return Reject(f"{name}-{path.name}", {"file": path.name}, "corrupt_file", f"{path.name}: {error}", rows=0)


def question_record(
    uid: str,
    dataset: str,
    question: str,
    options: Sequence[str],
    gold: int,
    pictures: tuple[tuple[Image, ...], tuple[str, ...]],
    task_type: str,
    metadata: Mapping[str, Any],
    answer: str = "",
) -> Record:
    """A question of a test split.

    Args:
        gold: position of the right option; -1 for an open question, whose gold text is `answer`.
        pictures: images and the notes on them, as `row_images` gives them.

    Raises:
        Unusable: as `Record`.
    """
    images, notes = pictures
    return Record(
        uid=uid,
        dataset=dataset,
        split="test",
        question=question.strip(),
        options=tuple(options),
        gold_index=gold,
        gold_text=options[gold] if options else answer,
        images=images,
        task_type=task_type,
        metadata=metadata,
        notes=notes,
    )
