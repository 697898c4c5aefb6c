"""Settings of a vLLM judge server, typed and checked, and what becomes of them: the model's identity, arguments and environment.

Knows vLLM's command line and variables; imports neither vLLM nor torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.vllm_process import HOST

DTYPES = ("auto", "float32", "bfloat16", "float16", "half", "float")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "tekken.json")
# White space between the parts of a JSON answer is allowed otherwise, and a weak model can fill its answer with nothing else.
GUIDANCE = {"backend": "xgrammar", "disable_any_whitespace": True}
# Engine and worker in one process: `mp` makes two, which spin while they wait for each other. By class, because on a CPU vLLM turns the
# word `uni` back into `mp` to set the worker's OpenMP variables; `environment` has set them already.
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
OWNED_ARGUMENTS = (
    *("--model", "--host", "--port", "--uds", "--served-model-name", "--revision", "--dtype", "--max-model-len", "--seed", "--api-key"),
    *(
        "--gpu-memory-utilization",
        "--kv-cache-memory-bytes",
        "--tensor-parallel-size",
        "-tp",
        "--limit-mm-per-prompt",
        "--trust-remote-code",
        "--config",
    ),
    *("--enable-prefix-caching", "--no-enable-prefix-caching", "--generation-config", "--override-generation-config"),
    "--structured-outputs-config",
)

# What a training process may carry and a judge's server must not see: its choices for its own vLLM, its place among its ranks, keys.
_DROPPED = re.compile(
    r"(?:VLLM|VERL|RAY|FAITHFUL_RL|TORCHELASTIC|OMP|KMP|GOMP|TQ)_.*"
    r"|(?:LOCAL_|GROUP_|ROLE_)?(?:RANK|WORLD_SIZE)|MASTER_(?:ADDR|PORT)|PYTORCH_(?:CUDA_)?ALLOC_CONF"
    r"|(?!HF_|HUGGING_FACE_).*(?:API_KEY|_TOKEN|SECRET|PASSWORD)"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")
_SAMPLE_BYTES = 2**20  # of a large file's start and end that go into the fingerprint


@dataclass(frozen=True)
class VllmSettings:
    """One judge server. `key` is where these settings stand (`grounding`), for messages."""

    model: str  # directory, or hub id (organisation/name)
    revision: str | None = None  # of a hub model; null: its main branch, whatever that is when it is loaded
    dtype: str = "auto"  # auto: that of the checkpoint
    max_model_len: int | None = None  # tokens of prompt and verdict together, >= 1; null: what the model allows
    gpu_memory_utilization: float = 0.9  # share of each GPU's memory for weights and KV cache, in (0, 1]; unused on a CPU
    tensor_parallel_size: int = 1  # GPUs of this server, >= 1
    cpu_kv_cache_gib: float = 1.0  # GiB, > 0, taken at the start; unused on a GPU
    threads: int | None = None  # OpenMP threads of the server, >= 1; null: 1 on a CPU, the library's choice beside a GPU
    limit_mm_per_prompt: dict[str, int] = field(default_factory=dict)  # for example {image: 4}; empty: vLLM's own limits
    extra_args: list[str] = field(default_factory=list)  # further arguments of vLLM, one word an entry
    environment: dict[str, str] = field(default_factory=dict)  # variables of the server; VLLM_* of the owner do not reach it
    trust_remote_code: bool = False  # true runs Python that comes with the model
    start_timeout_seconds: float = 600.0  # > 0: until it must answer, loading included
    seed: int = 0
    log_directory: str | None = None  # for one log file per server; null: a new folder below the system's temporary one
    key: str = "vllm"

    def __post_init__(self) -> None:
        """Raises ConfigError for a value of the wrong type or out of range."""
        if not isinstance(self.model, str) or not self.model.strip():
            self._refuse("model", self.model, "a model directory or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct", "Set it.")
        if self.dtype not in DTYPES:
            self._refuse("dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        self._whole("max_model_len", 1, optional=True)
        self._whole("tensor_parallel_size", 1)
        self._whole("threads", 1, optional=True)
        self._whole("seed", 0)
        self._real("gpu_memory_utilization", 1.0, "a number > 0 and <= 1")
        self._real("cpu_kv_cache_gib", math.inf, "a finite number of GiB > 0")
        self._real("start_timeout_seconds", math.inf, "a finite number of seconds > 0")
        for name in ("revision", "log_directory"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                self._refuse(name, value, "text, or null")
        trust: Any = self.trust_remote_code
        if not isinstance(trust, bool):
            self._refuse("trust_remote_code", trust, "true or false")
        self._check_collections()

    def _check_collections(self) -> None:
        limits: Any = self.limit_mm_per_prompt
        if not isinstance(limits, Mapping) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in limits.values()):
            self._refuse("limit_mm_per_prompt", limits, "a mapping of modalities to whole numbers >= 0", "Write for example {image: 4}.")
        variables: Any = self.environment
        if not isinstance(variables, Mapping) or not all(isinstance(value, str) for value in variables.values()):
            self._refuse("environment", variables, "a mapping of names to text", "Put numbers in quotes.")
        words: Any = self.extra_args
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            self._refuse("extra_args", words, "a list of words", "Write for example ['--max-num-seqs', '64'].")
        for word in words:
            if re.split(r"[=.]", word, maxsplit=1)[0].replace("_", "-") in OWNED_ARGUMENTS:
                self._refuse("extra_args", word, "arguments that no other setting decides", "Remove it, and set the key of that name.")

    def _whole(self, name: str, low: int, optional: bool = False) -> None:
        value = getattr(self, name)
        if optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            self._refuse(name, value, f"a whole number >= {low}" + (", or null" if optional else ""))

    def _real(self, name: str, high: float, expected: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= high and math.isfinite(value)):
            self._refuse(name, value, expected)

    def _refuse(self, name: str, found: object, expected: str, fix: str = "") -> None:
        raise ConfigError(f"{self.key}.{name}", repr(found), expected, fix or f"Change {self.key}.{name}.")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The keys that a user may set."""
        return tuple(one.name for one in fields(cls) if one.name != "key")

    @classmethod
    def take(cls, settings: Mapping[str, Any], key: str) -> tuple[VllmSettings, dict[str, Any]]:
        """These settings out of a mapping that holds others too, and the others. A key without a value counts as absent.

        Raises:
            ConfigError: `model` is missing, or as the constructor.
        """
        own = {name: settings[name] for name in cls.names() if settings.get(name) is not None}
        own.setdefault("model", None)
        return cls(**own, key=key), {name: value for name, value in settings.items() if name not in cls.names()}

    def local_directory(self) -> Path | None:
        """The model's directory; None where `model` is a hub id.

        Raises:
            ConfigError: it is neither a directory nor written like a hub id.
        """
        folder = Path(self.model).expanduser()
        if folder.is_dir():
            return folder.resolve()
        if _HUB_ID.fullmatch(self.model):
            return None
        raise ConfigError(
            f"{self.key}.model",
            f"{self.model}, which is not a directory",
            "a model directory with config, weights and tokenizer, or a hub id (organisation/name)",
            "Download the model, or correct the path.",
        )

    def command(self, port: int, served_name: str, on_cpu: bool, host: str = HOST) -> list[str]:
        """Program and arguments of the server. `served_name`: as requests will name the model; `host`: the address that it listens on."""
        folder = self.local_directory()
        words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        words += ["--model", self.model if folder is None else str(folder), "--served-model-name", served_name]
        words += ["--host", host, "--port", str(port), "--seed", str(self.seed), "--dtype", self.dtype]
        words += ["--tensor-parallel-size", str(self.tensor_parallel_size)]
        words += ["--enable-prefix-caching"]
        # A checkpoint's own sampling defaults (a repetition penalty, say) would bend verdicts at temperature 0.
        words += ["--generation-config", "vllm"]
        words += ["--structured-outputs-config", json.dumps(GUIDANCE), "--disable-uvicorn-access-log"]
        if self.revision is not None:
            words += ["--revision", self.revision]
        if self.max_model_len is not None:
            words += ["--max-model-len", str(self.max_model_len)]
        if self.limit_mm_per_prompt:
            words += ["--limit-mm-per-prompt", json.dumps(dict(self.limit_mm_per_prompt), sort_keys=True)]
        if self.trust_remote_code:
            words += ["--trust-remote-code"]
        if on_cpu:
            words += ["--enforce-eager"]  # compiling takes minutes and a C++ compiler
            words += ["--kv-cache-memory-bytes", str(int(self.cpu_kv_cache_gib * 2**30))]  # VLLM_CPU_KVCACHE_SPACE knows whole GiB only
            if self.tensor_parallel_size == 1:
                words += ["--distributed-executor-backend", ONE_PROCESS]
        else:
            words += ["--gpu-memory-utilization", str(self.gpu_memory_utilization)]
        return words + list(self.extra_args)

    def server_environment(self, inherited: Mapping[str, str], on_cpu: bool) -> dict[str, str]:
        """The server's variables: the owner's without what belongs to training, ours, then the user's `environment`."""
        variables = {name: value for name, value in inherited.items() if not _DROPPED.fullmatch(name)}
        variables |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        threads = self.threads if self.threads is not None else (1 if on_cpu else None)
        if threads is not None:
            variables["OMP_NUM_THREADS"] = str(threads)
        if on_cpu:
            variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # two servers on one machine must not bind to the same core
            variables["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads must not burn cores that others need
        if self.local_directory() is not None:
            variables["HF_HUB_OFFLINE"] = "1"
        return variables | dict(self.environment)

    def served_name(self) -> str:
        """What requests call the model, and with it what caches and calibrations know it by: its name and 12 hexadecimal digits of what
        decides its verdicts (files or revision, number format, further arguments and variables).

        A directory counts by its content, so that a copy elsewhere is the same judge and a changed checkpoint another one.

        Raises:
            ConfigError: the directory lacks something that the server will need.
        """
        folder = self.local_directory()
        source = f"hub {self.model} {self.revision or 'main'}" if folder is None else f"files {fingerprint(folder, f'{self.key}.model')}"
        decides = [source, self.dtype, list(self.extra_args), dict(sorted(self.environment.items())), self.trust_remote_code]
        digest = hashlib.sha256(json.dumps(decides).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"{self.model if folder is None else folder.name}@{digest}"


def check_gpus(key: str, num_gpus: float, options: Mapping[str, Any]) -> None:
    """A server gets no more GPUs than Ray sets aside for its replica. Nothing is said of a replica for which none are set aside.

    Raises:
        ConfigError: `key` (`grounding`) names a judge that shards its model over more.
    """
    size = options.get("tensor_parallel_size") or 1
    if isinstance(size, int) and num_gpus > 0 and size > max(1.0, num_gpus):
        found = f"{num_gpus:g} for a replica of {key} with tensor_parallel_size {size}"
        raise ConfigError(f"{key}.num_gpus", found, f"at least {size}", f"Set {key}.num_gpus={size}, or lower tensor_parallel_size.")


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is its CPU build.

    Raises:
        ConfigError: no vLLM is installed.
    """
    versions = {}
    for name in ("vllm-cpu", "vllm"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if not versions:
        raise ConfigError("backend", "vllm", "an installed vLLM", "Install the extra cpu or gpu, or use backend: openai.")
    return "vllm-cpu" in versions or "cpu" in versions["vllm"]


def fingerprint(folder: Path, key: str) -> str:
    """SHA-256 (hex) over the names, sizes and content of a model's files; of files above 2 MiB over their first and last MiB.

    Raises:
        ConfigError: `key` names a directory without config, weights or tokenizer.
    """
    files = [*(folder / name for name in _weights(folder, key)), *sorted(folder.glob("*.json")), *sorted(folder.glob("*.jinja"))]
    files += [folder / name for name in ("tokenizer.model", "merges.txt") if (folder / name).is_file()]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode("utf-8", "surrogatepass"))
        with file.open("rb") as content:
            digest.update(content.read(_SAMPLE_BYTES))
            if size > _SAMPLE_BYTES:
                content.seek(max(_SAMPLE_BYTES, size - _SAMPLE_BYTES))
                digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _weights(folder: Path, key: str) -> list[str]:
    """Names of the weight files, after checking that config and tokenizer are there too."""
    _json(folder / "config.json", key)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        _incomplete(key, folder, "without a tokenizer", f"one of {', '.join(TOKENIZERS)} in it")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_json(index, key).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            _incomplete(key, folder, f"without {', '.join(missing) or 'any shard'}", f"every shard that {index.name} names")
        return names
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    if not names:
        _incomplete(key, folder, "without weights", "weights in *.safetensors; pickled ones (*.bin, *.pt) are not read")
    return names


def _json(file: Path, key: str) -> dict[str, Any]:
    try:
        node = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _incomplete(key, file.parent, f"without {file.name}", "a complete model directory")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(key, f"{file}, which is no JSON ({error})", "a JSON object", "Copy the model again.") from error
    if not isinstance(node, dict):
        raise ConfigError(key, f"{file}, which is no JSON object", "a JSON object", "Copy the model again.")
    return node


def _incomplete(key: str, folder: Path, lack: str, expected: str) -> None:
    raise ConfigError(key, f"{folder} {lack}", expected, "Copy the model again, or correct the path.")
