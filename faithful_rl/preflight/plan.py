"""What `mode=check` prints: who sits where, and how much one step asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faithful_rl.config import ConstraintConfig, FaithfulRLConfig
from faithful_rl.preflight import constraints as constraint_checks
from faithful_rl.preflight import endpoints, judges, machine, memory, steps
from faithful_rl.run_record import RunDirectory


def plan(config: Mapping[str, Any], typed: FaithfulRLConfig, run: RunDirectory, notes: Sequence[str] | None = ()) -> str:
    """A plan that a person can read, as plain text; `notes` are lines of the checks that needed verl."""
    lines = [
        f"{typed.recipe}: every check passed, nothing was started.",
        "",
        f"output     {run.path} ({'resumes' if run.resumes else 'new'})",
    ]
    if typed.method in ("sft", "sft_verl", "crm"):
        return "\n".join([*lines, *(notes or ())])
    rollout = config["actor_rollout_ref"]["rollout"]
    prompts, group = config["data"]["train_batch_size"], rollout["n"]
    tokens = config["data"]["max_prompt_length"] + config["data"]["max_response_length"]
    constraints = ", ".join(_demand(name, constraint) for name, constraint in typed.constraints.items()) or "none"
    lines += [
        f"model      {config['actor_rollout_ref']['model']['path']}",
        f"data       {config['data']['train_files']}",
        *(notes or ()),
        f"steps      {steps.planned(config)}{'' if config['trainer']['total_training_steps'] else _epochs(config)}",
        f"one step   {prompts} prompts x {group} rollouts = {prompts * group} rollouts, at most {prompts * group * tokens:,} tokens, "
        f"at most {_judge_calls(typed, prompts * group):,} judge requests",
        f"reference  {typed.reference_policy.placement}",
        f"advantage  {typed.advantage.kind}",
        f"constraints {constraints}",
        f"judges     {judges.described(typed)}",
        *(f"warning    {warning}" for warning in _warnings(config, typed)),
        "",
        "Ray reserves",
    ]
    slots = machine.required_slots(config, typed)
    lines += [f"  {what:<34}{cpus:>4} CPU {gpus:>3} GPU" for what, cpus, gpus in slots.parts]
    lines.append(f"  {'together':<34}{slots.cpus:>4} CPU {slots.gpus:>3} GPU")
    lines += memory.table(config, typed, Path(config["actor_rollout_ref"]["model"]["path"]))
    return "\n".join(lines)


def _warnings(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    return [*judges.warnings(typed), *endpoints.warnings(typed), *constraint_checks.warnings(config, typed), *steps.warnings(config)]


def _epochs(config: Mapping[str, Any]) -> str:
    return f" (trainer.total_epochs: {config['trainer']['total_epochs']})"


def _demand(name: str, constraint: ConstraintConfig) -> str:
    sign = ">=" if constraint.direction == "at_least" else "<="
    return f"{name} {sign} {constraint.threshold:g} ({constraint.multiplier.kind})"


def _judge_calls(typed: FaithfulRLConfig, rollouts: int) -> int:
    """Both judges see a rollout whose answer is right, also where nothing but metrics comes of it; a wrong one with `ask_masked`."""
    return rollouts * (2 if typed.judges.grounding_in_training else 1)
