"""A small labelled set whose every number can be worked by hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.judges.calibration.attacks import load_attacks

PLACE = "The red circle is in the upper left."
SIDE = "The red circle is left of the blue square."


def row(identity: str = "one", **changes: Any) -> dict[str, Any]:
    """A JSONL row that can be read: two sentences to judge, a conclusion, a label of each sort."""
    return {
        "id": identity,
        "kind": "clean",
        "question": "Is the red circle left or right of the blue square?",
        "options": ["left", "right"],
        "reasoning": f"{PLACE} {SIDE} So the answer is left.",
        "answer": "A",
        "consistency": "YES",
        "grounding": [{"sentence": PLACE, "verdict": "CORRECT"}, {"sentence": SIDE, "verdict": "CORRECT", "kind": "side"}],
        **changes,
    }


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    return row


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a JSONL file; returns it."""

    def write(*rows: Any, name: str = "cases.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def png() -> bytes:
    return load_attacks()[0].request().images[0]


@pytest.fixture(scope="session")
def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
