"""Labelled reasonings about scenes: reproducible, balanced, by the exact judge, on scenes that no other split holds."""

from collections import Counter
from itertools import islice
from random import Random

import pytest

from data_prep.scenes.questions import FAMILIES, draw_sample
from faithful_rl.crm.pairs import content_hash
from faithful_rl.crm.scene_pairs import Mix, draw_pair, scene_pairs, supporting
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.judges.scene_language import contradicts, write_claim, write_conclusion, write_question


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    first = content_hash(scene_pairs(200, 0, "train"))
    assert first == content_hash(scene_pairs(200, 0, "train"))
    assert len({first, content_hash(scene_pairs(200, 1, "train")), content_hash(scene_pairs(200, 0, "test"))}) == 3
    assert list(islice(scene_pairs(200, 0, "train"), 50)) == list(scene_pairs(50, 0, "train"))


def test_classes_alternate_and_every_family_occurs() -> None:
    made = list(scene_pairs(600, 3, "test"))
    assert [pair.consistent for pair in made[:4]] == [0.0, 1.0, 0.0, 1.0]
    origins = Counter(pair.origin for pair in made)
    assert set(origins) == {f"scenes/{family}" for family in FAMILIES}


def test_no_question_is_in_two_splits() -> None:
    uids = {split: {pair.uid for pair in scene_pairs(500, 0, split)} for split in ("train", "val", "test")}
    assert not uids["train"] & uids["test"]
    assert not uids["train"] & uids["val"]


def test_wordings_of_many_kinds_occur_on_both_sides() -> None:
    made = list(scene_pairs(2000, 0, "train"))
    for consistent in (0.0, 1.0):
        texts = [pair.thinking for pair in made if pair.consistent == consistent]
        for words in ("So the answer is", "Therefore, the answer is", "Let me look at the image.", "the answer is ("):
            assert any(words in text for text in texts), (consistent, words)
    assert any(pair.thinking == "" for pair in made if not pair.consistent)  # a lost <think>


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_supporting_claim_rules_out_every_other_option_and_not_its_own(family: str, backwards: bool) -> None:
    rng = Random(family)
    for _ in range(20):
        sample = draw_sample(rng, family)
        for option in sample.options:
            claim = supporting(sample, option, rng, backwards)
            assert not contradicts(claim, sample.question, option)
            assert all(contradicts(claim, sample.question, other) for other in sample.options if other != option)


def test_the_judges_label_is_the_rule_itself() -> None:
    """One reasoning worked by hand: the fact says right, the conclusion left."""
    rng = Random(5)
    sample = draw_sample(rng, "left_right")
    says_right = write_claim(supporting(sample, "right", rng))
    reasoning = f"{says_right} {write_conclusion('left')}"
    asked = JudgeRequest("u", write_question(sample.question), sample.options, reasoning, "A")
    assert SceneJudge().consistency(asked).value == 0.0


def test_any_mix_can_be_drawn_from() -> None:
    rng = Random(1)
    for _ in range(50):
        pair = draw_pair(rng, Mix.draw(rng), "train")
        assert pair.consistent in (0.0, 1.0)
