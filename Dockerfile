# The image that holds the static binary and nothing else. Two ways to use it:
#
#   in any image                              as the base of a static program
#   COPY --from=clusterinit /clusterinit /    FROM clusterinit
#   ENTRYPOINT ["/clusterinit", "--"]         COPY server /
#   CMD ["./server"]                          CMD ["/server"]
#
# No "--" in the entry point here, so that `docker run clusterinit plan -- ./server` and `--version` work.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache make musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked && mkdir /out && cp target/release/clusterinit /out/

# The container tests build this stage, with a binary of their own in place of the one above.
FROM scratch
LABEL org.opencontainers.image.title="clusterinit" \
      org.opencontainers.image.description="PID 1 that turns one container into a cluster of workers" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/clusterinit /clusterinit
USER 65532:65532
# Docker only shows this; Kubernetes has probes of its own (k8s/base).
HEALTHCHECK --interval=5s --timeout=3s CMD ["/clusterinit", "healthcheck"]
ENTRYPOINT ["/clusterinit"]
CMD ["--help"]
