"""The consistency model as a judge: refused early where it cannot serve, batched, continuous, versioned by all that decides."""

import asyncio
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from faithful_rl.config import ConfigError
from faithful_rl.crm import model
from faithful_rl.crm.backend import ClassifierBackend
from faithful_rl.crm.files import check
from faithful_rl.judges.backend import JudgeFailure, build_backend
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score


def request(
    reasoning: str = "The red circle is left of the blue square. So the answer is left.", answer: str = "A", uid: str = "u"
) -> JudgeRequest:
    return JudgeRequest(uid, "Is the red circle left or right of the blue square?", ("left", "right"), reasoning, answer)


def ask(backend: ClassifierBackend, *requests: JudgeRequest, deadline: float = 60.0) -> list[Score]:
    async def run() -> list[Score]:
        await backend.start()
        try:
            return list(await asyncio.gather(*(backend.consistency(one, deadline) for one in requests)))
        finally:
            await backend.close()

    return asyncio.run(run())


def built(folder: Path, **settings: Any) -> ClassifierBackend:
    backend = build_backend({"backend": "classifier", "model": str(folder), "wait_milliseconds": 20.0, **settings})
    assert isinstance(backend, ClassifierBackend)
    return backend


def test_scores_are_probabilities_and_do_not_depend_on_company(untrained: Path) -> None:
    asked = [request(f"There are {number} red shapes. So the answer is left.", uid=str(number)) for number in range(5)]
    backend = built(untrained)
    together = ask(backend, *asked)
    assert all(score.value is not None and 0.0 < score.value < 1.0 for score in together)
    assert len({score.value for score in together}) > 1
    usage = backend.usage()
    assert (usage.calls, usage.prompt_tokens > 100) == (5, True)
    alone = [ask(built(untrained, batch_size=1), one)[0] for one in asked[:2]]
    assert [one.value for one in alone] == pytest.approx([one.value for one in together[:2]], abs=1e-5)


def test_what_comes_together_is_scored_together(untrained: Path) -> None:
    backend = built(untrained, wait_milliseconds=60_000.0, batch_size=4)

    async def run() -> int:
        await backend.start()
        await asyncio.gather(*(backend.consistency(request(uid=str(index)), 60.0) for index in range(8)))
        assert backend._batcher is not None
        batches = backend._batcher.batches
        await backend.close()
        return batches

    assert asyncio.run(run()) == 2


def test_temperature_flattens_and_a_threshold_makes_it_binary(untrained: Path) -> None:
    (plain,) = ask(built(untrained), request())
    (flat,) = ask(built(untrained, temperature=50.0), request())
    assert plain.value is not None
    assert flat.value is not None
    assert abs(flat.value - 0.5) < abs(plain.value - 0.5)
    assert ask(built(untrained, threshold=plain.value - 1e-3), request()) == [Score(1.0)]
    assert ask(built(untrained, threshold=plain.value + 1e-3), request()) == [Score(0.0)]


def test_blank_thinking_or_answer_scores_0_unasked(untrained: Path) -> None:
    backend = built(untrained)
    assert ask(backend, request(reasoning=" \n"), request(answer="")) == [Score(0.0), Score(0.0)]
    assert backend.usage().calls == 0


def test_long_thinking_loses_its_beginning_and_that_is_said(untrained: Path, caplog: pytest.LogCaptureFixture) -> None:
    start, end = "The green square is at the top. " * 200, "So the answer is left."
    backend = built(untrained, max_length=64)
    with caplog.at_level(logging.WARNING, "faithful_rl.judges"):
        long, other = ask(backend, request(start + end), request("The blue square moved. " * 200 + end))
    assert "2 thinking(s) so far longer than max_length=64 tokens: their beginnings were cut off" in caplog.text
    assert backend.shortened == 2
    tokenizer = model.load(check(str(untrained), "model"), "cpu").tokenizer
    (encoded,) = model.encode(tokenizer, [("Q?", start + end, "A) left")], 64)
    assert (len(encoded.ids), encoded.shortened) == (64, True)
    text = tokenizer.decode(encoded.ids)
    assert text.startswith("[CLS]Q?")
    assert text.endswith("So the answer is left.[SEP]The final answer is A) left[SEP]")
    assert long.value is not None
    assert other.value is not None


def test_a_question_longer_than_the_room_keeps_its_options(untrained: Path) -> None:
    tokenizer = model.load(check(str(untrained), "model"), "cpu").tokenizer
    (encoded,) = model.encode(tokenizer, [("word " * 300 + "\nA) left\nB) right", ("So the answer is left. " * 30).strip(), "A) left")], 64)
    text = tokenizer.decode(encoded.ids)
    assert len(encoded.ids) == 64
    assert "A) left\nB) right\n" in text
    assert "So the answer is left.[SEP]" in text
    short = ("Q?", "So the answer is left.", "A) left")
    (whole,) = model.encode(tokenizer, [short], 64)
    assert not whole.shortened
    assert tokenizer.decode(whole.ids) == "[CLS]Q?\nSo the answer is left.[SEP]The final answer is A) left[SEP]"


def test_the_version_names_all_that_decides(untrained: Path, tmp_path: Path) -> None:
    version = built(untrained).version()
    assert len(version) == 16
    assert version == built(untrained, batch_size=3, threads=2, device="cpu").version()  # these change no score
    others = {built(untrained, **changed).version() for changed in ({"temperature": 2.0}, {"threshold": 0.5}, {"max_length": 64})}
    copy = tmp_path / "copy"
    shutil.copytree(untrained, copy)
    assert built(copy).version() == version
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["version"] = "1.0 "
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert len({version, built(copy).version(), *others}) == 5


def test_the_manifest_says_temperature_and_length(untrained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(untrained, copy)
    (copy / "manifest.json").write_text('{"temperature": 50.0, "threshold": 0.4, "max_length": 99}')
    found = check(str(copy), "model")
    assert (found.temperature, found.threshold, found.max_length, found.positive) == (50.0, 0.4, 99, 1)
    assert ask(built(copy), request()) == ask(built(untrained, temperature=50.0, max_length=99), request())


def test_a_late_question_and_an_unstarted_judge_fail_kindly(untrained: Path) -> None:
    backend = built(untrained, wait_milliseconds=60_000.0)

    async def late() -> None:
        with pytest.raises(JudgeFailure, match="not loaded"):
            await backend.consistency(request(), 1.0)
        assert not await backend.healthy()
        await backend.start()
        assert await backend.healthy()
        with pytest.raises(JudgeFailure) as caught:
            await backend.consistency(request(), 0.0)
        assert caught.value.reason is Reason.JUDGE_TIMEOUT
        with pytest.raises(JudgeFailure, match="does not judge grounding") as refused:
            await backend.grounding(request(), 1.0)
        assert not refused.value.retryable
        await backend.close()
        await backend.close()

    asyncio.run(late())


def settings_error(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build_backend({"backend": "classifier", **settings})
    return str(caught.value)


def test_wrong_settings_are_named_before_anything_starts(untrained: Path, tmp_path: Path) -> None:
    folder = str(untrained)
    assert settings_error().startswith("classifier.model: found nothing")
    assert settings_error(model=str(tmp_path / "absent")).startswith("classifier.model: found ")
    assert "recipe=crm_tiny" in settings_error(model=str(tmp_path / "absent"))
    assert "Did you mean batch_size?" in settings_error(model=folder, batchsize=3)
    assert settings_error(model=folder, threshold=1.5).startswith("classifier.threshold: found 1.5, expected a number in (0, 1]")
    assert settings_error(model=folder, device="tpu").startswith("classifier.device: found 'tpu', expected one of auto, cpu, cuda")
    assert settings_error(model=folder, judge="grounding").startswith("backend: found classifier, expected a backend that sees images")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "without weights, expected weights in *.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "with the empty file model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "without tokenizer.json"),
        (lambda folder: (folder / "config.json").unlink(), "without config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "which is no JSON"),
        (lambda folder: changed(folder, architectures=["Qwen2_5_VLForConditionalGeneration"]), "of architecture Qwen2_5_VLForConditional"),
        (lambda folder: changed(folder, id2label={"0": "contradiction", "1": "neutral", "2": "entailment"}), "with 3 labels"),
    ],
)
def test_an_unfit_model_is_named(untrained: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(untrained, copy)
    spoil(copy)
    assert message in settings_error(model=str(copy))


def changed(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_label_called_entailment_is_the_consistent_one(untrained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(untrained, copy)
    changed(copy, id2label={"0": "entailment", "1": "not_entailment"}, label2id={"entailment": 0, "not_entailment": 1})
    assert check(str(copy), "model").positive == 0
    (turned,), (plain,) = ask(built(copy), request()), ask(built(untrained), request())
    assert turned.value == pytest.approx(1.0 - (plain.value or 0.0))


def test_weights_that_do_not_fit_are_told_at_start(untrained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(untrained, copy)
    (copy / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    with pytest.raises(ConfigError, match="which does not load"):
        ask(built(copy), request())
