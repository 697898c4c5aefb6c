"""Who answers: vLLM servers of our own, on this machine or on a Ray cluster, or endpoints that serve already."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import ray_fleet
from faithful_rl.evaluation.ray_fleet import ClusterChat, Serving
from faithful_rl.evaluation.settings import RAY, EvaluationSettings
from faithful_rl.judge_pool.owned_server import OwnedServer
from faithful_rl.judge_pool.vllm_process import HOST
from faithful_rl.judge_pool.vllm_settings import VllmSettings, runs_on_cpu
from faithful_rl.judges.chat import Chat
from faithful_rl.judges.openai_chat import OpenAIChat

KEY = "server"
ENDPOINT_SECONDS = 60.0  # for an endpoint that serves already to answer at the start
OWNED_KEYS = ("model", "max_model_len", "limit_mm_per_prompt", "log_directory")


@dataclass
class Fleet:
    """The model's replicas; each chat is one of them. `name` says which model answers, by its content where it is local."""

    name: str
    chats: list[Chat] = field(default_factory=list)
    servers: list[OwnedServer] = field(default_factory=list)
    group: ray_fleet.Group | None = None  # servers on a cluster
    gpus: float | None = None  # of all servers; None where they are not ours

    async def close(self) -> None:
        """End everything that was started; safe to call again."""
        chats, self.chats = self.chats, []
        servers, self.servers = self.servers, []
        group, self.group = self.group, None
        await asyncio.gather(*(chat.close() for chat in chats), return_exceptions=True)
        await asyncio.gather(*(server.close(keep_log=True) for server in servers), return_exceptions=True)
        if group is not None:
            await group.close()

    def why_gone(self) -> str:
        """What the logs of ended servers say most tellingly; "" while all live."""
        if self.group is not None:
            return "; ".join(chat.gone for chat in self.chats if isinstance(chat, ClusterChat) and chat.gone)
        ended = [server.process for server in self.servers if server.process is not None and not server.alive()]
        return "; ".join(f"{process.log.cause() or 'the server ended'} (log {process.log.path})" for process in ended)


def model_name(settings: EvaluationSettings) -> str:
    """What the evaluated model is called in files: name and digest of its content, or what the endpoint calls it; of predictions what the
    user calls it, else the name of their files.

    Raises:
        ConfigError: the model is no directory and no hub id, or a directory that lacks something.
    """
    if settings.predictions:
        stems = dict.fromkeys(Path(file).stem for file in settings.predictions.values())
        return settings.name or settings.model or " + ".join(stems)
    if settings.base_url:
        return settings.model
    return vllm_settings(settings, 1, Path()).served_name()


def check_model(settings: EvaluationSettings) -> None:
    """Look at a local model's files before anything is started.

    Raises:
        ConfigError: it has no chat template or one that is no template, or its positions are fewer than `context`.
    """
    if settings.predictions or settings.base_url:
        return
    folder = vllm_settings(settings, 1, Path()).local_directory()
    if folder is None:
        return
    template = _template(folder)
    if template is None:
        found = f"{folder} without a chat template"
        raise ConfigError("model", found, "chat_template.jinja, or one in tokenizer_config.json", "Add the template it was trained with.")
    try:
        if "generation %}" not in template:  # a tag of transformers' own, which plain Jinja does not know
            ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateError as error:
        raise ConfigError("model", f"{folder} with a chat template that is none ({error})", "a Jinja template", "Correct it.") from error
    positions = _positions(folder)
    if positions is not None and settings.context > positions:
        found = f"{settings.context} for a model of {positions} positions"
        raise ConfigError("context", found, f"at most {positions}", f"Set context={positions}, and max_new_tokens below it.")


def pixel_limits(settings: EvaluationSettings) -> tuple[int, int] | None:
    """(min, max) pixels of the resized image: those of the settings, else of the local model's processor; None where neither says."""
    if settings.min_pixels is not None and settings.max_pixels is not None:
        return settings.min_pixels, settings.max_pixels
    if settings.predictions or settings.base_url:
        return None
    folder = vllm_settings(settings, 1, Path()).local_directory()
    for name in ("preprocessor_config.json", "processor_config.json"):
        node = _json(folder / name) if folder is not None else {}
        node = node.get("image_processor", node)
        size = node.get("size") or {}
        found = (node.get("min_pixels", size.get("shortest_edge")), node.get("max_pixels", size.get("longest_edge")))
        if all(isinstance(value, int) for value in found):
            return int(found[0]), int(found[1])
    return None


def vllm_settings(settings: EvaluationSettings, images: int, logs: Path, devices: str = "") -> VllmSettings:
    """One replica's server. `images`: most images of a question; `devices`: what CUDA_VISIBLE_DEVICES will be, "" to leave it.

    Raises:
        ConfigError: a key of `server` is unknown, wrong, or belongs to another setting.
    """
    given = dict(settings.server)
    owned = [name for name in OWNED_KEYS if name in given]
    if owned:
        raise ConfigError(f"{KEY}.{owned[0]}", "a second value", "model, context and out, which decide it", "Remove it.")
    words = [str(word) for word in given.pop("extra_args", [])]
    if settings.min_pixels is not None:
        words += ["--mm-processor-kwargs", json.dumps({"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels})]
    variables = {str(name): str(value) for name, value in (given.pop("environment", {}) or {}).items()}
    if devices:
        variables["CUDA_VISIBLE_DEVICES"] = devices
    known = {
        **given,
        "model": settings.model,
        "max_model_len": settings.context,
        "limit_mm_per_prompt": {"image": images, "video": 0},
        "extra_args": words,
        "environment": variables,
        "log_directory": str(logs),
    }
    unknown = [name for name in known if name not in VllmSettings.names()]
    if unknown:
        raise ConfigError(f"{KEY}.{unknown[0]}", "an unknown key", f"one of {', '.join(VllmSettings.names())}", "Correct its name.")
    taken, _ = VllmSettings.take(known, KEY)
    return taken


def shares(settings: EvaluationSettings, on_cpu: bool) -> list[str]:
    """The devices of each replica, as CUDA_VISIBLE_DEVICES names them; "" on a CPU.

    Raises:
        ConfigError: fewer devices named than the replicas need.
    """
    if on_cpu:
        return [""] * settings.replicas
    each = int(settings.server.get("tensor_parallel_size", 1))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = settings.gpus or (visible.split(",") if visible else [str(index) for index in range(settings.replicas * each)])
    if len(named) < settings.replicas * each:
        need = f"{settings.replicas * each} for {settings.replicas} replicas of {each}"
        raise ConfigError("gpus", f"{len(named)} devices", need, "Name more of them, or lower replicas.")
    return [",".join(named[index * each : (index + 1) * each]) for index in range(settings.replicas)]


async def start_fleet(settings: EvaluationSettings, images: int, logs: Path) -> Fleet:
    """Start the servers, or find the endpoints, all at the same time.

    Raises:
        ConfigError: a server or endpoint that does not come up, with the reason; nothing is left running then.
    """
    fleet = Fleet(model_name(settings))
    try:
        if settings.base_url:
            fleet.chats = list(await asyncio.gather(*(_endpoint(settings, url) for url in settings.base_url)))
        elif settings.servers == RAY:
            await _start_on_cluster(settings, images, logs, fleet)
        else:
            on_cpu = runs_on_cpu()
            devices = shares(settings, on_cpu)
            fleet.gpus = 0.0 if on_cpu else float(sum(len(share.split(",")) for share in devices))
            owned = [vllm_settings(settings, images, logs / f"server-{index}", share) for index, share in enumerate(devices)]
            fleet.servers = [OwnedServer(one) for one in owned]
            async with asyncio.TaskGroup() as group:
                for server in fleet.servers:
                    group.create_task(_owned(settings, server, fleet))
    except ExceptionGroup as failures:
        await fleet.close()
        first = failures.exceptions[0]
        raise first from None
    except BaseException:
        await fleet.close()
        raise
    return fleet


async def check_cluster(settings: EvaluationSettings) -> None:
    """Where servers=ray: join the cluster and refuse one that is too small, before anything is started. Raises ConfigError."""
    if settings.servers == RAY:
        await ray_fleet.check(settings)


async def _start_on_cluster(settings: EvaluationSettings, images: int, logs: Path, fleet: Fleet) -> None:
    own = vllm_settings(settings, images, logs)
    folder = own.local_directory()
    if folder is not None:
        own = replace(own, model=str(folder))  # a relative path would be another one in an actor's folder
    group = fleet.group = await ray_fleet.open_group(settings, own, logs.absolute())
    fleet.gpus = settings.replicas * ray_fleet.gpus(settings)

    async def connect(serving: Serving) -> Chat:
        chat = _chat(settings, serving.url, serving.name, ENDPOINT_SECONDS, group.secret)
        try:
            await chat.start()
        except ConfigError as error:
            found = f"{serving.url}, which answers on its node and not to this machine ({error.found})"
            fix = "Start the command on a node of the cluster, or open the ports between its nodes and here."
            raise ConfigError("ray", found, "nodes whose addresses can be reached from here", fix) from error
        return chat

    fleet.chats.extend(ClusterChat(group, index, settings.ray.restarts, connect) for index in range(settings.replicas))
    async with asyncio.TaskGroup() as tasks:
        for chat in fleet.chats:
            tasks.create_task(chat.start())


async def _owned(settings: EvaluationSettings, server: OwnedServer, fleet: Fleet) -> None:
    async def connect(port: int, name: str, seconds: float) -> None:
        chat = _chat(settings, f"http://{HOST}:{port}/v1", name, seconds)
        await chat.start()
        fleet.chats.append(chat)

    await server.start(connect)


async def _endpoint(settings: EvaluationSettings, url: str) -> Chat:
    chat = _chat(settings, url, settings.model, ENDPOINT_SECONDS)
    await chat.start()
    return chat


def _chat(settings: EvaluationSettings, url: str, name: str, seconds: float, secret: str | None = None) -> OpenAIChat:
    return OpenAIChat(
        url,
        name,
        api_key_env=settings.api_key_env,
        guided="none",
        concurrency=settings.concurrency,
        start_timeout_seconds=seconds,
        probe=False,
        key="model",
        secret=secret,
    )


def _template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        found = _json(folder / name).get("chat_template")
        if found:
            return found if isinstance(found, str) else json.dumps(found)
    return None


def _positions(folder: Path) -> int | None:
    node = _json(folder / "config.json")
    found = (node.get("text_config") or node).get("max_position_embeddings")
    scaled = bool((node.get("text_config") or node).get("rope_scaling"))
    return found if isinstance(found, int) and not scaled else None


def _json(file: Path) -> Mapping[str, Any]:
    try:
        node = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return node if isinstance(node, dict) else {}
