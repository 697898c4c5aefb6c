"""The consistency model that ships: it is the one that its manifest describes, and it knows consistent from inconsistent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from faithful_rl.crm import training
from faithful_rl.crm.files import MANIFEST, check, weights
from faithful_rl.crm.model import load
from faithful_rl.crm.pairs import Pair, asked
from faithful_rl.crm.scene_pairs import scene_pairs

SHIPPED = Path(__file__).resolve().parents[3] / "models" / "crm_tiny"


def test_its_weights_are_those_of_its_manifest() -> None:
    manifest = json.loads((SHIPPED / MANIFEST).read_text())
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights(SHIPPED)}
    assert found == manifest["weights_sha256"]
    assert manifest["metrics"]["kappa"][0] >= 0.9
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 10e6


def test_it_agrees_with_the_exact_judge_on_pairs_that_nothing_was_fitted_on() -> None:
    files = check(str(SHIPPED), "model")
    encoder = load(files, device="cpu")
    quality = training.evaluate(encoder, list(scene_pairs(400, 8111, "test")), 256, files.temperature, files.threshold)
    assert quality["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("thinking", "answer", "consistent"),
    [
        ("The red circle is left of the blue square. So the answer is left.", "A) left", True),
        ("The blue square is right of the red circle. So the answer is left.", "A) left", True),
        ("The red circle is left of the blue square. So the answer is left.", "B) right", False),
        ("The blue square is left of the red circle. So the answer is left.", "A) left", False),
        ("The red circle is left of the blue square.", "A) left", False),  # nothing is concluded
    ],
)
def test_plain_cases_whichever_way_round_the_claim_is(thinking: str, answer: str, consistent: bool) -> None:
    files = check(str(SHIPPED), "model")
    question = asked("Is the red circle left or right of the blue square?", ["left", "right"])
    pair = Pair("q", question, thinking, answer, float(consistent))
    value = load(files, device="cpu").probabilities([(pair.question, pair.thinking, pair.answer)], files.temperature, 256).values[0]
    assert bool(value >= files.threshold) == consistent
