"""`recipe=NAME`: several sources, each made into a pool, mixed by amounts into one RL data set with one manifest.

A recipe is a YAML file (`data_prep/recipes/NAME.yaml`, or a path):

    description: one line
    val_rows: 500                 # of the mixture, held out as val.parquet; default 0
    curation: {duplicates: true}  # steps between pools and mixture; without any a plain random sample of every pool is taken
    sources:
      sat: {amount: 15700, pool: 30000}

and, where another value than the default is wanted, `seed` (0), `reject_share` (0.01), `prompt` (think), `frame` (the limits pinned in
`data_prep.frames`), and of a source `source` (its name in the recipe), `pool` (all rows), `options` (the source's own). `in` is a local
path or a hub id with its full commit, `OWNER/NAME@COMMIT` (or the commit as `revision`). Every key may be overridden on the command
line: `sat.in=/data/SAT_train.parquet seed=1`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import yaml

from data_prep import manifest
from data_prep.curation.settings import read_settings, ready
from data_prep.frames import Frame, from_mapping
from data_prep.hub import recognised
from data_prep.lock import held
from data_prep.mixture import Selection, pool_file, write_dropped, write_mixture, write_rejects
from data_prep.prepare import Job, Progress, prepare
from data_prep.prompts import system_prompt
from data_prep.rejects import DEFAULT_SHARE
from data_prep.sources import get
from faithful_rl.config import ConfigError

FOLDER = Path(__file__).parent / "recipes"
POOLS = "pools"


@dataclass(frozen=True, slots=True)
class Part:
    """One source of a recipe: `amount` rows of the mixture, drawn from a pool of `pool` source rows (None: all of them)."""

    source: str
    location: str | None
    amount: int
    pool: int | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    description: str
    sources: Mapping[str, Part]
    seed: int = 0
    reject_share: float = DEFAULT_SHARE
    prompt: str = "think"
    frame: Frame = field(default_factory=Frame)
    val_rows: int = 0
    curation: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False  # a look at a few rows: a pool may give fewer than its amount

    def settings(self) -> dict[str, Any]:
        """All that decides the mixture besides the pools."""
        return {
            "recipe": self.name,
            "seed": self.seed,
            "prompt": self.prompt,
            "system_prompt": system_prompt(self.prompt),
            "frame": self.frame.as_dict(),
            "val_rows": self.val_rows,
            "curation": dict(self.curation),
            "amounts": {name: part.amount for name, part in self.sources.items()},
            "pools": {name: part.pool for name, part in self.sources.items()},
        }


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """The recipe called `name`, or the YAML file at that path, with dotted overrides such as `sat.in`.

    Raises:
        ConfigError: no such recipe, an unknown key, or a value of the wrong type.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError("recipe", name, f"one of {', '.join(names())}, or a YAML file", "Correct the name.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"no YAML ({error})", "a recipe", "Correct the file.") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("sources"), dict):
        raise ConfigError(str(path), "no mapping with sources", "a recipe", "See data_prep/recipe.py for its form.")
    for key, text in (overrides or {}).items():
        _override(tree, key, text)
    return _typed(path.stem, tree)


def run(recipe: Recipe, out: Path, *, limit: int | None = None, progress: Callable[[str], Progress] | None = None) -> dict[str, Any]:
    """Make every pool (`out/pools/NAME`), curate, mix, and write `train.parquet`, `val.parquet`, `rejects.jsonl`, `dropped.jsonl` and
    the manifest.

    What is finished is not done again. `limit` caps every amount and pool, for a quick look.

    Raises:
        ConfigError: a source without `in`, a pool with fewer usable rows than its amount, or what `prepare` raises.
    """
    if limit is not None:
        if limit < 1:
            raise ConfigError("limit", limit, "a whole number >= 1", "Correct or leave out limit=.")
        recipe = _limited(recipe, limit)
    missing = [name for name, part in recipe.sources.items() if not part.location]
    if missing:
        raise ConfigError(
            f"{missing[0]}.in", "nothing", "a local path or a hub id", f"Add {' '.join(f'{name}.in=PATH' for name in missing)}."
        )
    _check(recipe)
    # A finished one may lie where we may not write.
    with nullcontext() if manifest.read(out) is not None else held(out):
        return _made(recipe, out, progress)


def _made(recipe: Recipe, out: Path, progress: Callable[[str], Progress] | None) -> dict[str, Any]:
    pools: dict[str, Path] = {}
    made: dict[str, dict[str, Any]] = {}
    for name, part in recipe.sources.items():
        pools[name] = out / POOLS / name
        made[name] = prepare(_job(recipe, part, pools[name]), progress(name) if progress else None)
    existing = manifest.read(out)
    sources = {name: _source_entry(made[name]) for name in pools}
    if existing is not None:
        if existing.get("settings") != recipe.settings() or existing.get("sources") != sources:
            raise ConfigError("out", f"{out} with a mixture of other settings or sources", "another directory", "Choose another out=DIR.")
        manifest.intact(out, existing)
        return existing
    selection = _curated(recipe, pools, out, progress) if recipe.curation else plain_selection(recipe, pools, made)
    files = write_mixture(pools, selection, out, seed=recipe.seed, val_rows=recipe.val_rows)
    dropped = write_dropped(pools, selection, out)
    counts = {name: len(rows) for name, rows in selection.rows.items()}
    result = manifest.build(
        "rl",
        recipe.settings(),
        sources,
        {**{written.path.name: written.path for written in files}, **write_rejects(pools, out), dropped.name: dropped},
        rows={written.path.name: written.rows for written in files},
        chosen=counts,
        curation=dict(selection.report),
    )
    manifest.write(out, result)
    return result


def _check(recipe: Recipe) -> None:
    """What can be known before the first pool is made, so that a mistake in the last source costs no hours. Raises ConfigError."""
    system_prompt(recipe.prompt)
    if recipe.curation:
        ready(read_settings(recipe.curation))
    for name, part in recipe.sources.items():
        source = get(part.source)
        options = source.resolved(part.options)
        source.check_root(options, f"{name}.images")
        path, repo, _ = recognised(str(part.location), revision=part.revision, key=f"{name}.in")
        if repo is not None:
            continue
        try:
            source.files(path, options)
        except ConfigError as error:
            key = f"{name}.in" if error.key == "in" else error.key
            raise ConfigError(key, error.found, error.expected, error.fix) from error


def plain_selection(recipe: Recipe, pools: Mapping[str, Path], made: Mapping[str, Mapping[str, Any]]) -> Selection:
    """A random sample of every pool by the recipe's seed."""
    rows = {}
    for name, part in recipe.sources.items():
        kept = int(made[name]["rows"][pool_file(pools[name]).name])
        if not recipe.quick:
            _enough(name, part, kept)
        rows[name] = sorted(Random(f"mix/{recipe.seed}/{name}").sample(range(kept), min(kept, part.amount)))
    return Selection(rows)


def _curated(recipe: Recipe, pools: Mapping[str, Path], out: Path, progress: Callable[[str], Progress] | None) -> Selection:
    """Difficulty filter, representative sampling, de-duplication and contamination check: `data_prep.curation.pipeline.run`."""
    pipeline = importlib.import_module("data_prep.curation.pipeline")  # by name: it imports this module
    bars: dict[str, Progress] = {}

    def show(pool: str, done: int, total: int) -> None:
        if progress is not None:
            if pool not in bars:
                bars[pool] = progress(f"{pool}, rollouts")
            bars[pool](done, total)

    selection: Selection = pipeline.run(recipe, pools, out, progress=show)
    for name, rows in selection.rows.items():
        if sorted(set(rows)) != list(rows):
            raise ValueError(f"curation gave rows of {name} that are not ascending and distinct")
    return selection


def _enough(name: str, part: Part, kept: int) -> None:
    if kept < part.amount:
        raise ConfigError(
            f"{name}.amount", part.amount, f"at most the {kept} usable rows of its pool", f"Raise {name}.pool= or lower {name}.amount=."
        )


def _job(recipe: Recipe, part: Part, pool: Path) -> Job:
    return Job(
        source=part.source,
        location=str(part.location),
        out=pool,
        options=dict(part.options),
        seed=recipe.seed,
        sample=part.pool,
        prompt=recipe.prompt,
        frame=recipe.frame,
        reject_share=recipe.reject_share,
        revision=part.revision,
    )


def _source_entry(made: Mapping[str, Any]) -> dict[str, Any]:
    """A pool's one source, with the hash of the pool itself."""
    (entry,) = made["sources"].values()
    return {**entry, "pool_files": made["files"], "pool_settings": made["settings"]}


def _limited(recipe: Recipe, limit: int) -> Recipe:
    sources = {
        name: replace(part, amount=min(part.amount, limit), pool=min(part.pool or limit, limit)) for name, part in recipe.sources.items()
    }
    return replace(recipe, sources=sources, val_rows=min(recipe.val_rows, limit // 2), quick=True)


def _override(tree: dict[str, Any], key: str, text: str) -> None:
    *path, last = key.split(".")
    if path and path[0] in tree["sources"]:
        path = ["sources", *path]
        if len(path) == 2 and last not in ("in", "source", "amount", "pool", "revision", "options"):
            path.append("options")  # `vgr.images=...` is an option of the source
    node = tree
    for name in path:
        node = node.setdefault(name, {}) if isinstance(node, dict) else {}
        if not isinstance(node, dict):
            raise ConfigError(key, repr(node), "a key of the recipe", "Correct its name.")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(key, f"{text!r}, which is no YAML", "a value", "Correct it.") from error


def _typed(name: str, tree: dict[str, Any]) -> Recipe:
    known = {"description", "seed", "reject_share", "prompt", "frame", "val_rows", "curation", "sources"}
    unknown = sorted(set(tree) - known)
    if unknown:
        raise ConfigError(unknown[0], repr(tree[unknown[0]]), f"one of {', '.join(sorted(known))}, or SOURCE.KEY", "Correct its name.")
    sources = {key: _part(key, node) for key, node in tree["sources"].items()}
    return Recipe(
        name=name,
        description=str(tree.get("description", "")),
        sources=sources,
        seed=_number("seed", tree.get("seed", 0)),
        reject_share=_share(tree.get("reject_share", DEFAULT_SHARE)),
        prompt=str(tree.get("prompt", "think")),
        frame=from_mapping(_mapping("frame", tree.get("frame"))),
        val_rows=_number("val_rows", tree.get("val_rows", 0)),
        curation=_mapping("curation", tree.get("curation")),
    )


def _part(key: str, node: Any) -> Part:
    known = {"source", "in", "amount", "pool", "revision", "options"}
    if not isinstance(node, dict) or set(node) - known:
        found = sorted(set(node) - known) if isinstance(node, dict) else type(node).__name__
        raise ConfigError(f"sources.{key}", found, ", ".join(sorted(known)), "Correct the recipe.")
    amount, pool = _number(f"{key}.amount", node.get("amount")), node.get("pool")
    if amount < 1:
        raise ConfigError(f"{key}.amount", amount, "at least 1 row", "Correct it.")
    return Part(
        source=str(node.get("source", key)),
        location=None if node.get("in") is None else str(node["in"]),
        amount=amount,
        pool=None if pool is None else _number(f"{key}.pool", pool),
        revision=None if node.get("revision") is None else str(node["revision"]),
        options=_mapping(f"{key}.options", node.get("options")),
    )


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(key, repr(value), "keys and values", f"Give single keys as {key}.KEY=VALUE.")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError("reject_share", repr(value), "a share in [0, 1]", "Correct reject_share=.")
    return float(value)


def _number(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(key, repr(value), "a whole number >= 0", "Correct it.")
    return value
