# syntax=docker/dockerfile:1
# The CPU world: tests, the tiny recipes, judges by endpoint. Build with docker/build.sh cpu, from the top of the checkout.
# Versions come from pyproject.toml and requirements/cpu.txt only. Not built yet: no engine was at hand (docker/README.md).

# The tag that was meant; docker/build.sh puts its digest behind it and writes the digest into the image's labels.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/faithful_rl
# Dependencies first: this layer stays while only code changes. The empty packages stand for the code, which pip must find.
COPY pyproject.toml README.md LICENSE ./
COPY requirements/cpu.txt requirements/cpu.txt
# Where pip finds the CPU build of torch is the builder's pip.conf, given as a secret: it is in no layer.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    mkdir faithful_rl data_prep \
    && touch faithful_rl/__init__.py data_prep/__init__.py \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install -c requirements/cpu.txt -e '.[cpu]'

FROM ${BASE}
ARG REVISION=unknown
ARG BASE
LABEL org.opencontainers.image.title="faithful_rl, CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# wget: KubeRay's probes and the health check, which also asks procps. gcc: torch and vLLM compile small kernels at run time. Versions are the base's Debian release's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libnuma1 procps wget \
    && rm -rf /var/lib/apt/lists/* \
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
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000
# Kubernetes has probes of its own (cluster/); this serves where the image runs by itself. Where a Ray node runs, the node answers for its
# health (without the token, which `ray health-check` would need); where none runs, nothing can be unwell.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["/bin/bash", "-c", "! pgrep -x raylet >/dev/null || wget -T 10 -q -O- localhost:52365/api/local_raylet_healthz | grep -qx success"]
CMD ["python", "-m", "faithful_rl.main", "--help"]
