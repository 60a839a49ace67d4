# What a hospital runs: trainer, relay and way out, each a container of this image under a uid of its own.
#   docker build -f deploy/site.Dockerfile -t medseg-site:TAG .          from the root of a checkout
#   TORCH_INDEX   package index for torch; .../whl/cpu, or a CUDA build such as .../whl/cu126; empty: pip's own
#   VERSION, COMMIT   what labels and `--version` tell
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python3 -m venv --without-pip /opt/medseg
COPY constraints.txt ./
RUN pip --python /opt/medseg/bin/python install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
# what medseg needs, before its code: a change of the code makes none of this anew
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
      print(*p["dependencies"], *p["optional-dependencies"]["client"], sep="\n")' >requirements.txt \
 && pip --python /opt/medseg/bin/python install --constraint constraints.txt --requirement requirements.txt
# what no run needs: sources for extensions of torch and their tests (it starts torch_shm_manager itself), tests of other
# packages, and uv, with which Flower would install what an app asks for: that is off. GDCM has each library three times
WORKDIR /opt/medseg/lib/python3.11/site-packages
RUN rm -rf torch/test torch/include torch/share/cmake pynetdicom/tests /opt/medseg/bin/uv /opt/medseg/bin/uvx \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find numpy scipy skimage sympy networkx matplotlib -type d -name tests -prune -exec rm -rf {} + \
 && for library in _gdcm/lib*.so; do \
      for twin in "$library".*; do if cmp -s "$library" "$twin"; then ln -sf "${library#_gdcm/}" "$twin"; fi; done; \
    done
WORKDIR /build
COPY . ./
ARG COMMIT=unknown
RUN printf '%s\n' "$COMMIT" >medseg_core/_commit.txt \
 && pip wheel --no-deps --wheel-dir /wheel . \
 && pip --python /opt/medseg/bin/python install --no-deps /wheel/*.whl

FROM ${BASE}
# hadolint ignore=DL3008  # Debian keeps the newest of a release alone: a pinned version could not be built next month
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nginx-light tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# the three roles, and the one group that they share: it may use the trainer's socket
RUN groupadd --gid 10010 medseg \
 && for role in trainer:10011 relay:10012 egress:10013; do \
      useradd --uid "${role#*:}" --gid medseg --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin \
        "medseg-${role%:*}"; \
    done
# folders that volumes are mounted at belong, from the first, to who writes in them
RUN install -d -o 10011 -g 10010 -m 0750 /site /site/run /site/logs \
 && install -d -o 10011 -g 10010 -m 2750 /site/run/socket \
 && install -d -o 10013 -g 10010 -m 0750 /site/logs/egress \
 && install -d -o 10012 -g 10010 -m 0750 /site/logs/relay
COPY --from=build /opt/medseg /opt/medseg
COPY --chmod=0755 deploy/site/setup.sh /usr/local/bin/medseg-site-setup
ENV PATH=/opt/medseg/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10011:10010
ENTRYPOINT ["/usr/bin/tini", "--", "medseg-site"]
CMD ["--help"]
HEALTHCHECK --interval=30s --timeout=30s --start-period=60s --retries=3 CMD ["medseg-site", "health", "/site"]
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="medseg-site" \
      org.opencontainers.image.description="A hospital's side of federated learning for medical image segmentation. Research use only, not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
