"""Verdicts that were given before: content addressed, in memory and on disk, shared between replicas and runs.

What is kept is the judge's word for one question ("CORRECT"), never a measurement: whoever reads it parses it again, as strictly as a
fresh answer. A disk that fails, is full, or holds something else than text costs hits and never a verdict.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.judges import options

logger = logging.getLogger("faithful_rl.judges")

BUSY_SECONDS = 1.0  # that SQLite waits for another process's lock; afterwards a look-up is a miss and a write is left out
PENDING_WRITES = 4096  # waiting for the disk; beyond it new verdicts are kept in memory only
WARN_EVERY = 1000  # failures of the disk: the first is logged, then each so many


def content_key(
    version: str,
    model: str,
    kind: str,
    messages: Sequence[Mapping[str, Any]],
    decoding: Mapping[str, Any],
    digests: Mapping[str, str] | None = None,
) -> str:
    """SHA-256 (hex) of everything that decides an answer.

    Args:
        version: of the prompts.
        kind: which question is asked (`consistency`, `sentence`, `rollout`).
        messages: as the chat gets them; an image counts by its content.
        decoding: temperature, length, allowed words.
        digests: digest by image URL, for those that are known; others are computed.
    """
    known = digests or {}

    def reduced(part: Any) -> Any:
        if not isinstance(part, Mapping) or part.get("type") != "image_url":
            return part
        url = str(part["image_url"]["url"])
        return {"image": known.get(url) or hashlib.sha256(url.encode()).hexdigest()}

    plain = []
    for message in messages:
        content = message["content"]
        plain.append([message["role"], content if isinstance(content, str) else [reduced(part) for part in content]])
    text = json.dumps([version, model, kind, plain, decoding], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class VerdictCache:
    """Text by key: a bounded memory of this process over an optional, bounded directory that several processes may share.

    The directory must lie on a local disk: SQLite's locks do not hold on network file systems.
    """

    def __init__(self, memory_entries: int = 100_000, directory: str | Path | None = None, size_limit_bytes: int = 512 * 2**20) -> None:
        """
        Args:
            memory_entries: least recently used ones go first; 0: no memory.
            directory: made when absent; None: memory only.
            size_limit_bytes: of the directory; beyond it the oldest verdicts go.

        Raises:
            ConfigError: a package is missing, or the directory cannot be used.
        """
        cachetools = options.require("cachetools", "the cache of verdicts")
        self._memory: MutableMapping[str, str] | None = cachetools.LRUCache(memory_entries) if memory_entries > 0 else None
        self._disk: Any = None if directory is None else _open(Path(directory), size_limit_bytes)
        # One thread: SQLite writes one at a time anyway, and the event loop must not wait for a disk.
        self._thread = None if directory is None else ThreadPoolExecutor(1, thread_name_prefix="judge-cache")
        self._pending = 0
        self._broken: tuple[type[Exception], ...] = _disk_errors() if directory is not None else ()
        self.disk_failures = 0

    def get(self, key: str) -> str | None:
        """The text, or None. Looks on disk too, and waits for it."""
        found = self.peek(key)
        return found if found is not None or self._disk is None else self._remember(key, self._read(key))

    def put(self, key: str, text: str) -> None:
        """Keep the text, also on disk, and wait for it."""
        self._remember(key, text)
        if self._disk is not None:
            self._write(key, text)

    def peek(self, key: str) -> str | None:
        """The text if it is in memory."""
        return None if self._memory is None else self._memory.get(key)

    async def lookup(self, key: str) -> str | None:
        """`get`, with the event loop free while the disk works."""
        found = self.peek(key)
        if found is not None or self._thread is None:
            return found
        return self._remember(key, await asyncio.get_running_loop().run_in_executor(self._thread, self._read, key))

    def store(self, key: str, text: str) -> None:
        """`put`, with the disk in the background."""
        self._remember(key, text)
        if self._thread is None or self._pending >= PENDING_WRITES:
            return
        self._pending += 1
        self._thread.submit(self._write, key, text).add_done_callback(self._written)

    def close(self) -> None:
        """Finish what is being written and let the directory go; safe to call again. Memory stays readable."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True)
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.close()

    def _remember(self, key: str, text: str | None) -> str | None:
        if text is not None and self._memory is not None:
            self._memory[key] = text
        return text

    def _read(self, key: str) -> str | None:
        found = self._tried(partial(self._disk.get, key))
        return found if isinstance(found, str) else None

    def _write(self, key: str, text: str) -> None:
        self._tried(partial(self._disk.set, key, text))

    def _written(self, _: Any) -> None:
        self._pending -= 1

    def _tried(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except self._broken as error:
            if self.disk_failures % WARN_EVERY == 0:
                logger.warning("cache of verdicts: %s: %s (%d failures so far)", type(error).__name__, error, self.disk_failures + 1)
            self.disk_failures += 1
            return None


def build_cache(settings: Mapping[str, Any]) -> VerdictCache:
    """From `cache: {memory_entries, directory, size_limit_mb}`.

    Raises:
        ConfigError: a key is unknown or wrong, or the directory cannot be used.
    """
    options.refuse_unknown(settings, ("memory_entries", "directory", "size_limit_mb"), "cache")
    directory = options.text(settings, "cache", "directory", "a directory, or null")
    return VerdictCache(
        options.whole(settings, "cache", "memory_entries", 100_000, 0),
        None if directory is None else Path(directory).expanduser(),
        options.whole(settings, "cache", "size_limit_mb", 512, 1) * 2**20,
    )


def _disk_errors() -> tuple[type[Exception], ...]:
    diskcache = options.require("diskcache", "cache.directory")
    # ValueError: text that is no JSON or no UTF-8, and what `TextDisk` refuses.
    return (OSError, ValueError, zlib.error, sqlite3.Error, diskcache.Timeout, RecursionError)


def _open(directory: Path, size_limit_bytes: int) -> Any:
    diskcache = options.require("diskcache", "cache.directory")

    plain: Any = diskcache.JSONDisk

    class TextDisk(plain):  # type: ignore[misc]
        """JSONDisk unpickles a row that says it is a pickle, and opens any file that a row names: a shared directory must do neither.

        Entries are small and lie in the database itself as compressed JSON; whatever else is found there is no entry of ours.
        """

        def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
            if mode != diskcache.core.MODE_RAW or not isinstance(value, bytes):
                raise ValueError("an entry of another form")
            return json.loads(zlib.decompress(value))

        def get(self, key: Any, raw: bool) -> Any:
            if not raw:
                raise ValueError("a key that is a pickle")
            return super().get(key, raw)

    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(f"no right to write into {directory}")
        return diskcache.Cache(str(directory), timeout=BUSY_SECONDS, disk=TextDisk, size_limit=size_limit_bytes, disk_min_file_size=2**30)
    except _disk_errors() as error:
        problem = f"{directory}, which cannot be used ({type(error).__name__}: {error})"
        fix = "Choose another directory, empty this one, or leave it out."
        raise ConfigError("cache.directory", problem, "a writable directory on a local disk", fix) from error
