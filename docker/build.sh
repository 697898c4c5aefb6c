#!/usr/bin/env bash
# Build one world's image, then prove it: every check, and for the CPU world two steps of the tiny recipe inside it.
# usage: docker/build.sh cpu|gpu [pip.conf]
# The engine is docker, or what CONTAINER_ENGINE names. pip.conf says where pip finds torch's CPU build; without one PIP_EXTRA_INDEX_URL
# does. Neither enters a layer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

world="${1:-}"
[[ "$world" == cpu || "$world" == gpu ]] || { echo "usage: docker/build.sh cpu|gpu [pip.conf]" >&2; exit 2; }
pip_conf="${2:-/dev/null}"
engine="${CONTAINER_ENGINE:-docker}"
command -v "$engine" >/dev/null || { echo "error: found no $engine; install it, or name another one: CONTAINER_ENGINE=podman" >&2; exit 2; }

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [[ "$pip_conf" == /dev/null && -n "${PIP_EXTRA_INDEX_URL:-}" ]]; then
  pip_conf="$folder/pip.conf"
  printf '[global]\nextra-index-url = %s\n' "$PIP_EXTRA_INDEX_URL" >"$pip_conf"
elif [[ "$pip_conf" == /dev/null && "$world" == cpu ]]; then
  echo "error: pip would not find torch's CPU build: set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index, or name a pip.conf that does:" \
    "docker/build.sh cpu ~/.config/pip/pip.conf" >&2
  exit 2
fi

version="$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)"
image="faithful-rl:${version}-${world}"
revision="$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)"

# Pin every base by what its tag means today; the digests are printed, for the release notes.
arguments=()
while read -r name tag; do
  "$engine" pull --quiet "$tag" >/dev/null
  digest="$("$engine" image inspect --format '{{index .RepoDigests 0}}' "$tag")"
  echo "$name: $tag is $digest"
  arguments+=(--build-arg "$name=$tag@${digest#*@}")
done < <(sed -n 's/^ARG \(BASE\|BUILD_BASE\)=\(.*\)$/\1 \2/p' "docker/$world.Dockerfile")

DOCKER_BUILDKIT=1 "$engine" build --file "docker/$world.Dockerfile" --tag "$image" --build-arg "REVISION=$revision" \
  "${arguments[@]}" --secret "id=pip_conf,src=$pip_conf" .

# As on Kubernetes: not root, a root file system that cannot be written, shared memory, no privileges.
run=("$engine" run --rm --read-only --tmpfs "/tmp:exec,mode=1777" --env HOME=/tmp/home --shm-size 2g --cap-drop ALL
  --security-opt no-new-privileges)
if [[ "$world" == cpu ]]; then
  words=(recipe=fgrpo_tiny faithful_rl.output_dir=/tmp/run faithful_rl.data.scenes.directory=/tmp/scenes)
  "${run[@]}" "$image" python -m faithful_rl.main "${words[@]}" mode=check
  "${run[@]}" "$image" python -m faithful_rl.main "${words[@]}" trainer.total_training_steps=2 faithful_rl.evaluation.max_questions=8
else
  "${run[@]}" --gpus all "$image" python -c "import torch, vllm, verl; assert torch.cuda.is_available(); print(torch.cuda.get_device_name())"
  # This machine has no model of 7B, and fewer GPUs than the recipe, perhaps. Any other refusal is the image's own.
  status=0
  "${run[@]}" --gpus all --shm-size 16g "$image" python -m faithful_rl.main recipe=fgrpo_7b faithful_rl.output_dir=/tmp/run mode=check \
    >"$folder/check.log" 2>&1 || status=$?
  cat "$folder/check.log"
  if ((status != 0)); then
    tail -n 1 "$folder/check.log" | grep -Eq '^error: (GPUs of this machine|actor_rollout_ref\.model\.path): ' || exit "$status"
  fi
fi
echo "built and tried: $image"
