"""What `ray job submit` carries to a cluster: this checkout's code and nothing else, measured before it leaves.

Ray uploads a job's working directory to every node and refuses it, late, above its own limit. Here the files are chosen (data,
outputs and environments stay), counted, and copied to a folder of their own, so that what was measured is what is sent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from faithful_rl.config import ConfigError

LIMIT_MIB = 50.0
MIB = 2**20
# Folders of a checkout that no job needs, by path from its top; and names that are left out wherever they stand.
LEFT_OUT = ("data", "outputs", "checkpoints", "tests", "docs", "benchmarks", "cluster", "docker", "build", "dist")
LEFT_OUT_ANYWHERE = ("__pycache__", "node_modules", "venv", "env", "wandb", "tensorboard")
LEFT_OUT_SUFFIXES = (".pyc", ".log", ".egg-info")
NAMED = 10  # largest files of a refusal


def files(root: Path, left_out: Sequence[str] = LEFT_OUT) -> list[Path]:
    """Files to send, relative to `root`, in order. Hidden entries, links and `left_out` stay."""
    return sorted(_walk(root, root, frozenset(left_out)))


def _walk(root: Path, folder: Path, left_out: frozenset[str]) -> Iterator[Path]:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        relative = path.relative_to(root)
        skipped = entry.name.startswith(".") or entry.name in LEFT_OUT_ANYWHERE or entry.name.endswith(LEFT_OUT_SUFFIXES)
        if skipped or entry.is_symlink() or relative.as_posix() in left_out:
            continue
        if entry.is_dir():
            if not (path / "pyvenv.cfg").exists():  # an environment of any name
                yield from _walk(root, path, left_out)
        else:
            yield relative


def measure(root: Path, chosen: Sequence[Path], limit_mib: float = LIMIT_MIB) -> float:
    """Size of the files in MiB.

    Raises:
        ConfigError: they are larger than `limit_mib`; the message lists the largest.
    """
    sizes = {path: (root / path).stat().st_size for path in chosen}
    total = sum(sizes.values()) / MIB
    if total > limit_mib:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:NAMED]
        listed = "\n".join(f"  {sizes[path] / MIB:9.1f} MiB  {path}" for path in largest)
        raise ConfigError(
            "working directory",
            f"{total:.1f} MiB in {len(sizes)} files of {root}, the largest:\n{listed}\n",
            f"at most {limit_mib:g} MiB, because Ray sends it to every node",
            "Move data and models to storage that the nodes share, or into the image (upload=image sends nothing).",
        )
    return total


def stage(root: Path, chosen: Sequence[Path], folder: Path) -> None:
    """Copy the chosen files below `folder`."""
    for path in chosen:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, folder / path)
