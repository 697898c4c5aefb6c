"""The language judge on a scripted chat: hand-worked verdicts, what is never asked, what is unscored, sharing and caching."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.cache import VerdictCache
from faithful_rl.judges.language_judge import LanguageJudge, build_language_judge
from faithful_rl.judges.prompts import Prompts
from faithful_rl.rewards.sentences import semantic_grounding_score
from faithful_rl.types import Reason, Score, Verdict

CORRECT, INCORRECT, SKIP = Verdict.CORRECT, Verdict.INCORRECT, Verdict.SKIP
PROMPTS = Prompts.load()
REASONING = (
    "Let me look at the image. The red circle is on the left <bbox>[1, 2, 3, 4]</bbox>. The blue square is above it. "
    "I see the red circle again. The square is blue. 1 + 1 = 2. So the answer is A."
)
WORDS = {"left": "CORRECT", "above": "INCORRECT", "again": "SKIP", "is blue": "CORRECT"}  # R_S = 2 / 3


def judge(chat: Any, cache: VerdictCache | None = None, **changes: Any) -> LanguageJudge:
    return LanguageJudge(chat, PROMPTS, cache or VerdictCache(1000), **changes)


def sentence_words(text: str) -> str:
    """The verdict on the next sentence of a per-sentence prompt."""
    (latest,) = re.findall(r"<next_sentence>\n\| \d+: (.*)\n</next_sentence>", text)
    return next(word for part, word in WORDS.items() if part in latest)


def rollout_words(text: str) -> str:
    numbered = re.findall(r"^\| (\d+): (.*)$", text.split("<sentences>")[1], flags=re.MULTILINE)
    return json.dumps({number: next(word for part, word in WORDS.items() if part in sentence) for number, sentence in numbered})


@pytest.mark.parametrize(("mode", "script", "calls"), [("per_sentence", sentence_words, 4), ("per_rollout", rollout_words, 1)])
def test_both_modes_give_the_verdicts_worked_by_hand(ask: Any, scripted: Any, mode: str, script: Any, calls: int) -> None:
    chat = scripted(script)
    verdicts = asyncio.run(judge(chat, mode=mode).grounding(ask(reasoning=REASONING), 60.0))

    assert isinstance(verdicts, list)
    assert [one.verdict for one in verdicts] == [CORRECT, INCORRECT, SKIP, CORRECT]
    assert [one.text for one in verdicts] == [REASONING[one.start : one.end] for one in verdicts]
    assert verdicts[1].text == "The blue square is above it."
    assert semantic_grounding_score(verdicts) == Score(2 / 3)
    assert len(chat.calls) == calls


def test_wishes_bind_the_answer(ask: Any, scripted: Any) -> None:
    chat = scripted(lambda text: "CORRECT")
    asyncio.run(judge(chat).grounding(ask(), 60.0))
    chat_rollout = scripted(lambda text: '{"1": "SKIP"}')
    asyncio.run(judge(chat_rollout, mode="per_rollout").grounding(ask(), 60.0))
    chat_consistency = scripted(lambda text: "YES")
    asyncio.run(judge(chat_consistency).consistency(ask(), 60.0))

    assert (chat.calls[0]["choices"], chat.calls[0]["json_schema"]) == (("CORRECT", "INCORRECT", "SKIP"), None)
    assert chat_rollout.calls[0]["choices"] is None
    assert chat_rollout.calls[0]["json_schema"]["required"] == ["1"]
    assert chat_consistency.calls[0]["choices"] == ("YES", "NO")
    assert 0 < chat.calls[0]["deadline"] <= 60.0


@pytest.mark.parametrize(("word", "score"), [("YES", Score(1.0)), ("NO", Score(0.0)), (" NO\n", Score(0.0))])
def test_consistency(ask: Any, scripted: Any, word: str, score: Score) -> None:
    assert asyncio.run(judge(scripted(lambda text: word)).consistency(ask(), 60.0)) == score


@pytest.mark.parametrize(
    "changes", [{"reasoning": ""}, {"reasoning": " \n\t"}, {"reasoning": "\u200b\x00"}, {"answer": ""}, {"answer": " "}]
)
def test_nothing_entails_nothing(ask: Any, scripted: Any, changes: dict[str, str]) -> None:
    chat = scripted(lambda text: "YES")
    assert asyncio.run(judge(chat).consistency(ask(**changes), 60.0)) == Score(0.0)
    assert chat.calls == []


@pytest.mark.parametrize("reasoning", ["", "  ", "So the answer is A.", "Let me think. 2 + 2 = 4.", "\u200b"])
def test_nothing_left_to_judge_is_an_empty_list(ask: Any, scripted: Any, reasoning: str) -> None:
    chat = scripted(lambda text: "CORRECT")
    verdicts = asyncio.run(judge(chat).grounding(ask(reasoning=reasoning, images=()), 60.0))
    assert verdicts == []
    assert semantic_grounding_score(verdicts) == Score(None, Reason.NOTHING_TO_JUDGE)
    assert chat.calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": (b"not an image",)}, "image 1 of 1: 12 bytes that are no readable image (UnidentifiedImageError: "),
        ({"images": (b"",)}, "image 1 of 1: 0 bytes that are no readable image"),
        ({"images": ()}, "no image in the request: grounding is judged on images"),
        ({"reasoning": "The red circle is left. " * 5000}, "a reasoning of 119999 characters, more than max_reasoning_characters 32000"),
        ({"reasoning": "x" * 1_000_000}, "a reasoning of 1000000 characters, more than max_reasoning_characters 32000"),
        ({"reasoning": "A red box. " * 300}, "300 sentences to judge, more than max_sentences 256"),
    ],
)
def test_what_cannot_be_judged_is_unscored_and_said_so(
    ask: Any, scripted: Any, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], message: str
) -> None:
    chat = scripted(lambda text: "CORRECT")
    assert asyncio.run(judge(chat).grounding(ask(dataset="d", **changes), 60.0)) == Score(None, Reason.JUDGE_ERROR)

    assert chat.calls == []
    (record,) = caplog.records
    line = json.loads(record.getMessage())
    assert (line["event"], line["uid"], line["dataset"]) == ("not_judgeable", "u1", "d")
    assert line["message"].startswith(message)


def test_a_cut_off_image_among_good_ones_is_named(ask: Any, scripted: Any, picture: Any, caplog: pytest.LogCaptureFixture) -> None:
    images = (picture(), picture(size=(200, 200), form="JPEG")[:600])
    assert asyncio.run(judge(scripted(lambda text: "CORRECT")).grounding(ask(images=images), 60.0)) == Score(None, Reason.JUDGE_ERROR)
    assert "image 2 of 2: 600 bytes that are no readable image" in caplog.text


def test_a_hundred_thousand_characters_are_unscored_for_consistency_too(ask: Any, scripted: Any) -> None:
    chat = scripted(lambda text: "YES")
    assert asyncio.run(judge(chat).consistency(ask(reasoning="The red circle. " * 6250), 60.0)) == Score(None, Reason.JUDGE_ERROR)
    assert chat.calls == []


def test_white_space_does_not_make_a_reasoning_long(ask: Any, scripted: Any) -> None:
    reasoning = "The red circle is left." + " " * 100_000 + "So the answer is A."
    assert asyncio.run(judge(scripted(lambda text: "YES")).consistency(ask(reasoning=reasoning), 60.0)) == Score(1.0)


def test_images_keep_their_order(ask: Any, scripted: Any, picture: Any) -> None:
    first, second, third = picture((1, 1, 1)), picture((2, 2, 2), form="BMP"), picture((3, 3, 3), form="WEBP")
    chat = scripted(lambda text: "CORRECT")
    asyncio.run(judge(chat).grounding(ask(images=(first, second, third, first)), 60.0))

    urls = [part["image_url"]["url"] for part in chat.calls[0]["messages"][1]["content"][:-1]]
    assert len(urls) == 4
    assert urls[0] == urls[3]
    assert len(set(urls)) == 3
    assert [url.split(";")[0] for url in urls] == ["data:image/png", "data:image/png", "data:image/webp", "data:image/png"]


@pytest.mark.parametrize("word", ["", "Yes", "CORRECT", "YES because", "\u2039YES\u203a"])
def test_nonsense_is_a_failure_worth_another_try_and_not_kept(ask: Any, scripted: Any, word: str) -> None:
    chat = scripted(lambda text: word)

    async def twice() -> list[JudgeFailure]:
        own, found = judge(chat), []
        for _ in range(2):
            with pytest.raises(JudgeFailure) as caught:
                await own.consistency(ask(), 60.0)
            found.append(caught.value)
        return found

    failures = asyncio.run(twice())
    assert [(one.reason, one.retryable) for one in failures] == [(Reason.JUDGE_ERROR, True)] * 2
    assert str(failures[0]) == f"the model answered {word!r}, which is no verdict"
    assert len(chat.calls) == 2


def test_one_sentence_without_a_verdict_fails_the_rollout_and_the_others_are_kept(ask: Any, scripted: Any) -> None:
    broken = {"now": True}

    def script(text: str) -> Any:
        word = sentence_words(text)
        return JudgeFailure(Reason.JUDGE_UNAVAILABLE, "gone") if broken["now"] and word == "INCORRECT" else word

    chat = scripted(script)

    async def again() -> Any:
        own = judge(chat)
        with pytest.raises(JudgeFailure, match="gone"):
            await own.grounding(ask(reasoning=REASONING), 60.0)
        broken["now"] = False
        return await own.grounding(ask(reasoning=REASONING), 60.0), own.usage()

    verdicts, usage = asyncio.run(again())
    assert [one.verdict for one in verdicts] == [CORRECT, INCORRECT, SKIP, CORRECT]
    assert (len(chat.calls), usage.calls, usage.cache_hits) == (5, 5, 3)


def test_equal_questions_on_their_way_share_one_call_and_later_ones_the_cache(ask: Any, scripted: Any) -> None:
    async def run() -> Any:
        gate, asked = asyncio.Event(), asyncio.Event()

        async def slowly() -> str:
            asked.set()
            await gate.wait()
            return "YES"

        chat = scripted(lambda text: slowly())
        own = judge(chat)
        waiting = [asyncio.create_task(own.consistency(ask(uid=f"u{number}"), 60.0)) for number in range(5)]
        await asked.wait()
        gate.set()
        scores = await asyncio.gather(*waiting)
        scores.append(await own.consistency(ask(uid="later"), 60.0))
        await own.consistency(ask(answer="B"), 60.0)
        return scores, own.usage(), len(chat.calls)

    scores, usage, calls = asyncio.run(run())
    assert scores == [Score(1.0)] * 6
    assert calls == 2
    assert (usage.calls, usage.shared, usage.cache_hits, usage.prompt_tokens, usage.completion_tokens) == (2, 4, 1, 200, 4)


def test_who_asks_later_with_more_time_asks_again_when_the_first_was_late(ask: Any, scripted: Any) -> None:
    async def run() -> Any:
        asked = asyncio.Event()

        async def late() -> str:
            asked.set()
            await asyncio.sleep(0)
            raise JudgeFailure(Reason.JUDGE_TIMEOUT, "late")

        answers = [late(), "YES"]
        chat = scripted(lambda text: answers.pop(0))
        own = judge(chat)
        first = asyncio.create_task(own.consistency(ask(), 30.0))
        await asked.wait()
        second = await own.consistency(ask(), 60.0)
        with pytest.raises(JudgeFailure, match="late"):
            await first
        return second

    assert asyncio.run(run()) == Score(1.0)


def test_a_call_goes_on_when_the_asker_is_cancelled_and_its_answer_is_kept(ask: Any, scripted: Any) -> None:
    async def run() -> Any:
        gate, asked = asyncio.Event(), asyncio.Event()

        async def slowly() -> str:
            asked.set()
            await gate.wait()
            return "NO"

        chat = scripted(lambda text: slowly())
        own = judge(chat)
        impatient = asyncio.create_task(own.consistency(ask(), 60.0))
        await asked.wait()
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        waiting = asyncio.create_task(own.consistency(ask(), 60.0))
        gate.set()
        return await waiting, len(chat.calls)

    assert asyncio.run(run()) == (Score(0.0), 1)


def test_a_deadline_holds_and_close_ends_what_is_on_its_way(ask: Any, scripted: Any) -> None:
    async def run() -> Any:
        asked = asyncio.Event()

        async def never() -> str:
            asked.set()
            await asyncio.Event().wait()
            return ""

        chat = scripted(lambda text: never())
        own = judge(chat)
        with pytest.raises(JudgeFailure) as late:
            await own.consistency(ask(), 0.01)
        with pytest.raises(JudgeFailure) as none_left:
            await own.consistency(ask(answer="B"), 0.0)
        waiting = asyncio.create_task(own.consistency(ask(answer="right"), 60.0))
        asked.clear()
        await asked.wait()
        await own.close()
        with pytest.raises(JudgeFailure) as closed:
            await waiting
        return chat.closed, late.value, none_left.value, closed.value

    closed, *failures = asyncio.run(run())
    assert closed
    assert [one.reason for one in failures] == [Reason.JUDGE_TIMEOUT, Reason.JUDGE_TIMEOUT, Reason.JUDGE_UNAVAILABLE]


def test_verdicts_are_shared_through_a_directory_and_checked_again(ask: Any, scripted: Any, tmp_path: Path) -> None:
    async def run(answer: str) -> tuple[Score, int]:
        chat = scripted(lambda text: answer)
        own = judge(chat, VerdictCache(10, tmp_path))
        score = await own.consistency(ask(), 60.0)
        await own.close()
        return score, len(chat.calls)

    assert asyncio.run(run("YES")) == (Score(1.0), 1)
    assert asyncio.run(run("NO")) == (Score(1.0), 0)
    disk = VerdictCache(0, tmp_path)
    (key,) = [disk._disk.disk.get(row, True) for (row,) in disk._disk._sql("SELECT key FROM Cache")]
    disk.put(key, "PERHAPS")
    disk.close()
    assert asyncio.run(run("NO")) == (Score(0.0), 1)


def test_a_version_names_all_that_can_change_a_verdict(scripted: Any, tmp_path: Path) -> None:
    chat, other = scripted(lambda text: "YES"), scripted(lambda text: "YES")
    other.model = "another"
    for file in (Path(PROMPTS.__module__.replace(".", "/")).parent / "templates").glob("*"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8") + "\nBe strict.\n", encoding="utf-8")
    versions = [
        judge(chat).version(),
        judge(other).version(),
        judge(chat, mode="per_rollout").version(),
        judge(chat, max_reasoning_characters=10).version(),
        judge(chat, max_sentences=10).version(),
        judge(chat, identity={"revision": "2"}).version(),
    ]
    assert len(set(versions)) == len(versions)
    assert versions[0] == judge(scripted(lambda text: "NO"), VerdictCache(5)).version()
    assert all(len(version) == 16 for version in versions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "per_word"}, "openai.mode: found 'per_word', expected one of per_sentence, per_rollout. Change openai.mode."),
        ({"max_sentences": 0}, "openai.max_sentences: found 0, expected a whole number >= 1. Change openai.max_sentences."),
        (
            {"max_reasoning_characters": "many"},
            "openai.max_reasoning_characters: found 'many', expected a whole number >= 1. Change openai.max_reasoning_characters.",
        ),
        ({"cache": 3}, "openai.cache: found 3, expected a mapping of names to values. Change openai.cache."),
    ],
)
def test_settings_are_checked(scripted: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_language_judge(scripted(str), settings, "openai")
    assert str(caught.value) == message


def test_a_mode_is_one_of_two(scripted: Any) -> None:
    with pytest.raises(ValueError, match="mode must be one of per_sentence, per_rollout, got 'x'"):
        judge(scripted(str), mode="x")


def test_a_judge_that_must_look_is_shown_an_image_when_it_starts(scripted: Any) -> None:
    chat = scripted(lambda text: "CORRECT")
    asyncio.run(judge(chat, looks_at="openai.model").start())
    (call,) = chat.calls
    assert call["messages"][-1]["content"][0]["image_url"]["url"].startswith("data:image/")

    blind = scripted(lambda text: JudgeFailure(Reason.JUDGE_ERROR, "answered 400: not a multimodal model", retryable=False))
    with pytest.raises(ConfigError, match=r"^openai\.model: found .*, which refuses a question with an image \(.*400: not a multimodal"):
        asyncio.run(judge(blind, looks_at="openai.model").start())

    busy = scripted(lambda text: JudgeFailure(Reason.JUDGE_UNAVAILABLE, "answered 503"))
    asyncio.run(judge(busy, looks_at="openai.model").start())  # no sign that it cannot see


def test_a_judge_that_need_not_look_is_shown_nothing(scripted: Any) -> None:
    chat = scripted(lambda text: "YES")
    asyncio.run(judge(chat).start())
    assert chat.calls == []
