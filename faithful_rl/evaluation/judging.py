"""The judges of an evaluation: none, the exact judge of scenes, a backend of our own, or a pool that serves already.

They are those of training, asked by the same requests; here they are asked about every response, right or wrong, because the inconsistency
rate is over all samples.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import yaml

from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeBackend, build_backend
from faithful_rl.judges.calibration.running import JUDGES, ask_backend
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict

NONE, POOL, BACKEND = "none", "pool", "backend"
EXACT = "scene"
SERVED_HERE = ("vllm", "classifier")  # they take the memory that the evaluated model has until it is done
Verdicts = tuple[Score, list[SentenceVerdict] | Score]
NOT_ASKED = Score(None, Reason.MASKED)


class Judging:
    """Both judges. `identity` says which ones they are, for verdicts that are kept; it is complete after `start`."""

    def __init__(self, config: Any, seconds: float) -> None:
        """Read the settings and check their keys; start nothing.

        Raises:
            ConfigError: `judges` is nothing that can judge, or a key of a backend is wrong.
        """
        self._seconds = seconds
        self.kind, self._settings = _read(config)
        self._backends: dict[str, JudgeBackend] = {}
        if self.kind == BACKEND:
            self._backends = {judge: build_backend(self._settings[judge]) for judge in JUDGES}
        self._ask: dict[str, Callable[[JudgeRequest], Awaitable[Any]]] = {}
        self._stack = AsyncExitStack()
        self.identity: dict[str, str] = {}
        self._requests = dict.fromkeys(JUDGES, 0)

    @property
    def late(self) -> bool:
        """Whether these judges start only when the evaluated model has ended."""
        return self.kind == BACKEND and any(self._settings[judge]["backend"] in SERVED_HERE for judge in JUDGES)

    @property
    def needs_images(self) -> bool:
        """Whether the grounding judge looks at images."""
        return self.kind == POOL or (self.kind == BACKEND and not self._exact("grounding"))

    def describe(self) -> dict[str, str]:
        """What each judge is, for people: backend and model, or the pool."""
        if self.kind == BACKEND:
            names = {judge: [self._settings[judge].get(key) for key in ("backend", "model", "mode")] for judge in JUDGES}
            return {judge: " ".join(str(name) for name in parts if name is not None) for judge, parts in names.items()}
        return dict.fromkeys(JUDGES, f"pool {self._settings['name']}" if self.kind == POOL else NONE)

    async def start(self) -> None:
        """Raises ConfigError where a judge does not come up: before a response is generated, unless `late`."""
        if self.kind == POOL:
            await self._find_pool()
        for judge, backend in self._backends.items():
            self._stack.push_async_callback(backend.close)
            await backend.start()
            if not await backend.healthy():
                raise ConfigError(f"judges.{judge}", f"{self.describe()[judge]}, which is not healthy", "a judge that answers", "Start it.")
            self._ask[judge] = ask_backend(backend, judge, self._seconds)
            self.identity[judge] = backend.version()

    async def close(self) -> None:
        await self._stack.aclose()

    async def judge(self, request: JudgeRequest, unread: Reason | None = None) -> Verdicts:
        """Both verdicts on one response; what was not measured is an unscored Score with its reason. Never raises for a judge's fault.

        Args:
            unread: why nobody could read the response's answer. What a reasoning entails cannot be compared with it then: consistency
                is not asked, and is unscored for that reason.
        """
        if self.kind == NONE:
            return NOT_ASKED, NOT_ASKED
        consistency, grounding = await asyncio.gather(*(self._one(judge, request, unread) for judge in JUDGES))
        if not isinstance(consistency, Score):
            consistency = Score(None, Reason.JUDGE_ERROR)
        return consistency, grounding

    async def _one(self, judge: str, request: JudgeRequest, unread: Reason | None) -> Any:
        if self._exact(judge) and not request.scene_json:
            return NOT_ASKED  # the exact judge knows scenes only
        if judge == "consistency" and unread is not None:
            return Score(None, unread)
        if judge == "consistency":  # judged from the text alone
            request = JudgeRequest(
                request.uid, request.question, request.options, request.reasoning, request.answer,
                scene_json=request.scene_json, dataset=request.dataset,
            )  # fmt: skip
        self._requests[judge] += 1
        return await self._ask[judge](request)

    def counts(self) -> dict[str, dict[str, int | None]]:
        """What each judge was asked since its start, by the names of `costs.COUNTS`; a pool's own counters hold other clients' too."""
        found: dict[str, dict[str, int | None]] = {}
        for judge, requests in self._requests.items():
            backend = self._backends.get(judge)
            used = None if backend is None else backend.usage()
            names = ("calls", "prompt_tokens", "completion_tokens", "cache_hits")
            found[judge] = {"requests": requests, **{name: None if used is None else int(getattr(used, name)) for name in names}}
        return found

    def _exact(self, judge: str) -> bool:
        return self.kind == BACKEND and self._settings[judge]["backend"] == EXACT

    async def _find_pool(self) -> None:
        name = str(self._settings["name"])
        try:  # by name: the evaluation works without Ray
            pool = importlib.import_module("faithful_rl.judge_pool.pool")
            client = importlib.import_module("faithful_rl.judge_pool.client")
        except ImportError as error:
            raise ConfigError("judges.pool", f"no Ray ({error})", "an installation with Ray", "Install the extra cpu or gpu.") from error
        await asyncio.to_thread(pool.connect)
        status = await asyncio.to_thread(pool.status, name)
        if status.description is None or not status.description.serving:
            raise ConfigError("judges.pool", f"{name!r}, which is not serving", "a pool that serves", "Serve it anew.")
        for judge in JUDGES:
            names = status.description.replicas.get(judge, [])
            versions = sorted({one.version for one in status.replicas if one.name in names and one.version})
            if len(versions) != 1:
                found = f"{len(versions)} versions of the {judge} judge in pool {name}"
                raise ConfigError("judges.pool", found, "one", "Serve the judge, or serve the pool anew.")
            self._ask[judge] = client.PoolClient(name, judge, self._seconds, "evaluate").ask
            self.identity[judge] = versions[0]


def _read(config: Any) -> tuple[str, dict[str, Any]]:
    """(kind, {"name": pool} or the settings of each judge)."""
    if isinstance(config, str):
        if config == NONE:
            return NONE, {}
        config = _file(config) if config.endswith((".yaml", ".yml")) else {"backend": config}
    if not isinstance(config, Mapping):
        expected = "none, scene, a YAML file, judges.pool=NAME, or judges.backend=NAME with its keys"
        raise ConfigError("judges", repr(config), expected, "Correct it.")
    if config.get("pool"):
        others = sorted(key for key in config if key != "pool")
        if others:
            raise ConfigError(f"judges.{others[0]}", "a setting beside judges.pool", "judges.pool alone", "The pool has its own settings.")
        return POOL, {"name": str(config["pool"])}
    shared = {str(key): value for key, value in config.items() if key not in JUDGES}
    settings = {}
    for judge in JUDGES:
        own = config.get(judge) or {}
        if not isinstance(own, Mapping):
            raise ConfigError(f"judges.{judge}", repr(own), f"judges.{judge}.KEY=VALUE", "Correct it.")
        settings[judge] = {**shared, **own}
        settings[judge]["judge"] = judge  # a backend may serve one of them only
    return BACKEND, settings


def _file(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("judges", f"{path} ({error})", "a YAML file with the judges' settings", "Correct it.") from error
