"""The tokenizer of the small consistency model: bytes, and the words of scenes and of reasonings about them as single tokens."""

from __future__ import annotations

from faithful_rl.tiny import tokenizer as tiny  # first: importing this package readies torchvision for transformers  # isort: skip
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from faithful_rl.crm.pairs import LETTERS, hypothesis
from faithful_rl.crm.scene_pairs import OPENINGS
from faithful_rl.judges.scene_language import RELATIONS
from faithful_rl.judges.scene_world import COLOURS, SHAPES

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
MAX_VOCABULARY = 768
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Always the same tokenizer: its corpus has no randomness. Any other text falls back to bytes, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def corpus() -> list[str]:
    """The words of the scene language, of openings and of conclusions in the surroundings they occur in."""
    options = [*RELATIONS, *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES), *"1234"]
    texts = [*tiny.corpus(), *OPENINGS]
    for index, option in enumerate(options):
        letter = LETTERS[index % 8]
        for prefix in ("So the answer is", "Therefore, the answer is", "Thus the answer is", "Hence, the answer is", "The answer is"):
            texts += [f"{prefix} {option}.", f"{prefix} {option.capitalize()}.", f"{prefix} ({letter}).", f"{prefix}: {letter}) {option}."]
        texts += [hypothesis(f"{letter}) {option}"), f"\n{letter}) {option}\n{letter}) {option}"]
    return texts * 2  # the trainer merges pairs seen at least twice
