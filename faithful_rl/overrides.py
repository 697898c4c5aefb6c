"""Words of a command line that set entries of the user's own (constraints, weights), and files of constraints outside the package.

Hydra 1.3 changes what a recipe has below these mappings but adds no typed entry, nor a node where there was none (a multiplier's schedule);
such words are merged here, with or without a leading +, by `faithful_rl.main` and by the simulator alike.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from faithful_rl.config import ConfigError, ConstraintConfig, FaithfulRLConfig, ScheduleConfig

_ENTRY = re.compile(r"\+{0,2}faithful_rl\.(constraints|advantage\.weights)[.=]")
_COMPARISON = re.compile(r"(direction\s*[:=]\s*)([<>]=)")  # which Hydra's grammar only takes in quotes
GROUP = Path(__file__).parent / "recipes" / "constraints"
REQUIRED = ("threshold", "mask")  # of a constraint


def is_entry(word: str) -> bool:
    """Whether `merged` is for this word, which sets `faithful_rl.constraints...` or `faithful_rl.advantage.weights...`."""
    return _ENTRY.match(word) is not None


def merged(node: DictConfig, words: Sequence[str]) -> DictConfig:
    """The typed `faithful_rl` node with `faithful_rl.KEY=VALUE` words on top, later ones last. `node` is left as it is.

    Raises:
        ConfigError: a word that does not parse, a key that does not exist, a value of another type, or a constraint that the recipe does
            not have and that these words do not declare in full.
    """
    before, keys = set(node.constraints), list[str]()
    for word in words:
        key, value = _parsed(word)
        keys.append(key)
        entry = OmegaConf.create({})
        try:
            OmegaConf.update(entry, key.removeprefix("faithful_rl."), value)
            with open_dict(node):  # a struct, which takes no new entries
                node = OmegaConf.merge(node, entry)  # type: ignore[assignment]
        except OmegaConfBaseException as error:
            raise _explained(key, value, error) from error
    for name in node.constraints:
        if name not in before:
            _check_whole(str(name), node.constraints[name], keys, sorted(map(str, before)))
    return node


def is_file(choice: str) -> bool:
    """Whether a choice of a group is a path: it holds a / or ends in .yaml."""
    return "/" in choice or choice.endswith((".yaml", ".yml"))


def read_constraints(path: Path) -> dict[str, Any]:
    """A file of constraints: {constraints: {...}}, perhaps with `defaults` and other keys of the `faithful_rl` node.

    Raises:
        ConfigError: it is missing, no YAML, has other keys or values of another type, or builds on a file that the package has not.
    """
    example = "a YAML file with constraints: {NAME: {threshold: ..., mask: ...}}, such as those of faithful_rl/recipes/constraints"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigError("constraints", f"{path} ({why})", example, "Correct the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError("constraints", f"{path}, which is no YAML ({' '.join(str(error).split())})", example, "Correct it.") from error
    if not isinstance(found, dict) or not isinstance(found.get("constraints"), dict):
        raise ConfigError("constraints", f"{path} without a mapping constraints:", example, "Correct it.")
    known = ["defaults", *(field.name for field in fields(FaithfulRLConfig))]
    for key in found:
        if key not in known:
            fix = did_you_mean(str(key), known) if str(key) != "faithful_rl" else "Leave out faithful_rl: keys stand at the file's top."
            raise ConfigError("constraints", f"the key {key!r} in {path}", example, fix)
    if set(map(str, found.get("defaults") or [])) - {*packaged(), "_self_"}:
        fix = "Write defaults: [NAME, _self_]."
        raise ConfigError("constraints", f"defaults: {found['defaults']} in {path}", f"_self_ and some of {', '.join(packaged())}", fix)
    own = {str(key): value for key, value in found.items() if key != "defaults"}
    try:
        OmegaConf.merge(OmegaConf.structured(FaithfulRLConfig), own)
    except OmegaConfBaseException as error:
        told = _explained("faithful_rl.constraints", found["constraints"], error)
        raise ConfigError(told.key, f"{told.found} in {path}", told.expected, told.fix) from error
    return {str(key): value for key, value in found.items()}


def packaged() -> list[str]:
    """Names of the group `constraints` that ship with the package."""
    return sorted(path.stem for path in GROUP.glob("*.yaml"))


def did_you_mean(word: str, known: Sequence[str], otherwise: str = "See --help.") -> str:
    """The known word that is nearest to `word`, as a sentence; `otherwise` where none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else otherwise


def keys_beside(key: str) -> list[str]:
    """Names next to a key below `faithful_rl.`; empty where even the parent is unknown, or where names are the user's."""
    path = key.removeprefix("faithful_rl.")
    root: Any = OmegaConf.structured(FaithfulRLConfig)
    for mapping, of_entry in (("constraints", ConstraintConfig), ("advantage.weights", ScheduleConfig)):
        below = re.fullmatch(rf"{re.escape(mapping)}\.[^.]+\.(.+)", path)
        if below:
            root, path = OmegaConf.structured(of_entry), below.group(1)
    if path.startswith("multiplier.schedule."):  # unset by default
        root, path = OmegaConf.structured(ScheduleConfig), path.removeprefix("multiplier.schedule.")
    try:
        parent = OmegaConf.select(root, path.rpartition(".")[0]) if "." in path else root
    except OmegaConfBaseException:
        return []
    return [str(name) for name in parent] if isinstance(parent, DictConfig) else []


def _parsed(word: str) -> tuple[str, Any]:
    quoted = _COMPARISON.sub(r'\1"\2"', word)
    try:
        override = OverridesParser.create().parse_override(quoted)
    except HydraException as error:
        raise ConfigError("command line", repr(word), "key=value", "Quote values that hold spaces, commas or brackets.") from error
    key = str(override.key_or_group)
    if override.is_sweep_override():
        raise ConfigError(key, repr(word.partition("=")[2]), "one value", "A list is written [a,b].")
    return key, override.value()


def _explained(key: str, value: object, error: OmegaConfBaseException) -> ConfigError:
    """OmegaConf's exception as our one message: which key, what was found, what is expected."""
    within = (error.full_key or "").removeprefix("faithful_rl").lstrip(".")  # the node may stand in a tree or alone
    full = f"faithful_rl.{within}" if within else key
    reason = str(error.msg or error).splitlines()[0]
    if isinstance(error, ConfigKeyError):
        known = keys_beside(full)
        expected = f"one of {', '.join(known)}" if known else "a key of the recipe's tree"
        return ConfigError(full, "a key that does not exist", expected, did_you_mean(full.rpartition(".")[2], known))
    found = repr(value) if full == key else f"a problem ({reason})"
    return ConfigError(full, found, f"a value of its type ({reason})" if full == key else "a value of its type", "Change the value.")


def _check_whole(name: str, entry: DictConfig, keys: Sequence[str], known: Sequence[str]) -> None:
    """A constraint that only the command line names is declared there in full: else its name is probably misspelt."""
    wanting = [key for key in REQUIRED if OmegaConf.is_missing(entry, key)]
    if not wanting:
        return
    here = f"faithful_rl.constraints.{name}"
    given = next((key for key in keys if key == here or key.startswith(f"{here}.")), here)
    example = f"{here}={{threshold:...,mask:...}}"
    raise ConfigError(
        given,
        f"a constraint that the recipe does not have, without {' and '.join(wanting)}",
        f"one of {', '.join(known)}, or a new one declared in full" if known else "a new constraint declared in full",
        did_you_mean(name, known, f"Write '{example}'."),
    )
