"""Before supervised fine-tuning through verl: its data, its model, its batches, and the place where the model goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.mcts.chains import ChainSettings
from data_prep.mcts.questions import open_source
from data_prep.mcts.run import RunSettings
from data_prep.mcts.run import run as search
from data_prep.mcts.scene_teacher import SceneErrors, SceneTeacher
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from faithful_rl import provenance
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import machine, model_files, prompt_lengths, rows
from faithful_rl.supervised import model_dir, total_steps, train_files

COLUMNS = ("messages", "images")
PARAMETERS = 4  # copies of the weights in one checkpoint and its copy: weights, two moments of Adam, the Hugging Face directory
_TAG = re.compile(r"<image>")


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Everything that needs neither torch nor a GPU; makes the chains of a recipe on synthetic scenes.

    Raises:
        ConfigError: naming the first thing that is wrong.
    """
    trainer = config["trainer"]
    if trainer["nnodes"] != 1:
        fix = "Start `torchrun -m faithful_rl.verl_plugin.sft_rank CONFIG` on each node yourself, with the sft.yaml of a one-node start."
        raise ConfigError("trainer.nnodes", trainer["nnodes"], "1: this command starts the ranks of one machine", fix)
    target = model_dir(typed, Path(typed.output_dir))
    if target.exists():
        raise ConfigError(
            "faithful_rl.sft.model_dir",
            f"{target}, which exists",
            "a new directory for the finished model",
            "Remove it, or choose another one.",
        )
    path = Path(config["model"]["path"])
    model_bytes = _check_model(path)
    provenance.check(path, "model.path")
    _check_disk(typed, model_bytes)
    if typed.data.source == "scenes":
        prepare_chains(Path(config["data"]["train_files"]).parent, typed)
    for file in train_files(config):
        _check_file(file, typed.data.check_rows)
        provenance.check(file, "data.train_files")
    total_steps(config)


def _check_model(path: Path) -> int:
    try:
        return model_files.check(str(path))
    except ConfigError as error:
        if error.key != model_files.KEY:
            raise
        raise ConfigError("model.path", error.found, error.expected, error.fix) from error


def prepare_chains(folder: Path, typed: FaithfulRLConfig) -> None:
    """Search chains about synthetic scenes with the scripted teacher, where they are not there yet.

    Direct chains only: the exact judge of scenes calls a chain that takes a wrong turn and comes back inconsistent.

    Raises:
        ConfigError: other data lies in their place.
    """
    sizes = typed.data.scenes
    scenes = Path(sizes.directory) / f"seed{sizes.seed}-{sizes.train}-{sizes.val}-{sizes.test}"
    try:
        write_scenes(scenes, SceneDataSettings(seed=sizes.seed, train=sizes.train, val=sizes.val, test=sizes.test))
    except FileExistsError as error:
        raise ConfigError("faithful_rl.data.scenes.directory", "data that is not the recipe's", "the generator's", f"{error}.") from error
    if provenance.read_manifest(folder) is None:
        errors = SceneErrors(quarter=0.0)
        described = {"kind": "scene", "fact": errors.fact, "quarter": errors.quarter}
        search(open_source(scenes), folder, SceneTeacher(errors), RunSettings(chains=ChainSettings(corrected=0), pages=3), described)


def plan(config: Mapping[str, Any], typed: FaithfulRLConfig, run_dir: Path) -> list[str]:
    """Lines for `mode=check`."""
    data, trainer, frozen = config["data"], config["trainer"], config["model"]["override_config"]
    trained = "language model" + (" and projector" if frozen.get("train_projector") else "")
    return [
        f"model      {config['model']['path']} -> {model_dir(typed, run_dir)}",
        f"data       {data['train_files']}",
        f"steps      {total_steps(config)} of {data['train_batch_size']} rows, {trainer['n_gpus_per_node']} rank(s)",
        f"trained    {trained if frozen.get('freeze_vision_tower') else 'everything'}",
    ]


def check_lengths(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """Whole conversations against `data.max_length` with the model's real processor; returns a line for the plan.

    verl's trainer raises at the first longer one, hours into a run. `faithful_rl.data.check_rows` rows of each file are measured.

    Raises:
        ConfigError: a row that is too long.
    """
    allowed = config["data"]["max_length"]
    measured = prompt_lengths.Measure(*prompt_lengths._load(str(config["model"]["path"])), config)
    longest = (0, "")
    for file in train_files(config):
        for number, row in rows._rows(pq.ParquetFile(file), typed.data.check_rows, COLUMNS):
            longest = max(longest, (measured.computed({"prompt": row["messages"], "images": row["images"]}), f"row {number} of {file}"))
    if longest[0] > allowed:
        found = f"{allowed}, and {longest[1]} has about {longest[0]} tokens, images included"
        fix = "Raise it, lower the images' max_pixels, or leave such rows out."
        raise ConfigError("data.max_length", found, f"at least {longest[0]}", fix)
    return [f"lengths    at most about {longest[0]} of {allowed} tokens, images included"]


def _check_disk(typed: FaithfulRLConfig, model_bytes: int) -> None:
    """Checkpoints hold float32: twice the size of weights in bfloat16. The old one goes only after the new one is there."""
    machine.check_free(typed, 2 * PARAMETERS * 2 * model_bytes)


def _check_file(path: Path, limit: int) -> None:
    if not path.is_file():
        fix = "Make it: `python -m data_prep mcts`, or a source with format=sft."
        raise ConfigError("data.train_files", f"{path}, which does not exist", "an SFT parquet file", fix)
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing or not file.metadata.num_rows:
            found = f"{path} {'without ' + ', '.join(missing) if missing else 'without rows'}"
            raise ConfigError("data.train_files", found, "rows with messages and images", "Make it with format=sft.")
        for number, row in rows._rows(file, limit, COLUMNS):
            _check_row(row["messages"] or [], row["images"] or [], f"{path}, row {number}")
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError("data.train_files", f"{path}, which is damaged ({error})", "a parquet file", "Make it again.") from error


def _check_row(messages: Sequence[Mapping[str, Any]], images: Sequence[Any], where: str) -> None:
    key = "data.train_files"
    if not messages or messages[-1]["role"] != "assistant" or not str(messages[-1]["content"]).strip():
        raise ConfigError(key, f"no answer of the assistant at the end of {where}", "a chain to learn", "Make the file again.")
    tags = sum(len(_TAG.findall(str(message["content"]))) for message in messages)
    if tags != len(images):
        raise ConfigError(key, f"{tags} <image> tag(s) for {len(images)} image(s) in {where}", "one tag for each image", "Correct the row.")
    for image in images:
        rows._check_image(image, where, key)
