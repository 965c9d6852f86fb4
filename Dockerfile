# SPDX-License-Identifier: Apache-2.0
# Two images, by `--target controller` and `--target loader`; docs/install.md says how.
#
# Builds with docker, podman and buildah. Without a network of one's own pass secrets: `apt-sources` and
# `apt-conf` (files of apt), `pip` (pip's configuration), `ca` (certificates pip trusts). No secret, and so no
# address of a mirror, is written to a layer.
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS base
ENV PATH=/opt/kubebee/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY images/install /usr/local/sbin/install-packages
RUN --mount=type=secret,id=apt-sources,target=/etc/apt/sources.list.d/build.sources \
    --mount=type=secret,id=apt-conf,target=/etc/apt/apt.conf.d/99build \
    install-packages python3

FROM base AS python
RUN --mount=type=secret,id=apt-sources,target=/etc/apt/sources.list.d/build.sources \
    --mount=type=secret,id=apt-conf,target=/etc/apt/apt.conf.d/99build \
    install-packages gcc libc6-dev python3-dev python3-venv
WORKDIR /src
COPY images/environment /usr/local/bin/environment
RUN python3 -m venv --without-pip /opt/kubebee && python3 -m venv /opt/build

FROM python AS controller-dependencies
COPY requirements-controller.lock ./
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca environment /opt/kubebee requirements-controller.lock

FROM python AS loader-dependencies
COPY requirements-loader.lock ./
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca environment /opt/kubebee requirements-loader.lock

# kubebee itself, as a tree of its own: a new version is one small layer over unchanged ones.
FROM python AS kubebee
COPY requirements-build.lock ./
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca environment /opt/build requirements-build.lock
COPY pyproject.toml setup.py README.md ./
COPY operator operator
COPY templates templates
RUN environment /opt/kubebee . /install

FROM base AS controller
COPY --from=controller-dependencies /opt/kubebee /opt/kubebee
COPY --from=kubebee /install /
LABEL org.opencontainers.image.title="kubebee-controller" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["/opt/kubebee/bin/kubebee"]
CMD ["controller"]

FROM base AS loader
# bubblewrap and util-linux are the compiler's sandbox; libbpf-dev and linux-libc-dev what sources include.
RUN --mount=type=secret,id=apt-sources,target=/etc/apt/sources.list.d/build.sources \
    --mount=type=secret,id=apt-conf,target=/etc/apt/apt.conf.d/99build \
    install-packages bpftool bubblewrap clang-19 libbpf1 libbpf-dev linux-libc-dev python3-bpfcc
COPY --from=loader-dependencies /opt/kubebee /opt/kubebee
COPY --from=kubebee /install /
LABEL org.opencontainers.image.title="kubebee-loader" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
# uid 0 without its usual capabilities: the pod adds BPF, PERFMON and NET_ADMIN (docs/security.md).
USER 0:0
ENTRYPOINT ["/opt/kubebee/bin/kubebee"]
CMD ["agent"]
