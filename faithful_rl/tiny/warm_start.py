"""The warm start of the tiny model: vision alignment, clean traces, then an imperfect teacher, and more of its counting.

    python -m faithful_rl.main recipe=sft_tiny

Deterministic: one seed, one number of threads and one version of torch give the same weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional
import transformers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from data_prep.scenes.dataset import user_text
from data_prep.scenes.questions import LEARNABLE, draw_sample
from data_prep.scenes.splits import in_split
from data_prep.scenes.world import Scene, random_scene, scene_image
from faithful_rl.judges.scene_language import write_question
from faithful_rl.judges.scene_world import write_scene
from faithful_rl.tiny.alignment import align_vision, visual_tokens
from faithful_rl.tiny.batches import END, IGNORED, IMAGE_TOKENS, Batch, make_batch, position_ids
from faithful_rl.tiny.evaluate import evaluate
from faithful_rl.tiny.model import save_pretrained, tiny_config, tiny_model, tiny_processor
from faithful_rl.tiny.teacher import Imperfection, caption, clean_trace, imperfect_trace, reading_order
from faithful_rl.tiny.tokenizer import DESCRIBE, train_tokenizer

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

logger = logging.getLogger(__name__)

# A policy that samples an image pad breaks the row it is in: log-probabilities of such tokens are pushed below this.
_BANNED_LOG_PROBABILITY, _BANNED_WEIGHT = -20.0, 2e-3
# Tokens that no trace holds: the tails of so small a model would otherwise spoil one trace in ten at temperature 1.
_UNWRITTEN_LOG_PROBABILITY, _UNWRITTEN_WEIGHT = -16.0, 3e-4
_POOL = 8  # batches drawn together and sorted by length, so that little is spent on padding

MANIFEST = "manifest.json"

Example = tuple[Scene, str, str]  # scene, user text, response
STAGE_STEPS = ("alignment_steps", "clean_steps", "imperfect_steps", "counting_steps")

Progress = Callable[[str, int, int, float], None]  # stage, step from 1, steps, loss


@dataclass(frozen=True, slots=True)
class WarmStartSettings:
    """Everything that decides the weights, apart from the version of torch."""

    seed: int = 0
    alignment_steps: int = 600
    clean_steps: int = 2000
    imperfect_steps: int = 600
    counting_steps: int = 300
    batch_size: int = 48
    caption_share: float = 0.25  # of the clean examples, in [0, 1]
    matrix_learning_rate: float = 0.02  # Muon
    other_learning_rate: float = 2e-3  # AdamW: embeddings, norms, biases
    imperfect_rate: float = 0.5  # factor on both learning rates in the stage of that name
    counting_rate: float = 0.25
    counting_share: float = 0.5  # of the last stage's examples that are about counting, in [0, 1]
    threads: int = 2
    imperfection: Imperfection = field(default_factory=Imperfection)

    def scaled(self, factor: float) -> WarmStartSettings:
        """The same with every stage's steps times `factor`, at least 2 each; a small factor is for tests."""
        steps = {name: max(2, round(getattr(self, name) * factor)) for name in STAGE_STEPS}
        return WarmStartSettings(**{**{name: getattr(self, name) for name in self.__slots__}, **steps})


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of language modelling: its name (also a part of its random seed), steps, and factor on the learning rates."""

    name: str
    steps: int
    rate: float
    shun_unwritten: bool = False  # also push down the tokens that no trace holds


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage's steps, seconds, and loss (mean over its last tenth; nats a token, a share of the variance for alignment)."""

    name: str
    steps: int
    seconds: float
    loss: float


def run(settings: WarmStartSettings, output_dir: Path | str, progress: Progress | None = None, questions: int = 400) -> Path:
    """Train the warm start into `output_dir`, which must not hold one already; returns the directory.

    `progress(stage, step, steps, loss)` is called after each step. `questions` held-out ones of the val split are evaluated at
    the end, 0 for none. `manifest.json` is written last: a directory without it is not finished.

    Raises:
        FileExistsError: the directory holds a manifest.
    """
    output_dir = Path(output_dir)
    if (output_dir / MANIFEST).exists():
        raise FileExistsError(f"{output_dir} already holds a warm start ({MANIFEST}); choose another output directory or remove it")
    torch.set_num_threads(settings.threads)
    report = progress or (lambda stage, step, steps, loss: None)
    tokenizer = train_tokenizer()
    model = tiny_model(tiny_config(tokenizer), settings.seed)
    data = hashlib.sha256()
    clean, imperfect, counting = (_hashed(draw(settings), data) for draw in (_clean_examples, _imperfect_examples, _counting_examples))
    stages = [
        _align(model, tokenizer, settings, report),
        _train(model, tokenizer, settings, Stage("clean", settings.clean_steps, 1.0), clean, report),
        _train(model, tokenizer, settings, Stage("imperfect", settings.imperfect_steps, settings.imperfect_rate, True), imperfect, report),
        _train(model, tokenizer, settings, Stage("counting", settings.counting_steps, settings.counting_rate, True), counting, report),
    ]
    save_pretrained(model, tiny_processor(tokenizer), output_dir)
    metrics = evaluate(output_dir, questions) if questions else {}
    manifest = {
        "recipe": "sft_tiny",
        "settings": asdict(settings),
        "stages": [asdict(stage) for stage in stages],
        "data_sha256": data.hexdigest(),
        "weights_sha256": hashlib.sha256((output_dir / "model.safetensors").read_bytes()).hexdigest(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metrics": {"split": "val", "questions": questions, **metrics},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
    }
    (output_dir / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return output_dir


def _hashed(examples: Iterator[Example], data: Hash) -> Iterator[Example]:
    """The same examples; each is added to `data`, so that two runs on the same data have the same hash."""
    for scene, prompt, response in examples:
        data.update("\0".join([write_scene([scene_image(scene)]), prompt, response, ""]).encode())
        yield scene, prompt, response


def _align(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, settings: WarmStartSettings, report: Progress
) -> StageReport:
    started = time.monotonic()
    loss = align_vision(model, tokenizer, Random(f"{settings.seed}/alignment"), settings.alignment_steps, report=report)
    model.model.visual.requires_grad_(False)
    logger.info("alignment: %.4f of the variance left after %d steps, %.0f s", loss, settings.alignment_steps, time.monotonic() - started)
    return StageReport("alignment", settings.alignment_steps, time.monotonic() - started, loss)


def _clean_examples(settings: WarmStartSettings) -> Iterator[Example]:
    rng = Random(f"{settings.seed}/clean")
    while True:
        if rng.random() < settings.caption_share:
            scene = random_scene(rng)
            if in_split([scene], "train"):
                yield scene, DESCRIBE, caption(scene)
            continue
        sample = draw_sample(rng, rng.choice(LEARNABLE))
        if in_split(sample.scenes, "train"):
            yield sample.scenes[0], user_text(write_question(sample.question), sample.options), clean_trace(sample)


def _imperfect_examples(settings: WarmStartSettings) -> Iterator[Example]:
    rng = Random(f"{settings.seed}/imperfect")
    while True:
        sample = draw_sample(rng, rng.choice(LEARNABLE))
        if in_split(sample.scenes, "train"):
            text = user_text(write_question(sample.question), sample.options)
            yield sample.scenes[0], text, imperfect_trace(sample, rng, settings.imperfection)


def _counting_examples(settings: WarmStartSettings) -> Iterator[Example]:
    """The imperfect teacher again, more often about counting, and listing the counted shapes in reading order.

    Shapes listed in no order teach a small model nothing about which of them it has listed already: it takes three for two in
    every sixth question, and one that is trained to be faithful then settles on describing two (LOG.md).
    """
    rng = Random(f"{settings.seed}/counting")
    others = [kind for kind in LEARNABLE if kind != "count"]
    while True:
        sample = draw_sample(rng, "count" if rng.random() < settings.counting_share else rng.choice(others))
        if in_split(sample.scenes, "train"):
            if sample.question.kind == "count":
                sample = replace(sample, relevant=reading_order(sample.relevant))
            text = user_text(write_question(sample.question), sample.options)
            yield sample.scenes[0], text, imperfect_trace(sample, rng, settings.imperfection)


def _batches(tokenizer: PreTrainedTokenizerFast, examples: Iterator[Example], size: int, shuffle: Random) -> Iterator[Batch]:
    while True:
        pool = sorted((next(examples) for _ in range(size * _POOL)), key=lambda example: len(example[1]) + len(example[2]))
        starts = list(range(0, size * _POOL, size))
        shuffle.shuffle(starts)
        for start in starts:
            scenes, prompts, responses = zip(*pool[start : start + size], strict=True)
            yield make_batch(tokenizer, scenes, prompts, responses)


def _train(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    settings: WarmStartSettings,
    stage: Stage,
    examples: Iterator[Example],
    report: Progress,
) -> StageReport:
    started = time.monotonic()
    steps = stage.steps
    batches = _batches(tokenizer, examples, settings.batch_size, Random(f"{settings.seed}/{stage.name}/order"))
    optimizers = _optimizers(model, settings, stage.rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(steps)) for optimizer in optimizers]
    shunned = [Shunned(banned_tokens(model, tokenizer), _BANNED_LOG_PROBABILITY, _BANNED_WEIGHT)]
    if stage.shun_unwritten:
        shunned.append(Shunned(unwritten_tokens(tokenizer, settings), _UNWRITTEN_LOG_PROBABILITY, _UNWRITTEN_WEIGHT))
    losses: list[float] = []
    with ThreadPoolExecutor(max_workers=1) as worker:  # rendering and tokenising overlap with the step; one worker keeps the order
        ahead = worker.submit(next, batches)
        for step in range(steps):
            batch = ahead.result()
            ahead = worker.submit(next, batches)
            with _fast_arithmetic():
                loss = _loss(model, batch, shunned)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.model.language_model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            losses.append(float(loss.detach()))
            report(stage.name, step + 1, steps, losses[-1])
        ahead.result()
    tail = losses[-max(1, steps // 10) :]
    logger.info("%s: loss %.4f after %d steps, %.0f s", stage.name, sum(tail) / len(tail), steps, time.monotonic() - started)
    return StageReport(stage.name, steps, time.monotonic() - started, sum(tail) / len(tail))


@contextmanager
def _fast_arithmetic() -> Iterator[None]:
    # Measured on rows of 120 tokens: with bfloat16 products a step takes about half the time, and torch's fused CPU attention
    # is several times slower backwards than plain matrix products.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def _optimizers(model: Qwen2_5_VLForConditionalGeneration, settings: WarmStartSettings, rate: float) -> list[torch.optim.Optimizer]:
    layers = model.model.language_model
    matrices = [p for name, p in layers.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in layers.named_parameters() if p.ndim != 2 or "embed_tokens" in name]
    return [
        torch.optim.Muon(matrices, lr=settings.matrix_learning_rate * rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=settings.other_learning_rate * rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _cosine(steps: int, warm_up: int = 40) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to 2% of the rate."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        share = (step - warm_up) / max(1, steps - warm_up)
        return 0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(share * torch.pi))))

    return factor


def banned_tokens(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Ids that a response must never hold: vision and role markers, and rows of the vocabulary without a token."""
    names = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    ids = [int(tokenizer.convert_tokens_to_ids(name)) for name in names]
    return torch.tensor(ids + list(range(len(tokenizer), model.config.text_config.vocab_size)))


@dataclass(frozen=True, slots=True)
class Shunned:
    """Tokens whose log-probabilities (nats) the loss pushes below `floor`."""

    ids: Tensor
    floor: float
    weight: float

    def penalty(self, log_probabilities: Tensor) -> Tensor:
        """From log-probabilities (T, V): `weight` times the summed excess over the floor, mean over T."""
        return self.weight * (log_probabilities[:, self.ids] - self.floor).clamp_min(0).sum(dim=1).mean()


def unwritten_tokens(tokenizer: PreTrainedTokenizerFast, settings: WarmStartSettings, examples: int = 4000) -> Tensor:
    """Ids of the tokenizer that occur in none of `examples` imperfect responses."""
    drawn = _imperfect_examples(settings)
    responses = [next(drawn)[2] + END for _ in range(examples)]
    written = {token for ids in tokenizer(responses, add_special_tokens=False)["input_ids"] for token in ids}
    return torch.tensor([token for token in range(len(tokenizer)) if token not in written])


def _loss(model: Qwen2_5_VLForConditionalGeneration, batch: Batch, shunned: Sequence[Shunned]) -> Tensor:
    """Mean negative log-likelihood of the response tokens in nats, plus the penalty on shunned tokens."""
    count, length = batch.input_ids.shape
    head = _image_start(model, batch.input_ids[0])
    with torch.no_grad():
        visual = visual_tokens(model, batch.pixels, count)
    embeddings = model.get_input_embeddings()(batch.input_ids)
    embeddings = torch.cat([embeddings[:, :head], visual, embeddings[:, head + IMAGE_TOKENS :]], dim=1)
    # Padding is on the right and attention is causal: no mask is needed.
    positions = position_ids(head, length).expand(3, count, length)
    hidden = model.model.language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state
    wanted = batch.labels[:, 1:] != IGNORED
    logits = model.lm_head(hidden[:, :-1][wanted])
    log_probabilities = functional.log_softmax(logits, dim=-1)
    likelihood = functional.nll_loss(log_probabilities, batch.labels[:, 1:][wanted])
    return likelihood + torch.stack([group.penalty(log_probabilities) for group in shunned]).sum()


def _image_start(model: Qwen2_5_VLForConditionalGeneration, row: Tensor) -> int:
    return int((row == model.config.image_token_id).int().argmax())
