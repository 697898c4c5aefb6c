"""The files that README shows are such as `serve` and `score` take, and the rollouts to try are judged as their names say."""

import asyncio
import re
from pathlib import Path

import pytest

from faithful_rl.config import FaithfulRLConfig
from faithful_rl.judge_pool.settings import load
from faithful_rl.judges.backend import BACKENDS, build_backend
from faithful_rl.judges.calibration.attacks import BENIGN, load_attacks
from faithful_rl.judges.calibration.cases import read_cases
from faithful_rl.judges.calibration.records import DEFAULT_DIRECTORY
from faithful_rl.judges.language_judge import LanguageSettings
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Score, SentenceVerdict

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize(("name", "backends"), [("judges", ("openai", "vllm")), ("judges_scenes", ("scene", "scene"))])
def test_the_examples_are_valid_in_every_key(name: str, backends: tuple[str, str]) -> None:
    settings = load(EXAMPLES / f"{name}.yaml")
    assert {judge: one.backend for judge, one in settings.judges.items()} == dict(zip(("consistency", "grounding"), backends, strict=True))
    for judge in settings.judges:
        build_backend(settings.backend_settings(judge))  # refuses keys that it does not know


def test_the_page_about_judges_says_what_is_so() -> None:
    page = (EXAMPLES.parent / "judges.md").read_text()
    root = EXAMPLES.parents[1]
    for name in re.findall(r"docs/examples/[\w.]+", page):
        assert (root / name).is_file(), name
    for name in re.findall(r"faithful_rl/[\w/]+\.py|judge_pool/[\w/]+\.py", page):
        assert (root / name).is_file() or (root / "faithful_rl" / name).is_file(), name
    for name in re.findall(r"\]\(([\w./]+)\)", page):
        assert (EXAMPLES.parent / name).resolve().is_file(), name
    attacks = sum(attack.family != BENIGN for attack in load_attacks())
    plain = LanguageSettings()
    for told in (
        f"{len(read_cases('shipped'))} labelled cases",
        f"puts {attacks} texts",
        f"({plain.max_reasoning_characters:,}) or `max_sentences` ({plain.max_sentences})",
        f"`faithful_rl.coverage_floor` ({FaithfulRLConfig().coverage_floor})",
        f"`{DEFAULT_DIRECTORY}/`",
    ):
        assert told in page, told
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {"backend", *BACKENDS} - {"fake"}


def test_rollouts_to_try_have_the_verdicts_that_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from faithful_rl.judge_pool import scoring

    settings = load(EXAMPLES / "judges_scenes.yaml")

    class Client:
        versions: frozenset[str] = frozenset()

        def __init__(self, name: str, judge: str, *_: object) -> None:
            backend = build_backend(settings.backend_settings(judge))
            self._ask = backend.consistency if judge == "consistency" else backend.grounding

        async def ask(self, request: JudgeRequest) -> Score | list[SentenceVerdict]:
            return await self._ask(request, 1.0)

        def counts(self) -> dict[str, int]:
            return {}

    monkeypatch.setattr(scoring, "PoolClient", Client)
    scored = asyncio.run(scoring.score_rows(scoring.read_rows(EXAMPLES / "rollouts.jsonl"), settings.name))
    found = {
        uid: tuple(one.scores[signal].value for signal in ("accuracy", "consistency", "semantic_grounding"))
        for uid, one in zip(scored.uids, scored.rollouts, strict=True)
    }
    assert found == {
        "faithful": (1.0, 1.0, 1.0),
        "right_for_a_false_reason": (1.0, 1.0, 0.0),
        "inconsistent": (1.0, 0.0, pytest.approx(2 / 3)),
        "wrong": (0.0, None, None),  # masked: nobody is asked
    }
