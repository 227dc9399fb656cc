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

# actionlint and zizmor on .github/workflows; `.ci/install workflows` brings them
lint-workflows:
    .ci/step workflows

# the binary that is shipped, with its size checked
build-static:
    .ci/step build-static

# runc and Docker, as root
containers:
    .ci/step containers

# the manifests of k8s/; needs `.ci/install k8s`; as root also under their limits
k8s:
    .ci/step k8s

# the image from source, and the examples on the official base images; needs Docker and a registry
image:
    .ci/step image

# a tenth of each benchmark, to see that all of it runs; as root
bench-quick:
    .ci/step bench-quick

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

# each fuzz target for so many seconds; `.ci/install fuzz`
fuzz seconds="60":
    .ci/step fuzz {{ seconds }}

# faults in the core that no test sees: about a minute for each hundred lines; `.ci/install mutants`
mutants *files:
    .ci/step mutants {{ files }}

# undefined behaviour in the pure modules; `.ci/install miri`
miri *modules:
    .ci/step miri {{ modules }}

# the oldest dependencies that Cargo.toml allows; `.ci/install minimal-versions`
minimal-versions:
    .ci/step minimal-versions

# a cluster under load, with kills, reloads and scales at random: what PID 1 holds at the end, and what was lost
soak minutes="10" *seed:
    .ci/step soak {{ minutes }} {{ seed }}

# archive, SBOM and checksums of a release, for this machine's architecture; `.ci/install build dist`
dist:
    .ci/step dist

# what CHANGELOG.md says of this version
notes:
    .ci/step notes

# packages that the steps need; Debian or Ubuntu
install:
    .ci/install build test page node containers bench scripts workflows k8s deny

# everything, as root
ci:
    .ci/run
