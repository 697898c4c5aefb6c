# syntax=docker/dockerfile:1
# The GPU world: training, rollout servers and judges on CUDA. Build with docker/build.sh gpu, from the top of the checkout.
# Versions come from pyproject.toml and requirements/gpu.txt only. Not built yet: no engine was at hand (docker/README.md).

# The tags that were meant; docker/build.sh puts their digests behind them and writes the runtime's into the image's labels.
ARG BUILD_BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BUILD_BASE} AS build
# gpu, or gpu,flash-attn (compiles for about an hour), or sglang
ARG EXTRAS=gpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Ubuntu 24.04's Python is the 3.12 that requirements/gpu.txt was made for; versions are the base's release's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/faithful_rl
# Dependencies first: this layer stays while only code changes. The empty packages stand for the code, which pip must find.
COPY pyproject.toml README.md LICENSE ./
COPY requirements/gpu.txt requirements/gpu.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    mkdir faithful_rl data_prep \
    && touch faithful_rl/__init__.py data_prep/__init__.py \
    && python3.12 -m venv /opt/venv \
    && /opt/venv/bin/pip install -c requirements/gpu.txt -e ".[${EXTRAS}]"

FROM ${BASE}
ARG REVISION=unknown
ARG BASE
LABEL org.opencontainers.image.title="faithful_rl, GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# wget: KubeRay's probes and the health check, which also asks procps. gcc and Python's headers: Triton compiles kernels at run time. Versions are the base's release's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libnuma1 procps python3.12 python3.12-dev wget \
    && rm -rf /var/lib/apt/lists/* \
    && userdel --remove ubuntu \
    && useradd --uid 1000 --create-home --shell /bin/bash ray
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/faithful_rl
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY models models
COPY data_prep data_prep
COPY faithful_rl faithful_rl
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000
# Kubernetes has probes of its own (cluster/); this serves where the image runs by itself. Where a Ray node runs, the node answers for its
# health (without the token, which `ray health-check` would need); where none runs, nothing can be unwell.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["/bin/bash", "-c", "! pgrep -x raylet >/dev/null || wget -T 10 -q -O- localhost:52365/api/local_raylet_healthz | grep -qx success"]
CMD ["python", "-m", "faithful_rl.main", "--help"]
