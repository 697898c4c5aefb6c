"""Hand-worked verdicts of the exact judge on one scene.

+----------------------------+   red circle      cell (0, 0), 24 px: [2, 2, 26, 26]
| red o   .     .    blue []  |  blue square     cell (0, 3), 16 px: [90, 6, 106, 22]
|  .      .     .     .       |
|  .    green ^ .     .       |  green triangle  cell (2, 1), 24 px: [30, 58, 54, 82]
|  .      .     .    red []   |  red square      cell (3, 3), 16 px: [90, 90, 106, 106]
+----------------------------+
"""

from __future__ import annotations

import json

import pytest

from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.judges.scene_world import SceneImage, SceneObject, write_scene
from faithful_rl.types import Box, Reason, Verdict

CORRECT, INCORRECT, SKIP = Verdict.CORRECT, Verdict.INCORRECT, Verdict.SKIP

RED_CIRCLE = SceneObject("red", "circle", Box(2, 2, 26, 26))
BLUE_SQUARE = SceneObject("blue", "square", Box(90, 6, 106, 22))
GREEN_TRIANGLE = SceneObject("green", "triangle", Box(30, 58, 54, 82))
RED_SQUARE = SceneObject("red", "square", Box(90, 90, 106, 106))
IMAGE = SceneImage(112, 112, (RED_CIRCLE, BLUE_SQUARE, GREEN_TRIANGLE, RED_SQUARE))
SCENE = write_scene([IMAGE])


QUESTION = "Is the red circle left or right of the blue square?"


def ask(reasoning: str, answer: str = "A", question: str = QUESTION, **changes: object) -> JudgeRequest:
    values: dict[str, object] = {
        "uid": "u",
        "question": question,
        "options": ("left", "right"),
        "reasoning": reasoning,
        "answer": answer,
        "scene_json": SCENE,
        **changes,
    }
    return JudgeRequest(**values)  # type: ignore[arg-type]


def verdicts(reasoning: str, scene: str = SCENE) -> list[Verdict]:
    return [verdict.verdict for verdict in SceneJudge().grounding(ask(reasoning, scene_json=scene))]


@pytest.mark.parametrize(
    ("sentence", "verdict"),
    [
        ("The red circle is in the upper left <bbox>[2,2,26,26]</bbox>.", CORRECT),
        ("The red circle is in the upper left.", CORRECT),
        ("The red circle is at <bbox>[2,2,26,26]</bbox>.", CORRECT),
        ("The red circle is in the upper right <bbox>[2,2,26,26]</bbox>.", INCORRECT),  # place false, box true
        ("The red circle is in the upper left <bbox>[30,2,54,26]</bbox>.", INCORRECT),  # place true, box elsewhere
        ("The red circle is in the upper left <bbox>[6,6,22,22]</bbox>.", INCORRECT),  # IoU 256/576 = 0.44
        ("The red circle is in the upper left <bbox>[4,2,28,26]</bbox>.", CORRECT),  # IoU 22/26 = 0.85
        ("The red circle is in the upper left <bbox>[2,2,26]</bbox>.", INCORRECT),  # three numbers bound nothing
        ("The red circle is in the upper left <bbox>[2,2,26,nan]</bbox>.", INCORRECT),
        ("The yellow circle is in the upper left.", INCORRECT),  # no such shape
        ("The red circle is left of the blue square.", CORRECT),
        ("The red circle is right of the blue square.", INCORRECT),
        ("The red circle is above the blue square.", INCORRECT),  # centres level: 14 and 14
        ("The blue square is above the red square.", CORRECT),
        ("The blue square is below the red square.", INCORRECT),
        ("The red circle is to the upper left of the red square.", CORRECT),
        ("The red circle is to the upper left of the blue square.", INCORRECT),  # left, but not above
        ("The red circle is left of the red circle.", INCORRECT),
        ("There are 2 red shapes.", CORRECT),
        ("There are 3 red shapes.", INCORRECT),
        ("There is 1 green shape.", CORRECT),
        ("There are 0 yellow shapes.", CORRECT),
        ("The blue square is nearest to the red square.", INCORRECT),  # distances squared: 84^2 = 7056 against 56^2 + 28^2 = 3920
        ("The green triangle is nearest to the red square.", CORRECT),
        ("The green triangle is between the red circle and the red square.", INCORRECT),  # not in one line
        ("The red circle is the odd one out.", INCORRECT),
        ("The red circle moved.", INCORRECT),  # one image
        ("In the second image, the red circle is in the upper left.", INCORRECT),  # there is none
        ("The red circle is probably in the upper left.", SKIP),
        ("The red circle looks left of the blue square, I think.", SKIP),
        ("The red red circle is in the upper left.", SKIP),
        ("There are two red shapes.", SKIP),  # not a form the judge knows
    ],
)
def test_one_sentence(sentence: str, verdict: Verdict) -> None:
    assert verdicts(sentence) == [verdict]


def test_between_nearest_and_odd_one_out_when_true() -> None:
    row = SceneImage(
        112,
        112,
        (
            SceneObject("red", "circle", Box(2, 2, 26, 26)),
            SceneObject("blue", "circle", Box(30, 2, 54, 26)),
            SceneObject("green", "square", Box(86, 2, 110, 26)),
        ),
    )
    scene = write_scene([row])
    assert verdicts("The blue circle is between the red circle and the green square.", scene) == [CORRECT]
    assert verdicts("The red circle is between the blue circle and the green square.", scene) == [INCORRECT]
    assert verdicts("The blue circle is nearest to the green square.", scene) == [CORRECT]
    assert verdicts("The green square is the odd one out.", scene) == [CORRECT]
    assert verdicts("The red circle is the odd one out.", scene) == [INCORRECT]


def test_two_images() -> None:
    moved = SceneImage(112, 112, (SceneObject("red", "circle", Box(86, 86, 110, 110)), BLUE_SQUARE, GREEN_TRIANGLE, RED_SQUARE))
    scene = write_scene([IMAGE, moved])
    assert verdicts("The red circle moved.", scene) == [CORRECT]
    assert verdicts("The blue square moved.", scene) == [INCORRECT]
    assert verdicts("In the first image, the red circle is in the upper left.", scene) == [CORRECT]
    assert verdicts("In the second image, the red circle is in the upper left.", scene) == [INCORRECT]
    assert verdicts("The red circle is in the upper left.", scene) == [SKIP]  # true of one image, and none is named
    assert verdicts("The blue square is in the upper right.", scene) == [CORRECT]  # true of both
    assert verdicts("The blue square is in the lower right.", scene) == [INCORRECT]  # false of both


def test_padding_earns_nothing() -> None:
    place = "The red circle is in the upper left <bbox>[2,2,26,26]</bbox>."
    assert verdicts(f"{place} {place} {place}") == [CORRECT, SKIP, SKIP]
    assert verdicts(f"{place} The red circle is in the upper left.") == [CORRECT, SKIP]
    assert verdicts(f"The red circle is in the upper left. {place}") == [CORRECT, CORRECT]  # the box is new
    # The converse says the same; a diagonal adds the other axis; then each of its halves is known.
    left, diagonal = "The red circle is left of the red square.", "The red circle is to the upper left of the red square."
    assert verdicts(f"{left} The red square is right of the red circle.") == [CORRECT, SKIP]
    assert verdicts(f"{left} {diagonal}") == [CORRECT, CORRECT]
    assert verdicts(f"{diagonal} The red square is below the red circle. {left}") == [CORRECT, SKIP, SKIP]


def test_repeating_a_false_claim_stays_false() -> None:
    assert verdicts("There are 3 red shapes. There are 3 red shapes.") == [INCORRECT, INCORRECT]


def test_conclusion_is_not_a_sentence_about_the_image() -> None:
    reasoning = "The red circle is left of the blue square. So the answer is left."
    judged = SceneJudge().grounding(ask(reasoning))
    assert [(verdict.text, verdict.start, verdict.end) for verdict in judged] == [("The red circle is left of the blue square.", 0, 42)]


@pytest.mark.parametrize(
    ("reasoning", "answer", "value"),
    [
        ("The red circle is left of the blue square. So the answer is left.", "A", 1.0),
        ("So the answer is left.", "A", 1.0),
        ("So the answer is left.", "left", 1.0),
        ("So the answer is A.", "A", 1.0),
        ("So the answer is (A).", "(A)", 1.0),
        ("Therefore, the answer is A) left.", "a", 1.0),
        ("The red circle is right of the blue square. So the answer is right.", "B", 1.0),  # wrong, but consistent
        ("So the answer is left.", "B", 0.0),
        ("The red circle is left of the blue square.", "A", 0.0),  # no conclusion
        ("", "A", 0.0),
        ("So the answer is unclear.", "A", 0.0),
        ("So the answer is left or right.", "A", 0.0),
        ("So the answer is C.", "C", 0.0),  # there is no third option
        ("So the answer is left. So the answer is right.", "A", 0.0),
        ("So the answer is left. So the answer is left.", "A", 1.0),
        ("So the answer is left.", "", 0.0),
        ("So the answer is left.", "A or B", 0.0),
        ("The red circle is right of the blue square. So the answer is left.", "A", 0.0),  # contradicts itself
        ("The blue square is right of the red circle. So the answer is left.", "A", 1.0),  # the converse agrees
        ("The blue square is left of the red circle. So the answer is left.", "A", 0.0),
        ("The red circle is to the lower left of the blue square. So the answer is left.", "A", 1.0),
        ("The red circle is right of the green triangle. So the answer is left.", "A", 1.0),  # about another thing
    ],
)
def test_consistency(reasoning: str, answer: str, value: float) -> None:
    assert SceneJudge().consistency(ask(reasoning, answer)).value == value


@pytest.mark.parametrize(
    ("question", "options", "claim", "conclusion", "value"),
    [
        ("How many red shapes are there?", ("1", "2", "3"), "There are 2 red shapes.", "2", 1.0),
        ("How many red shapes are there?", ("1", "2", "3"), "There are 3 red shapes.", "2", 0.0),
        ("How many red shapes are there?", ("1", "2", "3"), "There are 3 blue shapes.", "2", 1.0),
        (
            "Which shape is nearest to the red circle?",
            ("red square", "blue square"),
            "The red square is nearest to the red circle.",
            "blue square",
            0.0,
        ),
        (
            "Which shape is nearest to the red circle?",
            ("red square", "blue square"),
            "The blue square is nearest to the red circle.",
            "blue square",
            1.0,
        ),
        ("Which shape is the odd one out?", ("red square", "blue square"), "The red square is the odd one out.", "blue square", 0.0),
        (
            "Which shape moved from the first to the second image?",
            ("red square", "blue square"),
            "The red square moved.",
            "red square",
            1.0,
        ),
        (
            "What is this?",
            ("red square", "blue square"),
            "The red square moved.",
            "blue square",
            1.0,
        ),  # unknown question: only the conclusion counts
    ],
)
def test_consistency_in_other_families(question: str, options: tuple[str, ...], claim: str, conclusion: str, value: float) -> None:
    request = ask(f"{claim} So the answer is {conclusion}.", conclusion, question, options=options)
    assert SceneJudge().consistency(request).value == value


def test_consistency_never_looks_at_the_scene() -> None:
    assert SceneJudge().consistency(ask("So the answer is left.", scene_json="not json")).value == 1.0


def test_without_options_there_is_nothing_to_compare() -> None:
    score = SceneJudge().consistency(ask("So the answer is left.", options=()))
    assert (score.value, score.reason) == (None, Reason.JUDGE_ERROR)


@pytest.mark.parametrize(
    "scene",
    [
        "",
        "not json",
        "[]",
        json.dumps({"version": 2, "images": []}),
        json.dumps({"version": 1, "images": []}),
        json.dumps({"version": 1, "images": [{"width": 112, "height": 112}]}),
        json.dumps({"version": 1, "images": [{"width": 112, "height": 0, "objects": []}]}),
        SCENE.replace("circle", "star"),
        SCENE.replace("[2,2,26,26]", "[26,2,2,26]"),
        SCENE.replace("[2,2,26,26]", "[2,2,26]"),
        SCENE.replace('"colour":"blue"', '"colour":"red"'),  # two red squares
    ],
)
def test_an_unreadable_scene_is_unscored_and_says_why(scene: str) -> None:
    assert scene != SCENE
    (judged,) = SceneJudge().grounding(ask("The red circle is in the upper left.", scene_json=scene))
    assert judged.verdict is Verdict.UNSCORED
    assert "scene_json" in judged.why
