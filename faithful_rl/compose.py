"""Compose a recipe: verl's ppo_trainer tree, our typed node, the groups and `key=value` overrides.

verl is found on disk but not imported, so that help, `--cfg job` and mistakes in keys answer within a second.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from faithful_rl import overrides as entries
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.overrides import did_you_mean

RECIPES = Path(__file__).parent / "recipes"
PUZZLES_NAMED = ("train", "val", "test", "answers", "side", "prompt")  # settings of puzzles that stand in their folder's name
OWN_FILE = "file_of_the_user"  # what a file of constraints outside the package is called while a recipe is composed
MODEL_WORDS = ("2b", "3b", "7b", "72b", "tiny")  # last words of recipes' names, for a message
SUPERVISED = "sft_verl"  # the method whose recipes stand on verl's SFT tree instead of its RL tree


def attention(choice: str) -> str:
    """The kernels that `faithful_rl.hardware.attention` chooses: "auto" is flash-attn where it is installed, else PyTorch's own (sdpa)."""
    if choice != "auto":
        return choice
    return "flash_attention_2" if importlib.util.find_spec("flash_attn") else "sdpa"


def puzzles_folder(settings: DictConfig) -> str:
    """Folder of the puzzles of `faithful_rl.data.puzzles`: the main settings to be read, and 8 hexadecimal digits of all of them, so that
    other kinds or levels lie elsewhere."""
    plain = OmegaConf.to_container(settings, resolve=True)
    if not isinstance(plain, dict):
        raise TypeError("faithful_rl.data.puzzles is a mapping")
    plain.pop("directory")  # where the folder lies is no part of what is in it
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join([f"seed{plain['seed']}", *(str(plain[name]) for name in PUZZLES_NAMED), digest])


# For recipes: `${puzzles_folder:${faithful_rl.data.puzzles}}`, `${attention:auto}`, and whether sequences may be packed without padding,
# which only FlashAttention's kernels can.
OmegaConf.register_new_resolver("puzzles_folder", puzzles_folder, replace=True)
OmegaConf.register_new_resolver("attention", attention, replace=True)
OmegaConf.register_new_resolver("packed_sequences", lambda choice: attention(choice) == "flash_attention_2", replace=True)

# Nodes of verl's tree that take any key: they are handed on as keyword arguments.
OPEN_NODES = (
    "ray_kwargs.ray_init",
    "reward.custom_reward_function.reward_kwargs",
    "actor_rollout_ref.actor.megatron.override_transformer_config",
)
# Fields of verl's dataclasses that its yaml tree leaves out.
FIELDS_WITHOUT_YAML = frozenset(
    {
        "actor_rollout_ref.actor.fsdp_config.mixed_precision",
        "actor_rollout_ref.ref.fsdp_config.mixed_precision",
        "actor_rollout_ref.rollout.enable_sleep_mode",
        "engine.mixed_precision",
    }
)
# Keys whose default in verl is written as a whole number although fractions are meant.
FRACTIONS = frozenset(
    {"entropy_coeff", "top_p", "temperature", "over_sample_rate", "num_warmup_batches", "tau_pos", "tau_neg", "gamma", "lam"}
)
# Whole numbers whose default in verl is null.
WHOLE_NUMBERS = frozenset(
    {"total_training_steps", "ppo_micro_batch_size_per_gpu", "log_prob_micro_batch_size_per_gpu", "gen_batch_size", "seed", "num_cpus"}
)
# Keys that take one value or a list of them.
ONE_OR_MANY = frozenset({"train_files", "val_files", "logger", "save_contents", "load_contents", "target_modules"})


@dataclass(frozen=True)
class RecipeInfo:
    name: str
    description: str


def list_recipes() -> list[RecipeInfo]:
    """Recipes that ship with the package, by name; shared fragments (files without a description) are left out."""
    found = []
    for path in sorted((RECIPES / "recipe").glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8")).get("faithful_rl", {})
        if node.get("description"):
            found.append(RecipeInfo(path.stem, node["description"]))
    return found


def verl_config_dir() -> Path:
    """Folder of verl's trainer configs, without importing verl.

    Raises:
        ConfigError: if verl is not installed.
    """
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "installation",
            "no verl",
            "verl and its engines, which the base install leaves out",
            "Install an extra: pip install 'faithful_rl[cpu]' on a machine without a GPU, 'faithful_rl[gpu]' on one with CUDA.",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "trainer" / "config"


def compose_recipe(overrides: Sequence[str]) -> DictConfig:
    """The whole configuration of a run from overrides such as `recipe=fgrpo_tiny trainer.total_training_steps=5`; `constraints=` takes a
    file of the user's own too.

    Interpolations are kept; `faithful_rl` is still a node (see `config.from_node`).

    Raises:
        ConfigError: no or an unknown recipe, an unknown key, a value of the wrong type, an override that does not parse.
    """
    config_dir = verl_config_dir()
    _check_recipe_name(overrides)
    ConfigStore.instance().store(name="faithful_rl_schema", node=FaithfulRLConfig, package="faithful_rl", provider="faithful_rl")
    if _method(overrides) == SUPERVISED:
        composed = _compose("sft", overrides, config_dir)
        _check_against_verl(composed, _compose("sft_trainer_engine", [], config_dir))
        return composed
    additions = [word for word in overrides if entries.is_entry(word)]
    composed = _compose_main([word for word in overrides if word not in additions], config_dir)
    with open_dict(composed):
        composed.faithful_rl = entries.merged(composed.faithful_rl, additions)
    engine = composed.get("model_engine", "dp")
    if engine == "megatron" and composed.faithful_rl.hardware.world == "cpu":  # before keys of FSDP2 are called unknown to verl
        fix = "Leave it out, or choose a hardware group of the world gpu."
        raise ConfigError("training_engine", "'megatron'", "fsdp2, because the CPU world has only FSDP2", fix)
    _check_against_verl(composed, _verl_tree(engine, config_dir))
    return composed


def _method(overrides: Sequence[str]) -> str:
    """`faithful_rl.method` as the chosen recipe's own file says it: the base of the composition depends on it."""
    name = [override.split("=", 1)[1] for override in overrides if override.startswith("recipe=")][-1]
    node = yaml.safe_load((RECIPES / "recipe" / f"{name}.yaml").read_text(encoding="utf-8")).get("faithful_rl", {})
    return str(node.get("method", ""))


def _compose_main(overrides: Sequence[str], config_dir: Path) -> DictConfig:
    """`main` and a recipe; a file of constraints outside the package joins the group `constraints` under the name `OWN_FILE`."""
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("constraints=")]
    if not chosen or not entries.is_file(chosen[-1]):
        return _compose("main", overrides, config_dir)
    path = Path(chosen[-1]).expanduser()
    entries.read_constraints(path)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not re.match(r"#\s*@package", line)]
    words = [word for word in overrides if not word.startswith("constraints=")]
    with tempfile.TemporaryDirectory() as folder:
        group = Path(folder) / "constraints"
        group.mkdir()
        (group / f"{OWN_FILE}.yaml").write_text("\n".join(["# @package faithful_rl", *lines, ""]), encoding="utf-8")
        try:
            return _compose("main", [*words, f"constraints={OWN_FILE}"], config_dir, Path(folder))
        except ConfigError as error:
            raise ConfigError(error.key, f"{error.found} (in {path}, or beside it)", error.expected, error.fix) from error


@functools.lru_cache(maxsize=4)
def _verl_tree(engine: str, config_dir: Path) -> DictConfig:
    """verl's own tree without any of our settings; not to be changed by callers."""
    return _compose("ppo_trainer", [f"model_engine={engine}"], config_dir)


def _compose(name: str, overrides: Sequence[str], *folders: Path) -> DictConfig:
    """One of our trees, with further folders to search; or a tree of verl's own, in `folders[0]`."""
    GlobalHydra.instance().clear()
    try:
        if name in ("main", "sft"):
            searched = ",".join(f"file://{one}" for one in folders)
            overrides, folder = [f"hydra.searchpath=[{searched}]", *overrides], RECIPES
        else:
            folder = folders[0]
        with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
            composed: DictConfig = compose(name, overrides=list(overrides))
            return composed
    except OverrideParseException as error:
        raise ConfigError(
            "command line", repr(error.override), "key=value", "Quote values that hold spaces, commas or brackets."
        ) from error
    except (ConfigCompositionException, MissingConfigException) as error:
        raise _explain(error, overrides) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            "configuration", str(error).splitlines()[0], "a recipe that composes", "See --help for the groups and keys."
        ) from error
    finally:
        GlobalHydra.instance().clear()


def _check_recipe_name(overrides: Sequence[str]) -> None:
    names = [recipe.name for recipe in list_recipes()]
    chosen = [override.split("=", 1)[1] for override in overrides if override.startswith("recipe=")]
    if not chosen:
        raise ConfigError("recipe", "nothing", "one of " + _families(names), "Start with: python -m faithful_rl.main recipe=fgrpo_tiny")
    if chosen[-1] not in names:
        fix = f"{did_you_mean(chosen[-1], names)} There are {_families(names)}."
        raise ConfigError("recipe", repr(chosen[-1]), "the name of a recipe", fix)


def _families(names: Sequence[str]) -> str:
    """Names that differ in their last word only, told once: `grpo_(3b|7b|tiny)`."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem, _, last = name.rpartition("_")
        found.setdefault(stem if last in MODEL_WORDS else name, []).append(last)
    return ", ".join(
        stem if stem in names else f"{stem}_({'|'.join(lasts)})" if len(lasts) > 1 else f"{stem}_{lasts[0]}"
        for stem, lasts in found.items()
    )


def _explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Hydra's exception as our one message: which key, what was found, what is expected."""
    text = str(error)
    cause = error.__cause__
    group = re.search(r"Could not find '([^']+)'", text)
    if isinstance(error, MissingConfigException) and group:
        folder, _, choice = group.group(1).rpartition("/")
        known = sorted(path.stem for path in (RECIPES / folder).glob("*.yaml"))
        own = ", or a file of your own (constraints=FOLDER/NAME.yaml)" if folder == "constraints" else ""
        return ConfigError(folder or "group", repr(choice), "one of " + ", ".join(known) + own, did_you_mean(choice, known))
    key = next(
        (override.split("=", 1)[0] for override in overrides if f"'{override.split('=', 1)[0]}'" in text or override in text),
        "command line",
    )
    if isinstance(cause, ConfigKeyError) or "is not in struct" in text or "Could not override" in text:
        known = _sibling_keys(key)
        if key.rpartition(".")[2] in known:  # a mapping whose entries the user names
            return ConfigError(key, "entries that the recipe does not have", "a + before the key, which adds them", f"Write +{key}=...")
        return ConfigError(key, "a key that does not exist", "a key of the recipe's tree", did_you_mean(key.rpartition(".")[2], known))
    reason = str(cause or error).splitlines()[0]
    found = next((override.split("=", 1)[1] for override in overrides if override.split("=", 1)[0] == key), reason)
    return ConfigError(key, repr(found), f"a value of its type ({reason})", "Change the value.")


def _sibling_keys(key: str) -> list[str]:
    """Names next to `key` in the tree it was meant for; empty where even the parent is unknown."""
    if key.startswith("faithful_rl."):
        return entries.keys_beside(key)
    try:
        root = _verl_tree("dp", verl_config_dir())
        parent = OmegaConf.select(root, key.rpartition(".")[0]) if "." in key else root
    except (ConfigError, OmegaConfBaseException):
        return []
    return [str(name) for name in parent] if isinstance(parent, DictConfig) else []


def _leaves(node: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _check_against_verl(composed: DictConfig, base: DictConfig) -> None:
    """Refuse keys that verl's tree has not, and values whose type differs from verl's default, also in recipe files and behind `+`."""
    known = OmegaConf.to_container(base, resolve=False)
    mine = OmegaConf.to_container(composed, resolve=False)
    if not isinstance(known, dict) or not isinstance(mine, dict):
        raise TypeError("a composed configuration is a mapping")
    mine.pop("faithful_rl", None)
    for path, value in _leaves({str(name): child for name, child in mine.items()}):
        _check_leaf(path, value, known)


def _check_leaf(path: str, value: object, known: Mapping[Any, Any]) -> None:
    node: object = known
    walked: list[str] = []
    for part in path.split("."):
        if node is None or node == {} or ".".join(walked) in OPEN_NODES or not isinstance(node, Mapping):
            return  # an open node of verl's tree: whatever stands below is handed on
        if ".".join([*walked, part]) in FIELDS_WITHOUT_YAML:
            return
        if part not in node:
            siblings = [str(name) for name in node]
            raise ConfigError(path, "a key that verl does not have", "a key of verl's tree", did_you_mean(part, siblings))
        node = node[part]
        walked.append(part)
    expected = _type_problem(path.rpartition(".")[2], value, node)
    if expected:
        raise ConfigError(path, repr(value), expected, "Change the value.")


def _type_problem(name: str, value: object, default: object) -> str:
    """What type verl expects, or "" where the value fits or cannot be told (interpolations, null, missing)."""
    if value is None or (isinstance(value, str) and (value == "???" or "${" in value)):
        return ""
    if name in WHOLE_NUMBERS:
        default = 0
    if default is None or (isinstance(default, str) and (default == "???" or "${" in default)):
        return ""
    if name in ONE_OR_MANY and isinstance(value, str | list):
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int) and name not in FRACTIONS:
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if isinstance(default, int | float):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "text"
    if isinstance(default, list):
        return "" if isinstance(value, list) else "a list, such as [a,b]"
    return "" if isinstance(value, dict) else "a mapping"
