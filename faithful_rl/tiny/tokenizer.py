"""A byte-level BPE tokenizer for the tiny model, with Qwen2.5-VL's special tokens and a chat template of our own.

Every word of the scene language and every number up to the image's side is one token; any other text falls back to
bytes, so nothing is unknown.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_prep.scenes.questions import FAMILIES
from data_prep.scenes.world import SIDE
from faithful_rl.judges.scene_language import (
    DIAGONALS,
    LETTERS,
    RELATIONS,
    Between,
    Counted,
    Located,
    Moved,
    Nearest,
    OddOneOut,
    Question,
    Related,
    write_claim,
    write_conclusion,
    write_question,
)
from faithful_rl.judges.scene_world import COLOURS, SHAPES

# Order gives the ids; the same texts as in Qwen2.5-VL, whose code looks them up by text.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Not special: they must survive decoding with skip_special_tokens, which is what rewards see.
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<bbox>", "</bbox>")

MAX_VOCABULARY = 1024
DESCRIBE = "Describe the image."

# Qwen2's split of text, except that a number is one piece.
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Per message: role header, then text as is or, for a list of parts, a vision slot per image or video; no default system message.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'video' or 'video' in part -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part -%}{{ part['text'] }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; always the same one, because its corpus is the whole scene language and has no randomness."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.add_tokens(list(TAGS))
    fast.chat_template = CHAT_TEMPLATE
    return fast


def corpus() -> list[str]:
    """Every word of the scene language and every number 0 to the image's side, in the surroundings they occur in."""
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    texts = [DESCRIBE, "user\n", "assistant\n", "system\n", "\n".join(f"{letter}) left" for letter in LETTERS[:4])]
    for name in names:
        other = names[-1]
        texts += [write_claim(Located(name, quarter, ())) for quarter in DIAGONALS]
        texts += [write_claim(Located(name, None, ())), write_claim(OddOneOut(name)), write_claim(Moved(name))]
        texts += [write_claim(Related(name, relation, other)) for relation in RELATIONS]
        texts += [write_claim(Between(name, (name, other))), write_claim(Nearest(name, other))]
        texts += [write_question(Question(kind, (name, other))) for kind in FAMILIES if kind != "count"]
    for colour in COLOURS:
        texts += [write_question(Question("count", (colour,)))]
        texts += [write_claim(Counted(colour, number)) for number in range(1, 5)]
    texts += [write_conclusion(option) for option in (*RELATIONS, *"1234", *names)]
    texts += ["In the first image, the red circle", "In the second image, the red circle"]
    texts += [f"[{number},{number},{number},{number}]" for number in range(SIDE + 1)]
    texts += [" " + text for text in texts]  # sentences follow each other, so words also start after a space
    return texts * 2  # the trainer merges pairs seen at least twice
