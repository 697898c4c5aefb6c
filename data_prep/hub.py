"""A source's location: a local path, or a data set of the Hugging Face hub at a pinned revision, through huggingface_hub only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faithful_rl.config import ConfigError

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS_FOR_METADATA = 30.0


@dataclass(frozen=True, slots=True)
class Located:
    """Where a source lies: `path` on this machine, `origin` as it was asked for, `revision` (40 hexadecimal digits) or None if local."""

    path: Path
    origin: str
    revision: str | None


def locate(
    location: str, *, revision: str | None = None, files: Sequence[str] | None = None, pinned: bool = False, key: str = "in"
) -> Located:
    """The local path of `location`: an existing file or directory, or `OWNER/NAME[@REVISION]` fetched from the hub.

    A download that was cut goes on where it stopped (the hub's cache keeps partial files). The manifest always gets the commit.

    Args:
        revision: commit, branch or tag; may also stand behind `@`.
        files: patterns of the files to fetch; None: all.
        pinned: refuse a revision that is not a full commit (recipes are pinned).

    Raises:
        ConfigError: no such path, no such data set, no access, no network, or a revision that is not pinned.
    """
    path, match, wanted = recognised(location, revision=revision, pinned=pinned, key=key)
    if match is None:
        return Located(path, location, None)
    fetched = _snapshot(match["repo"], wanted, files, key)
    # The cache's folder is named by the commit, whatever branch or tag was asked for.
    return Located(fetched, match["repo"], fetched.name if _COMMIT.fullmatch(fetched.name) else wanted)


def recognised(
    location: str, *, revision: str | None = None, pinned: bool = False, key: str = "in"
) -> tuple[Path, re.Match[str] | None, str | None]:
    """(local path, hub id or None where the path exists, revision), without asking the hub. Raises ConfigError as `locate`."""
    path = Path(location).expanduser()
    if path.exists():
        return path, None, None
    match = _HUB_ID.fullmatch(location)
    if match is None:
        raise ConfigError(
            key, f"{location}, which does not exist", "an existing file or directory, or a hub id OWNER/NAME@REVISION", "Correct the path."
        )
    wanted = revision or match["revision"]
    if pinned and not (wanted and _COMMIT.fullmatch(wanted)):
        raise ConfigError(
            key,
            f"{location} with revision {wanted or 'none'} (and no local path of that name)",
            "a local path, or a hub id with its full commit of 40 hexadecimal digits",
            "Download once, or add the commit that the hub shows under 'Files and versions' as revision.",
        )
    return path, match, wanted


def _snapshot(repo: str, revision: str | None, files: Sequence[str] | None, key: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    found = f"{repo}@{revision or 'main'}"
    try:
        return Path(
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(files) if files else None,
                etag_timeout=SECONDS_FOR_METADATA,
            )
        )
    except GatedRepoError as error:
        raise ConfigError(
            key, f"{found}, which is gated", "access to it", "Accept its terms on the hub and log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(key, f"{found}, whose revision the hub does not know", "an existing commit", "Correct the revision.") from error
    except RepositoryNotFoundError as error:
        fix = "Correct the path or the id; log in with `hf auth login` if it is private."
        raise ConfigError(key, f"{found}, neither a local path nor a data set of the hub", "one of the two", fix) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "Run the same command with a network (it continues), or give the path of a copy as in=PATH."
        raise ConfigError(key, f"{found} that cannot be reached ({reason})", "a local path, or access to the hub", fix) from error
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(key, f"{found}: {reason}", "an answer of the hub", "Try again; what is downloaded is kept.") from error
