"""The settings file that README shows is one that `serve` takes."""

from pathlib import Path

from faithful_rl.judge_pool.settings import load
from faithful_rl.judges.backend import build_backend

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "judges.yaml"


def test_the_example_is_valid_in_every_key() -> None:
    settings = load(EXAMPLE)
    assert {judge: one.backend for judge, one in settings.judges.items()} == {"consistency": "openai", "grounding": "vllm"}
    for judge in settings.judges:
        build_backend(settings.backend_settings(judge))  # refuses keys that it does not know
