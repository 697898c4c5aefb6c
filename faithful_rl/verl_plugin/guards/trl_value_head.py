"""verl beside a TRL that no longer has the model verl patches.

verl patches TRL's `AutoModelForCausalLMWithValueHead` in every training engine as soon as any TRL is
installed, needed (critics) or not. Recent TRL releases dropped the class and verl's engines die with
ImportError. We answer verl's question "is TRL available?" by whether that class can be imported.

Can go when verl imports the class only for critics, or asks for the class instead of the package.
"""

from __future__ import annotations

import importlib
from types import ModuleType

NAME = "AutoModelForCausalLMWithValueHead"


def has_value_head_model() -> bool:
    """Whether the installed TRL still has the class, at either of the two places where verl looks for it."""
    for place in ("trl.experimental.ppo", "trl"):
        try:
            if hasattr(importlib.import_module(place), NAME):
                return True
        except ImportError:
            continue
    return False


def apply(import_utils: ModuleType) -> None:
    """Replace `verl.utils.import_utils.is_trl_available`; modules that use it import it by name later."""
    import_utils.is_trl_available = has_value_head_model  # type: ignore[attr-defined]
