"""The token of a Ray cluster, for commands that join one."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
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
        file = Path(environment.get(TOKEN_FILE) or _default_file(environment))
        if not (environment.get(TOKEN) or file.is_file()):
            return False
        environment[MODE] = "token"
        environment[BY_US] = "1"
    return environment[MODE].lower() == "token"


def make_token(environment: Mapping[str, str] | None = None) -> None:
    """Make the token of a machine that has none, before a local Ray is started; processes that do it at once agree on one.

    Ray's first local cluster makes one as well, but two that start together overwrite each other's: both have children that show another
    token than their parent, fail after half a minute or wait for ever (Ray 2.60, `generate_and_save_token`). Can go when Ray writes it
    once. Where the user says how Ray finds its token, or that there is none, nothing is made.
    """
    environment = os.environ if environment is None else environment
    if environment.get(MODE, "token").lower() != "token" or environment.get(TOKEN) or environment.get(TOKEN_FILE):
        return
    file = _default_file(environment)
    if file.exists():
        return
    with contextlib.suppress(OSError):  # another process was first; or the folder takes no file or no link, which Ray can say better
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix="auth_token.", encoding="ascii") as draft:  # for its owner only
            draft.write(secrets.token_hex(32))
            draft.flush()
            os.link(draft.name, file)  # all of it or nothing, and never over another


def _default_file(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME", "~")).expanduser() / ".ray" / "auth_token"


def ray_command(environment: Mapping[str, str] | None = None) -> str:
    """How the user's shell calls Ray's own program: it needs what `show_token` had to set for this process."""
    return f"{MODE}=token ray" if (os.environ if environment is None else environment).get(BY_US) else "ray"
