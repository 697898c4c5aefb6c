"""Data sets that are generated from settings: made beside their place, renamed into it whole, and recognised by their manifest."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.manifest import MANIFEST, sha256

FIX = "Choose another directory or remove this one"


def existing_manifest(directory: Path, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a directory that holds exactly this data set; None where there is nothing yet.

    Args:
        head: what the manifest must begin with: data set, format version, settings.

    Raises:
        FileExistsError: the directory holds something else, or a file differs from its hash.
    """
    if not directory.exists() or not any(directory.iterdir()):
        return None
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileExistsError(f"{directory} is not empty and has no {MANIFEST}: it is not a finished data set. {FIX}") from None
    except json.JSONDecodeError as error:
        raise FileExistsError(f"{directory / MANIFEST} is not JSON ({error}). {FIX}") from error
    if not isinstance(manifest, dict) or any(manifest.get(key) != value for key, value in head.items()):
        raise FileExistsError(f"{directory} holds a data set of other settings or format: its manifest differs from {dict(head)}. {FIX}")
    for name, entry in manifest["files"].items():
        path = directory / name
        if not path.is_file() or sha256(path) != entry["sha256"]:
            raise FileExistsError(f"{path} is missing or differs from its hash in {MANIFEST}. {FIX}")
    return manifest


def write_once(directory: Path, head: Mapping[str, Any], write: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """Let `write` fill a folder and return name -> {rows, sha256}; add the manifest and rename the folder to `directory`, which must be
    absent or empty. Where another process has finished the same data set meanwhile, its copy stays and is returned.

    Raises:
        FileExistsError: the directory has come to hold something else.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        manifest = {**head, "files": dict(write(temporary))}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes it private
        try:
            if directory.exists():
                directory.rmdir()  # raises where it has come to hold something
            os.replace(temporary, directory)
        except OSError:
            finished = existing_manifest(directory, head)
            if finished is None:
                raise
            manifest = finished
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest
