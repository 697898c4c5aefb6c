"""`manifest.json`: what a data set was made of. It is written last, so a directory with a manifest is complete.

It holds no time and no duration: the same inputs, settings and code give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.run_record import code_version

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 (hexadecimal) of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def source_files(location: Path, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the data files that a source reads (`Source.files`), by their path below `location`. Images that lie beside
    them are not hashed one by one."""
    return {
        path.name if location.is_file() else path.relative_to(location).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in files
    }


def build(kind: str, settings: Mapping[str, Any], sources: Mapping[str, Any], files: Mapping[str, Path], **more: Any) -> dict[str, Any]:
    """A manifest.

    Args:
        kind: what was made, such as `rl` or `sft`.
        settings: all that decides the bytes, JSON-able.
        sources: by name: licence, origin, revision, files with hashes, counts kept and dropped by reason.
        files: name -> finished file of this data set.
    """
    return {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "settings": dict(settings),
        "sources": dict(sources),
        "files": {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in sorted(files.items())},
        "code_version": code_version(),
        **more,
    }


def write(directory: Path, manifest: Mapping[str, Any]) -> Path:
    """Write `manifest.json` under its final name in one step."""
    path = directory / MANIFEST
    write_text(path, json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is complete whenever it exists."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read(directory: Path) -> dict[str, Any] | None:
    """The manifest of a directory, or None where there is none. Raises ConfigError where it is damaged."""
    path = directory / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"no manifest ({error})", "JSON", "Remove the directory and make the data again.") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version") if isinstance(manifest, dict) else type(manifest).__name__
        raise ConfigError(str(path), f"format {found}", f"format {FORMAT_VERSION}", "Remove the directory and make the data again.")
    return manifest


def intact(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Check every file of a data set against its hash. Raises ConfigError naming the first that is missing or differs."""
    for name, entry in manifest["files"].items():
        path = directory / name
        if not path.is_file() or sha256(path) != entry["sha256"]:
            fix = "Remove the directory and make the data again."
            raise ConfigError(str(path), "a file that is missing or differs", f"the hash in {MANIFEST}", fix)
