"""vLLM's own request type and grammars take what the judges' client sends to bind an answer.

Can go when vLLM documents `structured_outputs` as stable; until then an upgrade must not turn guided verdicts into free text in silence.
"""

from __future__ import annotations

import json

import pytest

from faithful_rl.judges.openai_chat import OpenAIChat
from faithful_rl.judges.verdicts import SENTENCE_CHOICES, rollout_schema

CHAT = OpenAIChat("http://127.0.0.1:1/v1", "m")
PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 16}


def bound(**wishes):
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    guidance = CHAT._guidance(wishes.get("choices"), wishes.get("json_schema"))
    return protocol.ChatCompletionRequest(**PLAIN, **guidance).to_sampling_params(16, {}).structured_outputs


def test_a_word_out_of_a_list():
    found = bound(choices=SENTENCE_CHOICES)
    assert (found.choice, found.json) == (["CORRECT", "INCORRECT", "SKIP"], None)


def test_a_json_schema():
    found = bound(json_schema=rollout_schema(3))
    assert (found.choice, found.json) == (None, rollout_schema(3))


def test_free_text_where_nothing_is_wished():
    assert bound() is None


def test_the_schema_of_a_rollout_is_a_grammar_that_xgrammar_knows_whole():
    backend = pytest.importorskip("vllm.v1.structured_output.backend_xgrammar")
    xgrammar = pytest.importorskip("xgrammar")

    assert not backend.has_xgrammar_unsupported_json_features(rollout_schema(3))
    xgrammar.Grammar.from_json_schema(json.dumps(rollout_schema(256)))
