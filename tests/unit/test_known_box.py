"""Before an evaluation serves a model: a known box through the processor, in a program of its own."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import known_box
from faithful_rl.evaluation.settings import EvaluationSettings

MODEL = Path(__file__).parents[2] / "models" / "tiny_warm_start"


def settings(**given: Any) -> EvaluationSettings:
    return EvaluationSettings(**{"model": str(MODEL), "benchmarks": ["mmvp"], "out": "out", **given})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Requests that would go to the program."""
    found: list[dict[str, Any]] = []

    async def ask(request: dict[str, Any], program: str, seconds: float) -> dict[str, Any]:
        found.append(request)
        return {}

    monkeypatch.setattr(known_box, "_ask", ask)
    return found


def test_only_what_is_served_here_is_asked_about(asked: list[dict[str, Any]]) -> None:
    for given in (
        {"base_url": ["http://127.0.0.1:1/v1"]},
        {"predictions": {"mmvp": "file.json"}},
        {"mode": "text_instead_of_image"},
        {"model": "Qwen/Qwen2.5-VL-7B-Instruct"},  # at the hub: it is not here yet
    ):
        asyncio.run(known_box.check(settings(**given)))
    assert asked == []
    asyncio.run(known_box.check(settings()))
    asyncio.run(known_box.check(settings(min_pixels=None, max_pixels=None)))
    assert [(one["limits"], one["options"]) for one in asked] == [
        ((3136, 1_003_520), {"min_pixels": 3136, "max_pixels": 1_003_520}),
        ((12_544, 12_544), {}),  # of the model's own processor
    ]


def test_the_real_processor_agrees_with_limits_that_it_is_given_and_with_its_own() -> None:
    pytest.importorskip("transformers")
    from faithful_rl.preflight.known_box import main

    options = {"min_pixels": 3136, "max_pixels": 1_003_520}
    assert main({"model": str(MODEL), "limits": [3136, 1_003_520], "options": options}) == {}
    assert main({"model": str(MODEL), "limits": [12_544, 12_544], "options": {}}) == {}
    (problem,) = main({"model": str(MODEL), "limits": [3136, 200_704], "options": {}}).values()
    assert problem == ["112 x 84 pixels after the processor for an image of 500 x 336", "504 x 336 as chain processor predicts"]


def test_the_program_answers_and_a_difference_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(known_box.servers, "pixel_limits", lambda settings: (3136, 200_704))
    with pytest.raises(ConfigError, match=r"500 x 336, expected 504 x 336 .* preprocessor_config"):
        asyncio.run(known_box.check(settings(model=str(folder), min_pixels=None, max_pixels=None)))


def test_a_program_that_cannot_answer_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(known_box.check(settings(), program="faithful_rl.no_such_program"))
    assert "does not load here" in caplog.text
    before = time.monotonic()
    asyncio.run(known_box.check(settings(), program="asyncio", seconds=0.01))  # a prompt, which waits
    assert "no answer within 0.01 s" in caplog.text
    assert time.monotonic() - before < 60


def test_a_model_of_another_family_is_not_judged(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from faithful_rl.preflight.known_box import main

    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for path in folder.glob("*processor_config.json"):
        changed = json.loads(path.read_text())
        changed["image_processor"]["patch_size"] = 16
        path.write_text(json.dumps(changed))
    assert "does not resize images as Qwen2.5-VL does" in main({"model": str(folder), "limits": [3136, 12_544], "options": {}})["skipped"]
