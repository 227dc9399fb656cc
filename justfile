# Each recipe is a step of .ci/run: what passes here passes there. `just check` before a commit, `just ci` before a merge.

# list the recipes
default:
    @just --list --unsorted

# fast: format, lints, tests, docs
check: fmt clippy test doc

fmt:
    .ci/step fmt

clippy:
    .ci/step clippy

# what a fresh machine with a Rust toolchain can run
test:
    .ci/step test

# the same against the C library that is shipped
test-musl:
    .ci/step test-musl

doc:
    .ci/step doc

# licences, duplicate versions, sources; needs cargo-deny
deny:
    .ci/step deny

# known vulnerabilities; needs cargo-deny and the network
advisories:
    cargo deny --locked check advisories

# shellcheck and Python syntax
scripts:
    .ci/step scripts

# the binary that is shipped, with its size checked
build-static:
    .ci/step build-static

# runc and Docker, as root
containers:
    .ci/step containers

# the manifests of k8s/; needs `.ci/install k8s`; as root also under their limits
k8s:
    .ci/step k8s

# beside tini, dumb-init, catatonit and plain C; as root, about five minutes
bench *measures:
    bench/run {{ measures }}

# what sharing a port costs, and what clients see of restarts; as root, about ten minutes
bench-share *measures:
    bench/share {{ measures }}

# how far workers get past their caps, and what the caps cost; as root, about six minutes
bench-memory *measures:
    bench/memory {{ measures }}

# Node's own cluster and PM2 beside clusterinit; as root, about twenty minutes
bench-node *measures:
    bench/node {{ measures }}

# the oldest Rust that Cargo.toml promises
msrv:
    .ci/step msrv

# packages that the steps need; as root, Debian or Ubuntu
install:
    .ci/install build test node containers bench scripts deny k8s

# everything, as root
ci:
    .ci/run
