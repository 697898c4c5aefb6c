"""The rollout viewer: its part of a report, and its page alone, as a file or served to this machine only.

A page with the viewer holds one script, ours, and its Content-Security-Policy allows that script by its hash and nothing else. The
rollouts travel as compressed base64, which no text of a model can leave; the script puts text into the page as text only.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from faithful_rl.report.viewer_data import Bundle, ViewedRun, collect
from faithful_rl.run_directory import EVALUATION, RUN, read_json

REPORT_LIMIT = 10_000  # rollouts inside a report; `python -m faithful_rl.report view` shows all of them


@dataclass(frozen=True)
class Part:
    """What a template needs for the viewer: `payload` (base64) and `script`, both safe to stand inside script elements."""

    payload: Markup
    script: Markup
    kept: int
    found: int
    images_left_out: int


def environment() -> Environment:
    """The templates of this package, with everything escaped."""
    return Environment(
        loader=PackageLoader("faithful_rl.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


@cache
def template_text(name: str) -> str:
    """A file beside the templates, as it is."""
    return resources.files("faithful_rl.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def policy(with_script: bool, images: str = "data:") -> str:
    """Content-Security-Policy of a page: no connection to anywhere, no script but ours."""
    script = f"; script-src '{script_hash()}'" if with_script else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src {images}; base-uri 'none'; form-action 'none'{script}"


@cache
def script_hash() -> str:
    """`sha256-...` of the script, as the policy names it."""
    digest = hashlib.sha256(template_text("viewer.js").encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def part(bundle: Bundle) -> Part:
    """The viewer of these rollouts."""
    text = json.dumps(bundle.data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    packed = gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)  # no time stamp: the same rollouts give the same page
    payload = Markup(base64.b64encode(packed).decode("ascii"))
    return Part(payload, Markup(template_text("viewer.js")), bundle.kept, bundle.found, bundle.left_out)


def page(runs: Sequence[ViewedRun], bundle: Bundle, images: str = "data:") -> str:
    """The viewer as a page of its own. `images` is the policy's source list for images."""
    shown = part(bundle)
    several = "models" if all(run.evaluation for run in runs) else "runs"
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} {several}"
    return (
        environment()
        .get_template("viewer.html.j2")
        .render(
            css=Markup(template_text("report.css") + template_text("viewer.css")),
            policy=policy(True, images),
            title=title,
            payload=shown.payload,
            script=shown.script,
        )
    )


def viewed(directories: Sequence[Path], names: Mapping[Path, str] | None = None) -> list[ViewedRun]:
    """Runs and evaluations with the names that readers see, each another one.

    Args:
        names: of evaluations that should not go by their model.

    Raises:
        FileNotFoundError: a directory holds neither a run nor an evaluation.
        ValueError: its record is no JSON.
    """
    found: list[ViewedRun] = []
    for directory in directories:
        record, summary = read_json(directory / RUN), read_json(directory / EVALUATION)
        if record:
            label = f"{record.get('recipe', directory.name)}, seed {record.get('seed', '?')}"
        elif summary:
            label = (names or {}).get(directory) or evaluation_name(summary, directory)
        else:
            expected = "the directory that a training or evaluation command printed"
            raise FileNotFoundError(f"{directory} holds no run ({RUN} is missing) and no evaluation ({EVALUATION}); give {expected}")
        taken = {run.label for run in found}
        found.append(ViewedRun(label if label not in taken else f"{label} ({directory.name})", directory, not record))
    return found


def evaluation_name(summary: Mapping[str, Any], directory: Path) -> str:
    """What an evaluation is called when nobody names it: its model's last path part, and its mode where that is not `reasoning`."""
    model = str(summary.get("model") or directory.name).rstrip("/").rsplit("/", 1)[-1]
    mode = str(summary.get("mode") or "reasoning")
    return model if mode == "reasoning" else f"{model}, {mode.replace('_', ' ')}"


def write(directories: Sequence[Path], out: Path, limit: int | None = None, names: Mapping[Path, str] | None = None) -> Path:
    """Write the viewer of these runs and evaluations to one file with everything in it; returns `out`.

    Raises:
        FileNotFoundError: a directory holds neither.
        ValueError: a rollout file is damaged.
    """
    runs = viewed(directories, names)
    write_page(out, page(runs, collect(runs, limit)))
    return out


def write_page(out: Path, text: str) -> None:
    """Write a page in one step: readers see the old one or all of the new one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(f".{out.name}.tmp")
    half.write_text(text, encoding="utf-8")
    os.replace(half, out)
