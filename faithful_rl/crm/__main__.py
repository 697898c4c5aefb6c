"""`python -m faithful_rl.crm COMMAND key=value ...`: pairs from rollouts, and what a model is worth on them.

pairs data=FILE_OR_RUN[,...] out=FILE [questions=FILE] [label=own] [swap=true] [seed=0] [label.KEY=VALUE ...]
    Makes training pairs of rollouts (a run's directory, its rollouts/*.jsonl or heldout/*.jsonl, any JSON Lines or parquet with
    `response`, `question` and `options`). label=own takes the consistency column that the rollouts carry; any backend's name (scene,
    openai, vllm, classifier) asks that judge, with its keys as label.KEY. questions=FILE: the data file, for rollouts without questions.
    swap=true adds, for every consistent pair, the same thinking with another option as its answer, inconsistent.
evaluate model=DIR data=PAIRS[,...]
    Accuracy, AUROC, calibration error and kappa on pairs, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track

from faithful_rl.config import ConfigError
from faithful_rl.crm import files, pairs
from faithful_rl.judges import options
from faithful_rl.judges.backend import JudgeFailure, build_backend
from faithful_rl.judges.request import JudgeRequest

OWN = "own"
IN_FLIGHT = 64
TIMEOUT_SECONDS = 120.0  # for one question to a labelling judge


def make_pairs(words: Mapping[str, Any]) -> int:
    """The command `pairs`; returns how many were written.

    Raises:
        ConfigError: a key is missing, unknown or wrong, or no pair is left.
    """
    _known(words, ("data", "out", "questions", "label", "swap", "seed"), prefix="label.")
    data, out = _needed(words, "data"), _needed(words, "out")
    label, swap = str(words.get("label", OWN)), words.get("swap", False)
    questions = pairs.read_questions(words["questions"]) if words.get("questions") else None
    rows = pairs.read_rows(str(data).split(","))
    requests = [pairs.request_of(row, questions) for row in track(rows, "reading", console=Console(stderr=True), transient=True)]
    if label == OWN:
        labels = [pairs.own_label(row) for row in rows]
    else:
        own = {key.removeprefix("label."): value for key, value in words.items() if key.startswith("label.")}
        labels = asyncio.run(ask_judge({"backend": label, "judge": "consistency", **own}, requests))
    rng, found = Random(int(words.get("seed", 0))), []
    for request, value in zip(requests, labels, strict=True):
        if value is None:
            continue
        found.append(pairs.labelled(request, value, label))
        other = pairs.swapped(request, rng) if swap is True and value >= 0.5 else None
        if other is not None:
            found.append(pairs.labelled(other, 0.0, "swapped"))
    unique = list({(pair.question, pair.thinking, pair.answer): pair for pair in found}.values())
    if not unique:
        raise ConfigError("data", f"{len(rows)} rollouts without a label", "rollouts that a judge has scored", "Choose label=BACKEND.")
    pairs.write_pairs(unique, out)
    share = sum(pair.consistent >= 0.5 for pair in unique) / len(unique)
    print(f"{out}: {len(unique)} pairs of {len({pair.uid for pair in unique})} questions, {share:.1%} consistent, "
          f"{len(rows) - sum(value is not None for value in labels)} rollouts without a label")  # fmt: skip
    return len(unique)


async def ask_judge(settings: Mapping[str, Any], requests: Sequence[JudgeRequest]) -> list[float | None]:
    """A judge's consistency scores of some rollouts, None where it gave none.

    Raises:
        ConfigError: the judge cannot be built or started.
    """
    backend = build_backend(settings)
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(request: JudgeRequest) -> float | None:
        async with gate:
            try:
                return (await backend.consistency(request, TIMEOUT_SECONDS)).value
            except JudgeFailure:
                return None

    try:
        await backend.start()
        return list(await asyncio.gather(*map(one, requests)))
    finally:
        await backend.close()


def evaluate(words: Mapping[str, Any]) -> dict[str, Any]:
    """The command `evaluate`: the model's quality on pairs.

    Raises:
        ConfigError: a key is missing or unknown, or the model or the pairs cannot be read.
    """
    _known(words, ("model", "data"))
    found = files.check(str(_needed(words, "model")), "model")
    given = pairs.read_pairs(str(_needed(words, "data")).split(","))
    module = options.require("faithful_rl.crm.training", "evaluate")
    encoder = module.crm_model.load(found, "auto")
    result: dict[str, Any] = module.evaluate(encoder, given, found.max_length, found.temperature, found.threshold)
    return result


def _known(words: Mapping[str, Any], names: Sequence[str], prefix: str | None = None) -> None:
    for key in words:
        if key not in names and not (prefix and key.startswith(prefix)):
            raise ConfigError(key, "an unknown key", "one of " + ", ".join(names), "See --help.")


def _needed(words: Mapping[str, Any], key: str) -> Any:
    if not words.get(key):
        raise ConfigError(key, "nothing", "a path", f"Give {key}=...")
    return words[key]


def _words(arguments: Sequence[str]) -> dict[str, Any]:
    found = {}
    for argument in arguments:
        key, separator, _ = argument.partition("=")
        if not separator or not key:
            raise ConfigError("command line", repr(argument), "key=value", "See --help.")
        found[key] = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={argument.partition('=')[2]}"]))["value"]  # type: ignore[index, call-overload]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 for a command, key or file that is not right."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        words = _words(arguments[1:])
        if arguments[0] == "pairs":
            make_pairs(words)
        elif arguments[0] == "evaluate":
            print(json.dumps(evaluate(words), indent=2))
        else:
            raise ConfigError("command", repr(arguments[0]), "pairs or evaluate", "See --help.")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
