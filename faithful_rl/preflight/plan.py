"""What `mode=check` prints: who sits where, and how much one step asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faithful_rl.config import ConstraintConfig, FaithfulRLConfig
from faithful_rl.preflight import constraints as constraint_checks
from faithful_rl.preflight import endpoints, judges, machine, memory, placement, rows, steps
from faithful_rl.run_record import RunDirectory

PASSED = "every check passed, nothing was started."
SETTINGS_ONLY = "its settings fit together, nothing was started. What of the run is not on this machine was not looked at."


def plan(
    config: Mapping[str, Any], typed: FaithfulRLConfig, run: RunDirectory, notes: Sequence[str] | None = (), verdict: str = PASSED
) -> str:
    """A plan that a person can read, as plain text; model and data may be absent.

    Args:
        notes: lines of the checks that needed verl.
        verdict: what was found out, for the first line.
    """
    lines = [f"{typed.recipe}: {verdict}", "", f"output     {run.path} ({'resumes' if run.resumes else 'new'})"]
    if typed.method in ("sft", "sft_verl", "crm"):
        return "\n".join([*lines, *(notes or ())])
    constraints = ", ".join(_demand(name, constraint) for name, constraint in typed.constraints.items()) or "none"
    lines += [
        f"model      {config['actor_rollout_ref']['model']['path']}",
        f"data       {config['data']['train_files']}",
        *(notes or ()),
        f"steps      {_steps(config)}",
        *_one_step(config, typed),
        f"reference  {typed.reference_policy.placement}",
        f"advantage  {typed.advantage.kind}",
        f"constraints {constraints}",
        f"judges     {judges.described(typed)}",
        *(f"warning    {warning}" for warning in _warnings(config, typed)),
        "",
        *placement.seats(config, typed),
        "",
        "Ray reserves",
    ]
    slots = machine.required_slots(config, typed)
    lines += [f"  {what:<34}{cpus:>4} CPU {gpus:>3} GPU" for what, cpus, gpus in slots.parts]
    lines.append(f"  {'together':<34}{slots.cpus:>4} CPU {slots.gpus:>3} GPU")
    lines += memory.table(config, typed, Path(config["actor_rollout_ref"]["model"]["path"]))
    return "\n".join(lines)


def _one_step(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    prompts, group = config["data"]["train_batch_size"], config["actor_rollout_ref"]["rollout"]["n"]
    tokens = config["data"]["max_prompt_length"] + config["data"]["max_response_length"]
    load = placement.judge_load(config, typed)
    return [
        f"one step   {prompts} prompts x {group} rollouts = {prompts * group} rollouts, at most {prompts * group * tokens:,} tokens, "
        f"at most {placement.judge_requests(typed, prompts * group):,} judge requests",
        *([f"           {load}"] if load else []),
    ]


def _steps(config: Mapping[str, Any]) -> str:
    epochs = f" (trainer.total_epochs: {config['trainer']['total_epochs']})"
    told = config["trainer"]["total_training_steps"]
    if told is not None:
        return str(told)
    return f"{steps.planned(config)}{epochs}" if rows.present(config) else f"as many as data.train_files holds, which is not here{epochs}"


def _warnings(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    of_data = [*constraint_checks.warnings(config, typed), *steps.warnings(config)] if rows.present(config) else []
    return [*judges.warnings(typed), *endpoints.warnings(typed), *of_data, *steps.checkpoint_warnings(config)]


def _demand(name: str, constraint: ConstraintConfig) -> str:
    sign = ">=" if constraint.direction == "at_least" else "<="
    return f"{name} {sign} {constraint.threshold:g} ({constraint.multiplier.kind})"
