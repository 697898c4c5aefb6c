"""The token of a Ray cluster, for commands that join one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
BY_US = "FAITHFUL_RL_SHOWS_TOKEN"  # in the environment, so that child processes know it as well


def show_token(environment: MutableMapping[str, str] | None = None) -> bool:
    """Let this process show the token that the machine has to a cluster that it joins; returns whether it will.

    `ray start` asks everybody for the token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token as soon as there is one, and any
    earlier local run of Ray has made one. `ray.init(address=...)` shows it only where RAY_AUTH_MODE is `token` (Ray 2.60), and
    otherwise waits half a minute to find "no cluster". A cluster that asks for no token takes one that is shown.

    Ray reads the variable when it is imported, and its own local clusters would then be at odds with a process that imported it before:
    there, and where the user has set it, nothing is changed.
    """
    late = environment is None and "ray" in sys.modules
    environment = os.environ if environment is None else environment
    if MODE not in environment:
        if late:
            return False
        file = environment.get(TOKEN_FILE) or str(Path(environment.get("HOME", "~")).expanduser() / ".ray" / "auth_token")
        if not (environment.get(TOKEN) or Path(file).is_file()):
            return False
        environment[MODE] = "token"
        environment[BY_US] = "1"
    return environment[MODE].lower() == "token"


def ray_command(environment: Mapping[str, str] | None = None) -> str:
    """How the user's shell calls Ray's own program: it needs what `show_token` had to set for this process."""
    return f"{MODE}=token ray" if (os.environ if environment is None else environment).get(BY_US) else "ray"
