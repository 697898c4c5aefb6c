"""The judges as verl's custom reward function: task score and judge columns in a run that uses nothing else of faithful_rl.

    reward.custom_reward_function.path=pkg://faithful_rl.judges.reward
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.pool=default

The pool is served in the same Ray cluster by `python -m faithful_rl.judges serve`. Its name is taken from `reward_kwargs`, else from the
environment variable FAITHFUL_JUDGES of verl's workers, else it is `default`. Without a pool the judge columns are unscored.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from faithful_rl import response
from faithful_rl.geometry import smart_resize
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards import designs, suite
from faithful_rl.types import ParsedResponse, Score, ScoredRollout, SentenceVerdict

logger = logging.getLogger(__name__)

POOL_VARIABLE = "FAITHFUL_JUDGES"
DEFAULT_POOL = "default"


class Client(Protocol):
    """Whoever asks a judge: `faithful_rl.judge_pool.client.PoolClient`, or a test's double."""

    async def ask(self, request: JudgeRequest) -> Score | list[SentenceVerdict]: ...


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    pool: str | None = None,
    timeout_seconds: float | None = None,
    client: str | None = None,
    ask_masked: bool = False,
    design: str = "paper",
    **others: Any,
) -> dict[str, float]:
    """verl's signature. Returns `score`, the task reward in [0, 1], and `faithful_rl.rewards.suite.COLUMNS`: always the same keys,
    all finite numbers.

    Args:
        extra_info: `question`, and `options` with `gold_index` of a multiple choice question; `images` (encoded files or
            paths, in prompt order; verl passes the `images` column to no reward function) for a judge that looks at them, with
            `img_wh`, `min_pixels` and `max_pixels` when boxes are cited; `scene_json` for the exact judge.
        pool, timeout_seconds, client, ask_masked: from `reward_kwargs`; the pool's name, seconds for one rollout (default: the
            pool's), the name among which the pool shares fairly (default: the Ray job), and whether rollouts with a wrong answer are
            judged too.
        design: also from `reward_kwargs`; a name of `faithful_rl.rewards.designs.DESIGNS` makes the task reward that design's.

    Raises:
        KeyError: no such design.
        ValueError: the row itself is unusable (its truth and options contradict each other); never for a judge's fault.
    """
    name = pool or os.environ.get(POOL_VARIABLE) or DEFAULT_POOL
    clients = [_client(name, judge, timeout_seconds, client) for judge in ("consistency", "grounding")]
    chosen = designs.get(design)
    rollout = await score_response(solution_str, ground_truth, extra_info or {}, *clients, ask_masked=ask_masked, design=chosen)
    return {"score": float(rollout.scores["task"].value or 0.0), **suite.columns(rollout)}


async def score_response(
    text: str,
    ground_truth: str,
    extra_info: Mapping[str, Any],
    consistency: Client,
    grounding: Client,
    *,
    ask_masked: bool,
    design: designs.Design | None = None,
) -> ScoredRollout:
    """`score_parsed` of a response's text.

    Raises:
        ValueError: as `Reference.from_row`.
    """
    reference = suite.Reference.from_row({"ground_truth": ground_truth}, extra_info)
    parsed = response.parse(text, response.BLOCKS if design is None else design.blocks)
    return await score_parsed(parsed, reference, extra_info, consistency, grounding, ask_masked=ask_masked, design=design)


async def score_parsed(
    parsed: ParsedResponse,
    reference: suite.Reference,
    extra_info: Mapping[str, Any],
    consistency: Client,
    grounding: Client,
    *,
    ask_masked: bool,
    design: designs.Design | None = None,
    ask_grounding: bool = True,
) -> ScoredRollout:
    """Rules first; both judges at the same time where their verdicts can count, or always with `ask_masked`. Without `ask_grounding` the
    consistency judge alone, and R_S is masked."""
    scores = suite.rule_scores(parsed, reference, design)
    if not suite.needs_judge(scores, ask_masked):
        return suite.assemble(parsed, reference, scores)
    request = request_from(parsed, extra_info)
    # Consistency is judged from the text alone; what its judge cannot see need not travel to it.
    unseen = replace(request, images=(), frames=())
    if ask_grounding:
        verdict, sentences = await asyncio.gather(consistency.ask(unseen), grounding.ask(request))
    else:
        verdict, sentences = await consistency.ask(unseen), suite.MASKED
    if not isinstance(verdict, Score):
        raise TypeError(f"the consistency judge's verdict must be a Score, got {type(verdict).__name__}")
    return suite.assemble(parsed, reference, scores, verdict, sentences)


def request_from(parsed: ParsedResponse, extra_info: Mapping[str, Any]) -> JudgeRequest:
    """What the judges may see of one rollout; absent columns become empty. An image that cannot be read keeps its place, empty: a judge
    says so, and does not take the next one for it."""

    def text(key: str) -> str:
        value = extra_info.get(key)
        return "" if value is None else str(value)

    options = extra_info.get("options")
    found = extra_info.get("images")
    images = tuple(_encoded(image) for image in ([] if found is None else found))
    return JudgeRequest(
        uid=text("uid") or text("index"),
        question=text("question"),
        options=() if options is None else tuple(str(option) for option in options),
        reasoning=parsed.reasoning,
        answer=parsed.answer or "",
        images=images,
        scene_json=text("scene_json"),
        dataset=text("dataset"),
        frames=_frames(extra_info, len(images)),
    )


def _encoded(image: Any) -> bytes:
    """The bytes of an image file, from bytes, a path, or {"bytes": ..., "path": ...} as data files hold it; empty for anything else."""
    data = (image.get("bytes") or image.get("path")) if isinstance(image, Mapping) else image
    if isinstance(data, str) and data:
        try:
            return _read(data)
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            logger.warning("image %s cannot be read: %s", data, error)
            return b""
    return data if isinstance(data, bytes) else b""


@functools.lru_cache(maxsize=64)
def _read(path: str) -> bytes:
    """A group of rollouts shares its images: they are read once, and once more after a failure. Raises OSError, ValueError."""
    return Path(path.removeprefix("file://")).read_bytes()


def _frames(extra_info: Mapping[str, Any], images: int) -> tuple[tuple[int, int], ...]:
    """(width, height) of the policy's resized images, where the row knows them; its boxes are written in these pixels."""
    sizes = extra_info.get("img_wh")
    limits: dict[str, Any] = {key: extra_info.get(key) for key in ("min_pixels", "max_pixels")}
    if not images or sizes is None or len(sizes) != images or None in limits.values():
        return ()
    try:
        resized = [smart_resize(int(height), int(width), **{key: int(value) for key, value in limits.items()}) for width, height in sizes]
    except ValueError as error:  # sizes that no processor takes; the judge falls back to those of the files
        logger.warning("row uid=%s: extra_info.img_wh or pixel limits: %s", extra_info.get("uid"), error)
        return ()
    return tuple((width, height) for height, width in resized)


@functools.lru_cache(maxsize=64)
def _client(pool: str, judge: str, timeout_seconds: float | None, client: str | None) -> Client:
    """One client per process and setting, so that its knowledge of the replicas is kept between rollouts."""
    module = importlib.import_module("faithful_rl.judge_pool.client")  # by name: the judges' core does not know Ray
    made: Client = module.PoolClient(pool, judge, timeout_seconds, client)
    return made
