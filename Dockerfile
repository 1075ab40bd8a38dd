# The image of bids_semantoks. Only the last stage is kept.
#
#   docker build -t bids_semantoks .                                          CPU and GPU, large
#   docker build -t bids_semantoks --build-arg TORCH_INDEX=URL .              URL: the index of PyTorch's CPU builds
#   docker build -t bids_semantoks:cuda --build-arg VARIANT=cuda .            with a compiler for torch.compile
#   docker build -t bids_semantoks --build-arg ASSETS=assets .                with the files of the folder assets/

ARG VARIANT=cpu
# A tag may move, a digest does not. This one covers all platforms of the tag (docker-library/repo-info lists it).
ARG BASE=docker.io/library/debian:bookworm-20260918-slim
ARG BASE_DIGEST=sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251

FROM ${BASE}@${BASE_DIGEST} AS base
ARG VARIANT
# torch.compile on a GPU calls a C compiler when it runs.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libgomp1 python3 \
    $(test "$VARIANT" != cuda || echo gcc libc6-dev python3-dev) \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc/*

FROM base AS build
ARG VARIANT
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
# Where pip finds packages, for builders without the public index; nothing of it stays in the image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG TORCH_INDEX=""
ARG ASSETS=""
COPY . /source
RUN set -eu; export PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/source/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
 && python3 -m venv /opt/bids_semantoks \
 && cd /opt/bids_semantoks \
 && bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' /source/constraints.txt)" \
 && bin/pip install /source \
 && bin/pip uninstall --yes pip setuptools \
 && rm -rf lib/python3.11/site-packages/torch/test \
 && if test "$VARIANT" != cuda; then rm -rf lib/python3.11/site-packages/torch/include; fi \
 && mkdir assets && if test -n "$ASSETS"; then cp -r "/source/$ASSETS/." assets/; fi \
 && cp /source/LICENSE /source/README.md . \
 && python3 -m venv /tmp/sbom && /tmp/sbom/bin/pip install "$(grep '^cyclonedx-bom==' /source/constraints.txt)" \
 && /tmp/sbom/bin/cyclonedx-py environment --output-reproducible --output-file sbom.cdx.json bin/python \
 && chmod -R a+rX,go-w .

FROM base
ARG VARIANT
ARG BASE
ARG BASE_DIGEST
ARG VERSION=""
ARG REVISION=""
COPY --from=build /opt/bids_semantoks /opt/bids_semantoks
# A home directory that a container engine binds must not bring packages of its own, and a node without network must not
# wait for one. HF_HUB_OFFLINE=0 allows to fetch weights. GeneratedBy of outputs names the container by its type and tag;
# an image cannot know its own digest, so BIDS_SEMANTOKS_CONTAINER_DIGEST is set when it is run.
ENV PATH=/opt/bids_semantoks/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    BIDS_SEMANTOKS_ATLAS_DIR=/opt/bids_semantoks/assets \
    BIDS_SEMANTOKS_CONTAINER_TYPE=docker \
    BIDS_SEMANTOKS_CONTAINER_TAG=bids_semantoks:${VERSION:-unknown}
LABEL org.opencontainers.image.title="bids_semantoks" \
      org.opencontainers.image.description="BIDS App: Brain-Semantoks embeddings from fMRIPrep derivatives" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      bids_semantoks.variant="${VARIANT}"
ENTRYPOINT ["/opt/bids_semantoks/bin/bids_semantoks"]
CMD ["--help"]
