"""`python -m faithful_rl.submit recipe=NAME [key=value ...]`: hand a recipe to a Ray cluster as a job, checked before it leaves.

Words of this command beside those of faithful_rl.main:
  address=http://HOST:8265    the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)
  id=NAME                     submission id (default: made of recipe and output directory, so that two of one run cannot meet)
  upload=checkout|image       checkout (default): send this checkout's code; image: the cluster's image has it
  python=python               interpreter on the cluster
  wait=true|SECONDS           follow the job to its end, so many seconds at most, and exit with 0, 1 (failed), 143 (stopped), or 3 where
                              following ended before the job
  follow=ID                   submit nothing: follow a job that was submitted before; takes address and wait only
  dry=true                    check the settings and print the plan, submit nothing

The output directory must be an absolute path that the cluster's nodes share. Secrets do not travel: the cluster's own environment
holds them (Kubernetes: a Secret). Ray's token authentication stays on: export RAY_AUTH_TOKEN, or keep the token in ~/.ray/auth_token.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from faithful_rl import main as command
from faithful_rl import upload
from faithful_rl.cluster_token import ray_command, show_token
from faithful_rl.config import ConfigError
from faithful_rl.dashboard import ENDED, LostJobError, Patience, ask, follow

OWN_WORDS = ("address", "id", "upload", "python", "wait", "follow", "dry")
ADDRESS = "http://127.0.0.1:8265"
STOP_MARGIN = 120  # s, beside the longest step: to write a checkpoint and to end
SUBMIT_SECONDS = 600.0  # for the upload of the code
EXIT_LOST, EXIT_INTERRUPTED = 3, 130
EXIT_BY_STATUS = {"SUCCEEDED": 0, "FAILED": command.EXIT_FAILED, "STOPPED": command.EXIT_TERMINATED}
_SECRET = re.compile(r"(?i)(?:api_?key|token|password|secret)=(?!.*_env)(?P<value>\S{12,})|(?:hf|sk)[_-][A-Za-z0-9]{20,}")
_COUNTS = re.compile(r"(?i)(tokens?|token_\w+)=\d+$")


@dataclass
class Request:
    """A command, taken apart. `words` are those of faithful_rl.main."""

    words: list[str]
    address: str = ADDRESS
    id: str = ""
    upload: str = "checkout"
    python: str = "python"
    wait: float = 0.0  # seconds to follow the job, 0: not at all
    follow: str = ""
    dry: bool = False


@dataclass(frozen=True)
class Submission:
    """What Ray gets."""

    id: str
    entrypoint: str
    runtime_env: dict[str, Any] = field(default_factory=dict)


def parse(argv: Sequence[str]) -> Request:
    """Raises ConfigError for a word of ours with a value it cannot have, or for a secret on the command line."""
    request = Request([], address=os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS)
    for word in argv:
        name, _, value = word.partition("=")
        if name not in OWN_WORDS:
            _refuse_secret(word)
            request.words.append(word)
        elif name == "dry":
            if value not in ("true", "false"):
                raise ConfigError(name, repr(value), "true or false", f"Write {name}=true.")
            request.dry = value == "true"
        elif name == "wait":
            request.wait = _seconds(value)
        else:
            setattr(request, name, value)
    if request.follow and (request.words or request.id or request.dry):
        other = request.words[0] if request.words else f"id={request.id}" if request.id else "dry=true"
        raise ConfigError("follow", f"{request.follow} beside {other}", "a submitted job's id, and no other job", "Leave one of them out.")
    if request.upload not in ("checkout", "image"):
        raise ConfigError("upload", repr(request.upload), "checkout or image", "Leave it out to send this checkout's code.")
    if not request.address.startswith(("http://", "https://")):
        raise ConfigError(
            "address",
            repr(request.address),
            f"the dashboard's address, such as {ADDRESS}",
            "Jobs do not travel over the port of `ray start`.",
        )
    if request.id and not re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", request.id):
        raise ConfigError("id", repr(request.id), "1 to 80 letters, digits, '_', '.' or '-'", "Choose another one.")
    return request


def _seconds(value: str) -> float:
    if value in ("true", "false"):
        return Patience().longest if value == "true" else 0.0
    if not value.isdigit() or int(value) < 1:
        raise ConfigError("wait", repr(value), "true, false or a whole number of seconds >= 1", "Write wait=true.")
    return float(value)


def _refuse_secret(word: str) -> None:
    found = _SECRET.search(word)
    if found and not _COUNTS.search(word):
        raise ConfigError(
            word.partition("=")[0],
            "what looks like a secret (not shown)",
            "no secrets on the command line: Ray shows a job's command to everyone who may see the dashboard",
            "Put it into the cluster's environment (Kubernetes: a Secret), and name the variable (api_key_env).",
        )


def output_dir(words: Sequence[str]) -> str:
    """The absolute output directory of the run.

    Raises:
        ConfigError: it is missing or relative: a job's working directory is a temporary folder of one node.
    """
    key = "faithful_rl.output_dir"
    named = [word.removeprefix(f"{key}=") for word in words if word.startswith(f"{key}=")]
    if not named or not PurePosixPath(named[-1]).is_absolute():
        raise ConfigError(
            key,
            repr(named[-1]) if named else "nothing",
            "an absolute path on storage that the cluster's nodes share, because a job starts in a temporary folder",
            f"Add {key}=/checkpoints/NAME.",
        )
    return named[-1]


def next_id(recipe: str, folder: str, jobs: Sequence[tuple[str, str]]) -> str:
    """An id for the next attempt of one run, from the ids and states of the cluster's jobs.

    Raises:
        ConfigError: a job of this run has not ended.
    """
    stem = f"{recipe}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
    mine = [(name, state) for name, state in jobs if name and re.fullmatch(rf"{re.escape(stem)}-\d+", name)]
    for name, state in mine:
        if state not in ENDED:
            raise ConfigError(
                "faithful_rl.output_dir",
                f"{folder}, in use by Ray job {name} ({state})",
                "a directory that nobody trains in",
                f"Follow it with `ray job logs -f {name}`, end it with `ray job stop {name}`, or choose another faithful_rl.output_dir.",
            )
    return f"{stem}-{1 + max((int(name.rpartition('-')[2]) for name, _ in mine), default=0)}"


def check(words: Sequence[str]) -> tuple[str, float, str]:
    """Compose and validate the recipe here, where verl is installed; returns its name, the longest step in seconds and the plan ("" where
    nothing is known of it: without verl, or where the job is a check itself)."""
    if importlib.util.find_spec("verl") is None:
        recipe = next((word.removeprefix("recipe=") for word in words if word.startswith("recipe=")), "")
        if not recipe:
            raise ConfigError("recipe", "nothing", "recipe=NAME", "See python -m faithful_rl.main --help.")
        return recipe, 1800.0, ""
    options, mode, overrides = command.parse(words)
    job = command.prepare(overrides, options.resume == "auto")
    plan = ""
    if mode == "train":
        from faithful_rl import preflight
        from faithful_rl.run_record import RunDirectory

        config = command.resolved(job.composed)
        preflight.check_settings(config, job.typed)
        run = RunDirectory(Path(job.typed.output_dir), "", resumes=False)
        plan = preflight.plan(config, job.typed, run, verdict=preflight.SETTINGS_ONLY)
    return job.typed.recipe, job.typed.step_timeout_seconds, plan


def build(request: Request, job_id: str, longest_step: float, working_dir: Path | None) -> Submission:
    """The job as Ray takes it: `exec`, so that a stop's signal reaches the run and no shell in between; and time to write a checkpoint,
    where Ray by itself waits 3 s."""
    entrypoint = f"exec {request.python} -m faithful_rl.main {shlex.join(request.words)}"
    environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(int(longest_step) + STOP_MARGIN)}}
    if working_dir is not None:
        environment["working_dir"] = str(working_dir)
    return Submission(job_id, entrypoint, environment)


def submit(request: Request, say: Callable[[str], None] = print) -> int:
    """Check, measure, submit; returns an exit code.

    Raises:
        ConfigError: see `parse`, `output_dir`, `next_id`, `upload.measure`; a cluster that does not answer or refuses.
        LostJobError: see `dashboard.follow`.
    """
    if request.follow:
        return _follow(_client(request.address), request.follow, replace(request, wait=request.wait or Patience().longest), say)
    recipe, longest_step, plan = check(request.words)
    folder = output_dir(request.words)
    root = command.PROJECT_ROOT
    chosen = upload.files(root) if request.upload == "checkout" else []
    size = upload.measure(root, chosen)
    say(f"code       {f'{size:.1f} MiB in {len(chosen)} files of {root}' if chosen else 'that of the image'}")
    if request.dry:
        if plan:
            say(plan)
        say(build(request, request.id or f"{recipe}-...", longest_step, root if chosen else None).entrypoint)
        return 0
    client = _client(request.address)
    job_id = request.id or next_id(recipe, folder, [(job.submission_id, str(job.status)) for job in ask(client.list_jobs)])
    with tempfile.TemporaryDirectory(prefix="faithful_rl_") as staged:
        upload.stage(root, chosen, Path(staged))
        job = build(request, job_id, longest_step, Path(staged) if chosen else None)
        ask(lambda: client.submit_job(entrypoint=job.entrypoint, submission_id=job.id, runtime_env=job.runtime_env), seconds=SUBMIT_SECONDS)
    say(f"job        {job_id} on {request.address}, output {folder}")
    ray = ray_command()
    say(f"follow     {ray} job logs --address {request.address} -f {job_id}")
    say(f"stop       {ray} job stop --address {request.address} {job_id}     (writes a checkpoint first; the same command continues)")
    return _follow(client, job_id, request, say) if request.wait else 0


def _client(address: str) -> Any:
    try:
        show_token()
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ConfigError("installation", "no ray", "Ray with its job client", "Install it: pip install 'ray[default]'.") from error
    try:
        return ask(lambda: JobSubmissionClient(address))
    except ConfigError as error:
        raise ConfigError("address", f"{address}, where no dashboard takes jobs ({error.found})", error.expected, error.fix) from error


def again(job_id: str, address: str) -> str:
    """How to come back to a job that nobody follows any more."""
    return (
        f"Follow it again: python -m faithful_rl.submit follow={job_id} address={address}; its log: ray job logs --address {address} -f "
        f"{job_id}; its progress stands in its output directory."
    )


def _follow(client: Any, job_id: str, request: Request, say: Callable[[str], None]) -> int:
    """Wait for the job's end; returns the exit code."""
    patience = replace(Patience(), longest=request.wait)
    try:
        state = follow(lambda: str(client.get_job_status(job_id)), job_id, again(job_id, request.address), say, patience)
    except KeyboardInterrupt:
        say(f"The job goes on. {again(job_id, request.address)} Stop it: ray job stop --address {request.address} {job_id}")
        return EXIT_INTERRUPTED
    say(f"job        {job_id} {state}")
    return EXIT_BY_STATUS[state]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else command.EXIT_USAGE
    try:
        return submit(parse(words))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return command.EXIT_USAGE
    except LostJobError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_LOST
    except KeyboardInterrupt:
        print("Stopped before the job was submitted.", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
