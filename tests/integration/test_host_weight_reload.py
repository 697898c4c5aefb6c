"""Weight updates of vLLM's CPU build against transformers, on an image prompt: exact after a reload, and the ban stays in force."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(960)]

EXTENSION = """
from faithful_rl.verl_plugin.vllm_worker import CpuColocateWorkerExtension


class Extension(CpuColocateWorkerExtension):
    def load(self, path, ours):
        from safetensors.torch import load_file

        weights = list(load_file(path).items())
        if ours:
            self._reload(weights)
        else:
            self.model_runner.reload_weights(weights_iterator=iter(weights))
"""

SCRIPT = """
import json, sys, torch
import verl
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from vllm import LLM, SamplingParams

TOKENS = 8


def main(model, directory):
    processor = AutoProcessor.from_pretrained(model)
    reference = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa").eval()
    server = LLM(model=model, dtype="float32", enforce_eager=True, max_model_len=192, max_num_seqs=4, gpu_memory_utilization=0.1,
                 kv_cache_memory_bytes=32 << 20, logprobs_mode="processed_logprobs", worker_extension_cls="reload_extension.Extension")
    image = Image.new("RGB", (112, 112), (200, 30, 90))
    content = [{"type": "image"}, {"type": "text", "text": "Is the red circle left of the blue square?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=[image], return_tensors="pt")

    def sample(temperature):
        parameters = SamplingParams(max_tokens=TOKENS, logprobs=0, temperature=temperature, seed=1, ignore_eos=True)
        server.llm_engine.reset_prefix_cache()  # what verl's server resets after every weight update
        server.llm_engine.reset_mm_cache()
        server.llm_engine.reset_encoder_cache()
        result = server.generate([{"prompt": text, "multi_modal_data": {"image": image}}], parameters)[0]
        tokens = list(result.outputs[0].token_ids)
        return tokens, [entry[token].logprob for entry, token in zip(result.outputs[0].logprobs, tokens)]

    def largest_difference():
        tokens, logprobs = sample(1.0)
        ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)
        types = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, TOKENS, dtype=torch.long)], dim=1)
        with torch.no_grad():
            logits = reference(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"],
                               image_grid_thw=inputs["image_grid_thw"], mm_token_type_ids=types).logits
        expected = logits[0, -TOKENS - 1:-1].log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        return (expected - torch.tensor(logprobs)).abs().max().item()

    answer = {"at_start": largest_difference()}
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    reference.save_pretrained(directory / "moved")
    path = str(directory / "moved" / "model.safetensors")
    server.collective_rpc("load", args=(path, False))
    answer["without_repacking"] = largest_difference()
    for round in ("first", "second"):
        server.collective_rpc("load", args=(path, True))
        answer[round] = largest_difference()
    favourite = sample(0.0)[0][0]
    server.collective_rpc("monkey_patch_model", kwargs={"vocab_size": len(processor.tokenizer), "banned_token_ids": [favourite]})
    answer["banned"] = favourite in sample(0.0)[0]
    server.collective_rpc("load", args=(path, True))
    answer["banned_after_reload"] = favourite in sample(0.0)[0]
    print("ANSWER" + json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from faithful_rl.tiny.model import random_tiny_model

    directory = tmp_path_factory.mktemp("reload")
    model = random_tiny_model(directory / "model", seed=0)
    (directory / "reload_extension.py").write_text(EXTENSION)
    script = directory / "script.py"
    script.write_text(SCRIPT)
    environment = {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH", "")])),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    done = subprocess.run(
        [sys.executable, str(script), str(model), str(directory)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    result: dict[str, Any] = json.loads(done.stdout.split("ANSWER")[1].splitlines()[0])
    return result


def test_loaded_weights_are_exact(answer: dict[str, Any]) -> None:
    assert answer["at_start"] < 1e-5


def test_reloaded_weights_are_exact_every_time(answer: dict[str, Any]) -> None:
    assert answer["first"] < 1e-5
    assert answer["second"] < 1e-5


def test_vllm_alone_leaves_a_tied_head_outdated(answer: dict[str, Any]) -> None:
    assert answer["without_repacking"] > 0.01, "vLLM refreshes tied heads itself now: `repack_tied_heads` can go"


def test_a_banned_token_stays_banned_across_reloads(answer: dict[str, Any]) -> None:
    assert not answer["banned"]
    assert not answer["banned_after_reload"]
