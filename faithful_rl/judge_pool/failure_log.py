"""One structured line (JSON) per failure, without image data and without keys."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

LOGGER = logging.getLogger("faithful_rl.judges")
MESSAGE_LIMIT = 300  # characters
START_MESSAGE_LIMIT = 2000  # for why a backend did not start: the end of a server's log is the answer

_IMAGE = re.compile(r"data:[\w./+-]+;base64,[A-Za-z0-9+/=]*|[A-Za-z0-9+/=]{200,}")
_KEY = re.compile(r"(?i)\b(?:authorization|api[-_ ]?key)\W{1,5}(?:bearer\s+)?\S+|\bbearer\s+\S+|\bsk-[\w-]{6,}")


def clean(message: object, limit: int = MESSAGE_LIMIT) -> str:
    """Text of an error for a log or a status table: image data and whatever looks like a key are taken out, at most `limit` characters."""
    text = _KEY.sub("<key>", _IMAGE.sub("<image>", str(message)[: 64 * limit]))
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def log_failure(event: str, **fields: Any) -> str:
    """Write the line, as a warning; returns it. Text values are cleaned."""
    line = json.dumps(
        {"event": event, **{name: clean(value) if isinstance(value, str) else value for name, value in fields.items()}},
        ensure_ascii=False,
        sort_keys=True,
        default=clean,
    )
    LOGGER.warning("%s", line)
    return line
