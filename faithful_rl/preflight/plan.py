"""What `mode=check` prints: who sits where, and how much one step asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faithful_rl.config import FaithfulRLConfig
from faithful_rl.preflight import judges, machine
from faithful_rl.run_record import RunDirectory


def plan(config: Mapping[str, Any], typed: FaithfulRLConfig, run: RunDirectory) -> str:
    """A plan that a person can read, as plain text."""
    lines = [
        f"{typed.recipe}: every check passed, nothing was started.",
        "",
        f"output     {run.path} ({'resumes' if run.resumes else 'new'})",
    ]
    if typed.method == "sft":
        return "\n".join(lines)
    rollout = config["actor_rollout_ref"]["rollout"]
    prompts, group = config["data"]["train_batch_size"], rollout["n"]
    tokens = config["data"]["max_prompt_length"] + config["data"]["max_response_length"]
    constraints = ", ".join(f"{name} >= {c.threshold:g} ({c.multiplier.kind})" for name, c in typed.constraints.items()) or "none"
    lines += [
        f"model      {config['actor_rollout_ref']['model']['path']}",
        f"data       {config['data']['train_files']}",
        f"steps      {config['trainer']['total_training_steps'] or 'by epochs: ' + str(config['trainer']['total_epochs'])}",
        f"one step   {prompts} prompts x {group} rollouts = {prompts * group} rollouts, at most {prompts * group * tokens:,} tokens, "
        f"at most {_judge_calls(typed, prompts * group):,} judge requests",
        f"reference  {typed.reference_policy.placement}",
        f"constraints {constraints}",
        f"judges     {judges.described(typed)}",
        *(f"warning    {warning}" for warning in judges.warnings(typed)),
        "",
        "Ray reserves",
    ]
    slots = machine.required_slots(config, typed)
    lines += [f"  {what:<34}{cpus:>4} CPU {gpus:>3} GPU" for what, cpus, gpus in slots.parts]
    lines.append(f"  {'together':<34}{slots.cpus:>4} CPU {slots.gpus:>3} GPU")
    return "\n".join(lines)


def _judge_calls(typed: FaithfulRLConfig, rollouts: int) -> int:
    return 2 * rollouts if typed.constraints or typed.judges.ask_masked else 0
