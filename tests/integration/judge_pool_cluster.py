"""A Ray cluster for the tests of the pool, commands and drivers in processes of their own, and rollouts to ask about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from faithful_rl.judges.request import JudgeRequest

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 300.0  # for anything that a test waits for, on a busy machine


@contextmanager
def cluster(**options: Any) -> Iterator[str]:
    """A cluster that lives as long as the block, with this process as one of its drivers; yields its address."""
    folder = tempfile.mkdtemp(prefix="jp")  # pytest's folders are too long for Ray's sockets
    paths = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *([paths] if paths else [])])  # Ray's workers take it from here
    try:
        context = ray.init(
            address="local", include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20, _temp_dir=folder, **options
        )
        yield context.address_info["gcs_address"]
    finally:
        ray.shutdown()
        if paths is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = paths
        shutil.rmtree(folder, ignore_errors=True)


def judges(*words: str, address: str) -> subprocess.CompletedProcess[str]:
    """`python -m faithful_rl.judges WORDS --address ADDRESS` to its end."""
    command = [sys.executable, "-m", "faithful_rl.judges", *words, "--address", address]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=SECONDS, check=False)


def driver(code: str, address: str) -> Any:
    """Run `code` in a Ray driver of its own; it puts what it found in `found`, which comes back by JSON."""
    program = f"import json, ray\nray.init(address={address!r}, log_to_driver=False)\n{code}\nprint('FOUND', json.dumps(found))\n"
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.rsplit("FOUND ", 1)[1])


def requests(number: int, first: int = 0, images: int = 8) -> list[JudgeRequest]:
    """Rollouts about `images` different images, each with a reasoning of its own."""
    return [
        JudgeRequest(
            uid=f"q{index}",
            question="Is the red circle left of the blue square?",
            options=("yes", "no"),
            reasoning=f"The red circle is left of the blue square. There are {index} green triangles. So the answer is yes.",
            answer="A",
            images=(b"image %d" % (index % images),),
        )
        for index in range(first, first + number)
    ]
