"""Train the tiny model with each method and several seeds from one warm start, and put the results beside each other.

    python -m benchmarks.tiny_comparison [--seeds 0 1 2] [--recipes grpo_tiny fgrpo_fixed_tiny fgrpo_tiny] [--out outputs/tiny_comparison]
                                         [--jobs 1] [--figure docs/figures/tiny_comparison.png] [key=value ...]

Every run is `python -m faithful_rl.main recipe=R faithful_rl.seed=S faithful_rl.output_dir=OUT/R-seedS` with the same further
settings, evaluated on the same held-out questions after training, and the first recipe's also before it. Finished runs are kept,
unfinished ones continue, so the same command after an interruption does only what is left. Writes OUT/comparison.md (the README's
tables), OUT/comparison.json, OUT/comparison.html and, when asked, the picture.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faithful_rl import report
from faithful_rl.report import comparison, front
from faithful_rl.run_directory import RUN, read_json, write_json

RECIPES = ("grpo_tiny", "fgrpo_fixed_tiny", "fgrpo_tiny")
LONGEST_RUN_SECONDS = 3 * 3600


def run_dir_of(out: Path, recipe: str, seed: int) -> Path:
    """Where the run of one recipe and seed goes."""
    return out / f"{recipe}-seed{seed}"


def train(recipe: str, seed: int, out: Path, settings: Sequence[str], evaluate_start: bool = True) -> int:
    """Train one run unless it has finished before; returns the exit code of the training command.

    Args:
        evaluate_start: whether this run also answers the held-out questions before its first step. All recipes start from the same
            weights and ask with the same random numbers, so one of them per seed is enough.
    """
    run_dir = run_dir_of(out, recipe, seed)
    if read_json(run_dir / RUN).get("status") == "finished":
        print(f"{recipe}, seed {seed}: finished before, kept", flush=True)
        return 0
    command = [sys.executable, "-m", "faithful_rl.main", f"recipe={recipe}", f"faithful_rl.seed={seed}"]
    command += [f"faithful_rl.output_dir={run_dir}", *([] if evaluate_start else ["faithful_rl.evaluation.at_start=false"]), *settings]
    out.mkdir(parents=True, exist_ok=True)
    log = out / f"{recipe}-seed{seed}.log"
    started = time.monotonic()
    print(f"{recipe}, seed {seed}: training, log in {log}", flush=True)
    with log.open("a", encoding="utf-8") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, timeout=LONGEST_RUN_SECONDS, check=False).returncode
    print(f"{recipe}, seed {seed}: exit code {code} after {time.monotonic() - started:.0f} s", flush=True)
    return code


def write_results(run_dirs: Sequence[Path], out: Path, figure: Path | None) -> comparison.Comparison:
    """Tables, JSON, page and picture of finished runs."""
    found = comparison.compare(run_dirs)
    (out / "comparison.md").write_text(comparison.markdown(found), encoding="utf-8")
    write_json(out / "comparison.json", comparison.as_json(found))
    report.build(run_dirs, out / "comparison.html")
    if figure:
        front.save(front.draw(found, run_dirs), figure)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny_comparison"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; two did not fit into 24 GiB of memory (LOG.md)")
    parser.add_argument("--figure", type=Path, default=None)
    parser.add_argument("--only-report", action="store_true", help="train nothing; put what has finished beside each other")
    arguments, settings = parser.parse_known_args(argv)
    if wrong := [text for text in settings if "=" not in text]:
        parser.error(f"unknown argument {wrong[0]!r}; further settings are key=value, as for faithful_rl.main")
    pairs = [(recipe, seed) for seed in arguments.seeds for recipe in arguments.recipes]  # seed by seed: a first table comes early
    if not arguments.only_report:
        with ThreadPoolExecutor(max_workers=arguments.jobs) as pool:
            codes = list(pool.map(lambda pair: train(*pair, arguments.out, settings, pair[0] == arguments.recipes[0]), pairs))
        if any(codes):
            print("some runs failed; the same command continues them", file=sys.stderr)
            return 1
    run_dirs = [run_dir_of(arguments.out, recipe, seed) for recipe, seed in pairs]
    if arguments.only_report:
        run_dirs = [run_dir for run_dir in run_dirs if read_json(run_dir / RUN).get("status") == "finished"]
    found = write_results(run_dirs, arguments.out, arguments.figure)
    print(comparison.markdown(found))
    print(f"Tables: {arguments.out / 'comparison.md'}  Page: {arguments.out / 'comparison.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
