"""Before a local model is served: whether its processor puts a known box where the figures about boxes will look for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import servers
from faithful_rl.evaluation.questions import TEXT_INSTEAD_OF_IMAGE
from faithful_rl.evaluation.settings import EvaluationSettings

logger = logging.getLogger(__name__)

PROGRAM = "faithful_rl.preflight.known_box"  # by name: it knows torch, and this package must not
ANSWER = "KNOWN_BOX "  # before its line of JSON
SECONDS = 300.0  # most of them to import the libraries


async def check(settings: EvaluationSettings, program: str = PROGRAM, seconds: float = SECONDS) -> None:
    """Push an image with a known box through the real processor of a local model, with the limits that its server will be given.

    Nothing is checked where nothing is served here, where the model is a hub id or sees no image, and where the libraries do not load:
    then a warning says so.

    Raises:
        ConfigError: the processor gives another size or place than `pixel_limits` predicts.
    """
    if settings.predictions or settings.base_url or settings.mode == TEXT_INSTEAD_OF_IMAGE:
        return
    folder, limits = servers.vllm_settings(settings, 1, Path()).local_directory(), servers.pixel_limits(settings)
    if folder is None or limits is None:
        return
    options = {} if settings.min_pixels is None else {"min_pixels": limits[0], "max_pixels": limits[1]}
    answer = await _ask({"model": str(folder), "limits": limits, "options": options}, program, seconds)
    if "skipped" in answer:
        logger.warning("boxes were not checked against the processor: %s", answer["skipped"])
    if "problem" in answer:
        found, expected = answer["problem"]
        fix = "Give min_pixels= and max_pixels= that its processor obeys, or correct the model's preprocessor_config.json."
        raise ConfigError("model", f"{folder}: {found}", expected, fix)


async def _ask(request: dict[str, Any], program: str, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", program, json.dumps(request), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds):
            said, told = await process.communicate()
    except TimeoutError:
        return {"skipped": f"no answer within {seconds:g} s"}
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    lines = [line for line in said.decode(errors="replace").splitlines() if line.startswith(ANSWER)]
    if not lines:
        last = (told.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return {"skipped": f"its processor does not load here ({last[:300]})"}
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix(ANSWER))
    return answer
