"""The six reward designs: tag scores and weighted sums worked by hand, what a response must look like, and where the design travels."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.prompts import SYSTEM_PROMPTS
from faithful_rl import response
from faithful_rl.config import DESIGNS as NAMES
from faithful_rl.rewards import columns, rule_scores
from faithful_rl.rewards.designs import COLUMNS, DESIGNS, design_scores, get, tag_contents, tag_score
from faithful_rl.rewards.suite import Reference, assemble

TANH1, TANH2 = math.tanh(1), math.tanh(2)
OPTIONS = ("5", "7", "8", "20")


def scores(name: str, text: str, truth: str = "B", options: tuple[str, ...] = OPTIONS, gold: int = 1) -> dict[str, float | None]:
    design = DESIGNS[name]
    return {key: score.value for key, score in design_scores(design, response.parse(text, design.blocks), truth, options, gold).items()}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>The box is red.</think>", TANH1),
        ("<think>The box is red. The ball is blue.</think>", TANH2),
        ("<think>The box is red. the BOX  is red.</think>", TANH1 - TANH1),
        ("<think>The box is red. The box is red. The box is red.</think>", TANH1 - TANH2),
        ("<think></think>", 0.0),
        ("<think>The box is red.", 0.0),  # never closed
        ("no tag at all", 0.0),
        ("<think>The box is red.</think> and <think>The box is red.</think>", TANH1 - TANH1),  # blocks count together
        ("<think><visual>The box is red.</visual> The ball is blue.</think>", TANH2),  # a span's tags are no text
    ],
)
def test_tag_score_by_hand(text: str, score: float) -> None:
    assert tag_score(tag_contents(DESIGNS["visual_fusion"], text)["think"]) == pytest.approx(score)


FULL = "<description>A box.</description><think>It is red.</think><rethink>Yes, it is red. It is.</rethink><answer>B</answer>"


@pytest.mark.parametrize(
    ("name", "text", "task"),
    [
        ("vanilla", "<think>It is red.</think><answer>B</answer>", 0.1 * TANH1 + 0.9),
        ("vanilla", "<think>It is red.</think><answer>C</answer>", 0.1 * TANH1),
        ("vanilla", "<answer>B</answer>", 0.9),
        ("only_accuracy", "<answer>B</answer>", 1.0),
        ("only_accuracy", "<answer>C</answer>", 0.0),
        ("mixture", FULL, 0.06 * TANH1 + 0.06 * TANH1 + 0.08 * TANH2 + 0.8),
        ("mixture", FULL.replace("<answer>B", "<answer>C"), 0.12 * TANH1 + 0.08 * TANH2),
        ("continuous", FULL.replace("<answer>B", "<answer>C"), 0.12 * TANH1 + 0.08 * TANH2 + 0.8 * 0.5),  # 8 for 7
        ("visual_fusion", "<think><visual>A red box.</visual> So it counts.</think><answer>B</answer>", 0.1 * TANH2 + 0.1 * TANH1 + 0.8),
        ("no_accuracy", FULL, 0.6 * TANH1 + 0.3 * TANH2 + 0.1),
        ("no_accuracy", FULL.replace("<answer>B", "<answer>whatever"), 0.6 * TANH1 + 0.3 * TANH2 + 0.1),
        ("no_accuracy", FULL.replace("</answer>", ""), 0.6 * TANH1 + 0.3 * TANH2),
    ],
)
def test_task_reward_by_hand(name: str, text: str, task: float) -> None:
    assert scores(name, text)["task"] == pytest.approx(task)


@pytest.mark.parametrize(
    ("name", "text", "tags", "task"),
    [
        # visual spans count inside think only
        ("visual_fusion", "<visual>A red box.</visual><think>It counts.</think><answer>B</answer>", {"think": TANH1}, 0.1 * TANH1 + 0.8),
        ("visual_fusion", "<think>It counts.</think><answer>B <visual>A red box.</visual></answer>", {"think": TANH1}, 0.1 * TANH1),
        ("visual_fusion", "<visual>A red box.", {}, 0.0),
        # the other tags inside no other one
        ("vanilla", "<answer>B <think>It is red. It counts.</think></answer>", {}, 0.0),
        (
            "no_accuracy",
            "<think>It is red. <description>A box.</description> <rethink>Yes.</rethink></think><answer>B</answer>",
            {"think": math.tanh(3)},
            0.3 * math.tanh(3) + 0.1,
        ),
        # an answer that holds nothing is none where tags are all that is paid for
        ("no_accuracy", FULL.replace("<answer>B", "<answer> "), {"description": TANH1, "think": TANH1, "rethink": TANH2}, 0.6 * TANH1 + 0.3 * TANH2),
        ("no_accuracy", "<think>It is red. <answer>B</answer></think>", {"think": TANH2}, 0.3 * TANH2),
        # blocks that cross end where the first one is closed; a tag that is never closed opens nothing
        ("mixture", "<think>It is red.<rethink>Is it</think>?</rethink>", {"think": TANH2}, 0.06 * TANH2),
        ("mixture", "<description>A box. <think>It is red.</think>", {"think": TANH1}, 0.06 * TANH1),
    ],
)  # fmt: skip
def test_a_tag_counts_at_its_place_only(name: str, text: str, tags: dict[str, float], task: float) -> None:
    found = scores(name, text)
    assert {tag: found[f"{tag}_tag"] for tag in ("description", "think", "rethink", "visual") if found[f"{tag}_tag"]} == pytest.approx(tags)
    assert found["task"] == pytest.approx(task)


def test_the_parts_of_the_reward_are_columns() -> None:
    found = scores("continuous", FULL.replace("<answer>B", "<answer>C"))
    assert set(found) == {"task", *COLUMNS}
    assert found["description_tag"] == found["think_tag"] == pytest.approx(TANH1)
    assert (found["rethink_tag"], found["visual_tag"], found["answer_credit"]) == (pytest.approx(TANH2), 0.0, 0.5)


@pytest.mark.parametrize("name", list(DESIGNS))
def test_weights_sum_to_1_and_the_prompt_names_every_tag(name: str) -> None:
    design = DESIGNS[name]
    assert sum(design.weights.values()) + design.answer_weight == pytest.approx(1.0)
    for tag in design.tags:
        assert f"<{tag}>" in design.instruction
        assert f"</{tag}>" in design.instruction
    others = {"description", "think", "rethink", "visual"} - set(design.tags)
    assert not [tag for tag in others if f"<{tag}>" in design.instruction]
    assert SYSTEM_PROMPTS[name] == design.instruction
    assert design.instruction == design.instruction.strip()


def test_the_papers_table_of_weights() -> None:
    mixture = {"description": 0.06, "think": 0.06, "rethink": 0.08}
    assert {name: (dict(design.weights), design.answer_weight, design.answer) for name, design in DESIGNS.items()} == {
        "vanilla": ({"think": 0.1}, 0.9, "exact"),
        "only_accuracy": ({}, 1.0, "exact"),
        "mixture": (mixture, 0.8, "exact"),
        "continuous": (mixture, 0.8, "partial"),
        "visual_fusion": ({"think": 0.1, "visual": 0.1}, 0.8, "exact"),
        "no_accuracy": ({"description": 0.3, "think": 0.3, "rethink": 0.3}, 0.1, "present"),
    }


def test_the_configuration_knows_the_same_names() -> None:
    assert ("paper", *DESIGNS) == NAMES
    assert get("paper") is None
    with pytest.raises(KeyError):
        get("plain")


def test_form_and_reasoning_follow_the_designs_blocks() -> None:
    blocks = DESIGNS["mixture"].blocks
    parsed = response.parse(FULL, blocks)
    assert parsed.well_formed
    assert parsed.reasoning == "A box.\nIt is red.\nYes, it is red. It is."
    assert parsed.answer == "B"
    assert not response.parse(FULL).well_formed  # for Faithful GRPO's own blocks it is not
    for broken in (FULL + "!", FULL.replace("<think>", ""), FULL.replace("</rethink>", "</rethink><rethink></rethink>")):
        assert not response.parse(broken, blocks).well_formed
    swapped = "<think>It is red.</think><description>A box.</description><rethink>Yes.</rethink><answer>B</answer>"
    assert not response.parse(swapped, blocks).well_formed
    assert response.parse("<answer>B</answer>", DESIGNS["only_accuracy"].blocks).well_formed


def test_a_block_inside_another_is_not_read_twice_as_reasoning() -> None:
    nested = "<think>It is red. <description>A box.</description></think><answer>B</answer>"
    assert response.parse(nested, DESIGNS["mixture"].blocks).reasoning == "It is red. <description>A box.</description>"


def test_thousands_of_unclosed_tags_stay_linear() -> None:
    blocks = DESIGNS["mixture"].blocks
    assert response.placed("<think>" * 20_000 + "</rethink>" * 20_000, blocks) == dict.fromkeys(blocks, ())
    assert len(response.placed("<think>a</think>" * 20_000, blocks)["think"]) == 20_000


def test_without_any_block_of_a_design_the_think_rule_holds() -> None:
    cut = "<description>A box. <think>It is red."
    assert response.parse(cut, DESIGNS["mixture"].blocks).reasoning == "It is red."


def test_a_design_changes_the_task_reward_and_its_columns_only() -> None:
    reference = Reference("B", OPTIONS, 1)
    design = DESIGNS["vanilla"]
    text = "<think>It is red.</think><answer>C</answer>"
    parsed = response.parse(text, design.blocks)
    plain, designed = (columns(assemble(parsed, reference, rule_scores(parsed, reference, one))) for one in (None, design))
    assert list(plain) == list(designed)  # one set of columns for every run
    changed = {name for name in plain if plain[name] != designed[name]}
    assert changed == {"task", "think_tag"}
    assert all(plain[name] == 0.0 for name in COLUMNS)


@given(st.text(alphabet=st.sampled_from("ab. <>/thinkreviusalswdcpo"), max_size=120))
def test_any_text_has_a_finite_reward_in_range(text: str) -> None:
    for name in DESIGNS:
        task = scores(name, text)["task"]
        assert task is not None
        assert -1.0 < task <= 1.0


@given(st.integers(0, 30), st.integers(0, 30))
def test_repeating_never_pays(different: int, repeated: int) -> None:
    kinds = [f"Shape {number} is red." for number in range(different)]
    more = kinds + kinds[:1] * (repeated if kinds else 0)
    assert tag_score([" ".join(more)]) <= tag_score([" ".join(kinds)]) + 1e-12
