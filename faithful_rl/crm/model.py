"""The cross-encoder itself: a ModernBERT with two labels, its texts as token ids, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faithful_rl.verl_plugin.guards import torchvision_schema  # isort: skip

torchvision_schema.apply()  # before transformers' models are imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors import SafetensorError  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerBase,
)

from faithful_rl.config import ConfigError  # noqa: E402
from faithful_rl.crm.files import ModelFiles  # noqa: E402
from faithful_rl.crm.measures import Array  # noqa: E402
from faithful_rl.crm.measures import probabilities as sigmoid  # noqa: E402
from faithful_rl.crm.pairs import hypothesis  # noqa: E402

LABELS = {0: "inconsistent", 1: "consistent"}
BATCH = 64
WIDTH = 128  # of the small model
READING_LAYERS = 4  # of the small model: they learn to read answers; the layers above compare and decide

Texts = tuple[str, str, str]  # question, thinking, answer


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one pair; `shortened`: the beginning of its thinking was cut off."""

    ids: list[int]
    shortened: bool


@dataclass(frozen=True, slots=True)
class Predicted:
    """P(consistent) (n,), tokens read, and pairs whose thinking was shortened."""

    values: Array
    tokens: int
    shortened: int


def tiny_config(tokenizer: PreTrainedTokenizerBase, max_length: int) -> ModernBertConfig:
    """About 0.9 million parameters: 6 layers of width 128, one of which looks only 32 tokens around (the class wants both kinds).

    Weights begin with a deviation of 1/sqrt(width). The class's 0.02 is made for a width of 768: in one as narrow as this, attention begins
    so flat that word order is hardly seen, and "b is right of a" was not told from "a is right of b" after 60,000 pairs (LOG.md).
    """
    layers = ["full_attention", "sliding_attention", *["full_attention"] * 4]
    return ModernBertConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=WIDTH,
        initializer_range=WIDTH**-0.5,
        intermediate_size=192,
        num_hidden_layers=len(layers),
        num_attention_heads=4,
        max_position_embeddings=max_length,
        layer_types=layers,
        local_attention=64,
        rope_parameters={kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in set(layers)},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
        id2label=LABELS,
        label2id={name: index for index, name in LABELS.items()},
    )


def tiny_model(config: ModernBertConfig, seed: int) -> ModernBertForSequenceClassification:
    """Float32 weights drawn from `seed`; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ModernBertForSequenceClassification._from_config(config, dtype=torch.float32, attn_implementation="sdpa")


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Texts], max_length: int) -> list[Encoded]:
    """`[CLS] question, new line, thinking [SEP] The final answer is {a} [SEP]`, at most `max_length` tokens.

    What is too long loses the beginning of its thinking: the conclusion stands at the end. A question is given at most half of the
    room and keeps its end, where the options are.
    """
    flat = [part for question, thinking, answer in texts for part in (f"{question}\n", thinking, hypothesis(answer))]
    pieces = tokenizer(flat, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    first, between = tokenizer.cls_token_id, tokenizer.sep_token_id
    found = []
    for start in range(0, len(pieces), 3):
        question, thinking, answer = pieces[start : start + 3]
        answer = answer[: max_length // 4]
        room = max_length - 3 - len(answer)
        if len(question) + len(thinking) > room:
            question = question[-max(room - len(thinking), room // 2) :]
        kept = thinking[max(0, len(question) + len(thinking) - room) :]
        found.append(Encoded([first, *question, *kept, between, *answer, between], len(kept) < len(thinking)))
    return found


class CrossEncoder:
    """A model and its tokenizer on one device."""

    def __init__(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, positive: int = 1) -> None:
        self.model, self.tokenizer, self._positive = model.eval(), tokenizer, positive
        self._device = next(model.parameters()).device

    def logits(self, encoded: Sequence[Encoded], batch: int = BATCH) -> Array:
        """Logit differences (n,), consistent minus inconsistent, float64. Pairs of like length share a batch, to save padding."""
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
        result = np.empty(len(encoded), dtype=np.float64)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            ids, mask = padded([encoded[row].ids for row in rows], int(self.tokenizer.pad_token_id))
            with torch.inference_mode():
                found = self.model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits.float().cpu().numpy()
            result[rows] = found[:, self._positive] - found[:, 1 - self._positive]
        return result

    def probabilities(self, texts: Sequence[Texts], temperature: float, max_length: int) -> Predicted:
        """P(consistent) of some pairs."""
        encoded = encode(self.tokenizer, texts, max_length)
        values = sigmoid(self.logits(encoded), temperature)
        return Predicted(values, sum(len(one.ids) for one in encoded), sum(one.shortened for one in encoded))


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (n, longest), padded on the right."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids, mask


def load(files: ModelFiles, device: str = "auto", threads: int | None = None) -> CrossEncoder:
    """A checked model directory, ready to score; bfloat16 on a GPU, float32 on a CPU.

    Args:
        device: auto, cpu or cuda.
        threads: of torch, for this whole process; None leaves them.

    Raises:
        ConfigError: no such device, or files that do not load.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("classifier.device", "cuda without a usable GPU", "auto or cpu", "Give the judge num_gpus, or use the CPU.")
    if threads is not None:
        torch.set_num_threads(threads)
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.path, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            files.path, local_files_only=True, use_safetensors=True, attn_implementation="sdpa",
            dtype=torch.bfloat16 if place == "cuda" else torch.float32,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ConfigError("classifier.model", f"{files.path}, which does not load ({reason})", "a whole model", "Copy it again.") from error
    return CrossEncoder(model.to(place), tokenizer, files.positive)
