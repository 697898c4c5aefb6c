"""What a file or model was made of: the `manifest.json` beside it, and whether it is still the file that the manifest names.

Data sets, chains and models each write one, last. A stage that begins from another's result reads it, checks the hash, and repeats
what it says in its own manifest. Standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faithful_rl import run_directory
from faithful_rl.config import ConfigError

MANIFEST = "manifest.json"
# Larger ones are compared by size at start-up; the manifest still holds their hash for `sha256sum`.
HASH_UP_TO = 2 * 2**30
KEPT = ("dataset", "kind", "stage", "recipe", "settings", "sources", "counts", "data", "base_model", "steps")


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, None where there is none. Raises ConfigError for one that is no JSON object."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return run_directory.read_json(path)
    except ValueError as error:
        raise ConfigError(str(path), f"no manifest ({error})", "a JSON object", "Make the folder's content again.") from error


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    run_directory.write_json(folder / MANIFEST, dict(manifest))


def check(path: Path, key: str) -> dict[str, Any] | None:
    """The manifest of a data file or a model directory, after a look whether it speaks of these very files.

    Args:
        path: a file, or a directory whose manifest lists its files.
        key: the configuration key that named it, for the message.

    Raises:
        ConfigError: a listed file is missing, or has another size or hash.
    """
    folder = path if path.is_dir() else path.parent
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    listed = manifest.get("files")
    for name, entry in (listed if isinstance(listed, Mapping) else {}).items():
        file = folder / str(name)
        if (path.is_dir() or file == path) and isinstance(entry, Mapping):
            _check_file(file, entry, key)
    return manifest


def describe(path: Path, digest: bool = True) -> dict[str, Any]:
    """A file or model directory for the record of what is made from it: its name, a file's hash, and what its own manifest says."""
    manifest = read_manifest(path if path.is_dir() else path.parent) or {}
    said = {name: manifest[name] for name in KEPT if name in manifest}
    hashed = {"sha256": sha256(path)} if digest and path.is_file() else {}
    return {"name": path.name, **hashed, "manifest": said or None}


def _check_file(file: Path, entry: Mapping[str, Any], key: str) -> None:
    fix = f"Make it again; {MANIFEST} beside it says from what."
    if not file.is_file():
        raise ConfigError(key, f"no {file}, which {MANIFEST} lists", "every file of the manifest", fix)
    size = file.stat().st_size
    other = "bytes" in entry and size != entry["bytes"]
    if not other and "sha256" in entry and entry["sha256"] and size <= HASH_UP_TO:
        other = sha256(file) != entry["sha256"]
    if other:
        raise ConfigError(key, f"{file}, which differs from its {MANIFEST}", "the file that the manifest names", fix)
