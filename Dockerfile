# The image that holds the static binary and nothing else. Two ways to use it (examples/images has whole ones):
#
#   in any image                              as the base of a static program
#   COPY --from=clusterinit /clusterinit /    FROM clusterinit
#   ENTRYPOINT ["/clusterinit", "--"]         COPY server /
#   CMD ["./server"]                          CMD ["/server"]
#
# No "--" in the entry point here, so that `docker run clusterinit plan -- ./server` and `--version` work.
#
# On alpine a build for the machine's own architecture is static. Releases build on a machine of each architecture and put the
# binaries that were tested there in this stage's place: --build-context build=FOLDER, with FOLDER/out/amd64/clusterinit and arm64.
# Only BuildKit knows TARGETARCH; without it there is no such folder.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache make musl-dev
WORKDIR /src
COPY . .
ARG TARGETARCH
RUN cargo build --release --locked && mkdir -p "/out/$TARGETARCH" && cp target/release/clusterinit "/out/$TARGETARCH/"

# The container tests build this stage, with a binary of their own in place of the one above.
FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE
LABEL org.opencontainers.image.title="clusterinit" \
      org.opencontainers.image.description="PID 1 that turns one container into a cluster of workers" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
ARG TARGETARCH
COPY --from=build /out/$TARGETARCH/clusterinit /clusterinit
USER 65532:65532
# Docker only shows this; Kubernetes has probes of its own (k8s/base).
HEALTHCHECK --interval=5s --timeout=3s CMD ["/clusterinit", "healthcheck"]
ENTRYPOINT ["/clusterinit"]
CMD ["--help"]
