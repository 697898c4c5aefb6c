"""Whether the endpoints of judges answer, for `mode=check`. Training asks each judge itself, before any worker starts."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from faithful_rl.config import FaithfulRLConfig

SECONDS = 3.0  # for one endpoint to take a connection
PORTS = {"http": 80, "https": 443}


def warnings(typed: FaithfulRLConfig) -> list[str]:
    """One line for each endpoint that takes no connection from here. No refusal: a cluster may reach what this machine cannot."""
    if typed.judges.pool:
        return []
    named: dict[str, list[str]] = {}
    for judge, own in (("consistency", typed.judges.consistency), ("grounding", typed.judges.grounding)):
        if own.backend == "openai":
            named.setdefault(str(own.options["base_url"]), []).append(judge)
    return [
        f"{url}, which judges {' and '.join(judges)}, takes no connection from here ({problem}). Start it, or correct options.base_url; "
        "all is well where only the cluster reaches it."
        for url, judges in named.items()
        if (problem := _problem(url))
    ]


def _problem(url: str) -> str:
    """Why no connection can be opened; "" where one can."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or PORTS.get(parts.scheme, 80)), timeout=SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
