"""Who sits where, and what one step asks of the judges: lines of the plan. Sizes are upper bounds or estimates, and say which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from faithful_rl.config import FaithfulRLConfig, JudgeConfig
from faithful_rl.preflight import machine

SENTENCE_TOKENS = 25  # of a reasoning's sentence, on average
INSTRUCTIONS = {"consistency": 360, "grounding": 520}  # tokens of a judge's prompt beside question, image and response: characters / 4
VERDICT_TOKENS = 16
OF_MODELS = ("openai", "vllm")  # backends that ask a language model


def judge_requests(typed: FaithfulRLConfig, rollouts: int) -> int:
    """Both judges see a rollout whose answer is right, also where nothing but metrics comes of it; a wrong one with `ask_masked`."""
    return rollouts * (2 if typed.judges.grounding_in_training else 1)


def judge_load(config: Mapping[str, Any], typed: FaithfulRLConfig) -> str:
    """Calls of language models and their tokens in one step, if every rollout is judged and none is cached; "" where no model judges."""
    data = config["data"]
    rollouts = data["train_batch_size"] * config["actor_rollout_ref"]["rollout"]["n"]
    response, prompt = data["max_response_length"], data["max_prompt_length"]
    calls = tokens = 0
    for name, judge in _asked(typed):
        if judge.backend not in OF_MODELS:
            continue
        each = INSTRUCTIONS[name] + response + VERDICT_TOKENS + (prompt if name == "grounding" else 0)  # an image counts in the prompt
        alone = name == "consistency" or judge.options.get("mode") == "per_rollout"
        number = 1 if alone else math.ceil(response / SENTENCE_TOKENS)
        calls, tokens = calls + rollouts * number, tokens + rollouts * number * each
    if not calls:
        return ""
    return f"at most {calls:,} model calls with {tokens:,} tokens, at {SENTENCE_TOKENS} tokens a sentence; cached prefixes count in full"


def _asked(typed: FaithfulRLConfig) -> list[tuple[str, JudgeConfig]]:
    """The run's own judges that training asks; a pool's are the pool's."""
    if typed.judges.pool:
        return []
    both = [("consistency", typed.judges.consistency), ("grounding", typed.judges.grounding)]
    return both if typed.judges.grounding_in_training else both[:1]


def seats(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """One line for each pool of bundles or named actor: how many, of what size, on which nodes, and who works in it."""
    slots = machine.required_slots(config, typed)
    inside = _inside(config, typed)
    lines = ["Ray places"]
    for group in slots.groups:
        custom = "".join(f" + {amount:g} {name}" for name, amount in group.resources)
        gpus = f" + {group.gpus:g} GPU" if group.gpus else ""
        if group.what in inside:
            bundles, per_bundle = int(group.gpus), group.cpus / max(1.0, group.gpus)
            size = f"{group.nodes} node(s) x {bundles} bundle(s) of {per_bundle:g} CPU + 1 GPU{custom}"
        else:
            size = f"{group.nodes} actor(s) of {group.cpus:g} CPU{gpus}{custom}, each on one node that has it"
        lines.append(f"  {group.what:<34}{size}{': ' + inside[group.what] if group.what in inside else ''}")
    if typed.judges.pool:
        lines.append(f"  {'judges':<34}in the pool {typed.judges.pool!r}, which holds resources of its own")
    units = config["transfer_queue"]["backend"]["SimpleStorage"]["num_data_storage_units"]
    where = typed.hardware.node_resource
    lines.append(f"  {'TransferQueue':<34}1 controller and {units} storage unit(s) on {f'nodes with {where}' if where else 'any nodes'}")
    lines.append(f"  {'driver':<34}1 actor on any node with a free CPU; this command's process starts and watches it")
    return lines


def _inside(config: Mapping[str, Any], typed: FaithfulRLConfig) -> dict[str, str]:
    """What works in the bundles of each pool."""
    rollout, actor = config["actor_rollout_ref"]["rollout"], config["actor_rollout_ref"]["actor"]
    size = math.prod(rollout[f"{name}_parallel_size"] for name in ("tensor_model", "data", "pipeline_model"))
    trainer = config["trainer"]
    workers = trainer["nnodes"] * trainer["n_gpus_per_node"]
    separate = trainer["v1"]["trainer_mode"] == "separate_async"
    servers = f"{rollout['nnodes'] * rollout['n_gpus_per_node'] // size if separate else workers // size} {rollout['name']} server(s)"
    servers += f" of {size} GPU(s)"
    here = [f"{workers} {actor['strategy']} rank(s)"]
    if not separate:
        here.append(f"{servers} on the same GPUs")
    if actor["use_kl_loss"] and typed.reference_policy.placement == "colocated":
        here.append("the reference policy in the same workers")
    return {
        "actor and rollout workers": ", ".join(here),
        "reference policy workers": "the reference policy alone",
        "rollout servers of their own": servers,
    }
