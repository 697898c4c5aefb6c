"""A source's location: a local path, or a data set of the Hugging Face hub at a pinned commit, through huggingface_hub only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from data_prep.archives import unpacked
from faithful_rl.config import ConfigError

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS_FOR_METADATA = 30.0
# Commits in which the sets' figures were seen; they hold where an id is given without one. Of the other sets none is known to us.
REVISIONS: dict[str, str] = {
    "nyu-visionx/CV-Bench": "bc284db50d036958861cb60cdd7b77612052ce0d",
    "MLL-Lab/MindCube": "9c941b46a6bd65b6914669ef7a579948fc9c8467",
    "qizekun/OmniSpatial": "6691f3288bb1ff207d6ead4d841b505de08a6fd8",
}


@dataclass(frozen=True, slots=True)
class Located:
    """Where a source lies: `path` on this machine, `origin` as it was asked for, `revision` (40 hexadecimal digits; None: local)."""

    path: Path
    origin: str
    revision: str | None


def locate(location: str, *, revision: str | None = None, files: Sequence[str] | None = None, key: str = "in") -> Located:
    """The local path of `location`: an existing file or directory, or `OWNER/NAME@COMMIT` fetched from the hub.

    A download that was cut goes on where it stopped (the hub's cache keeps partial files). Zip archives among the files are unpacked
    once, below the hub's cache; `path` is the folder with their content then.

    Args:
        revision: the full commit; may also stand behind `@`, and be left out where `REVISIONS` knows it.
        files: patterns of the files to fetch; None: all.

    Raises:
        ConfigError: no such path, no such data set, no access, no network, a revision that is no full commit, or an archive that is
            damaged or not safe to unpack.
    """
    path, repo, wanted = recognised(location, revision=revision, key=key)
    if repo is None:
        return Located(path, location, None)
    fetched = _snapshot(repo, wanted, files, key)
    asked = files or ("*.zip",)
    archives = sorted(found for found in fetched.glob("*.zip") if any(fnmatch(found.name, pattern) for pattern in asked))
    for archive in archives:
        place = unpacked(archive, _unpacked_place(repo, str(wanted)) / archive.stem, key)
        path = place if len(archives) == 1 else place.parent
    return Located(path if archives else fetched, repo, wanted)


def _unpacked_place(repo: str, commit: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / "unpacked" / repo.replace("/", "--") / commit


def recognised(location: str, *, revision: str | None = None, key: str = "in") -> tuple[Path, str | None, str | None]:
    """(local path, hub id or None where the path exists, commit), without asking the hub. Raises ConfigError as `locate`."""
    path = Path(location).expanduser()
    if path.exists():
        return path, None, None
    match = _HUB_ID.fullmatch(location)
    if match is None:
        raise ConfigError(
            key, f"{location}, which does not exist", "an existing file or directory, or a hub id OWNER/NAME@COMMIT", "Correct the path."
        )
    repo, wanted = match["repo"], revision or match["revision"] or REVISIONS.get(match["repo"])
    if not (wanted and _COMMIT.fullmatch(wanted)):
        raise ConfigError(
            key,
            f"{location} with {f'revision {wanted}' if wanted else 'no revision'} (and no local path of that name)",
            "a local path, or a hub id with its full commit of 40 hexadecimal digits",
            f"Write {repo}@COMMIT, with the commit that https://huggingface.co/datasets/{repo}/commits/main shows.",
        )
    return path, repo, wanted


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

    found = f"{repo}@{revision}"
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
