# What the scripts share: where things are, how progress is shown, which container engine is used.
# shellcheck shell=bash disable=SC2034

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
REPOSITORY=localhost/dynamo-entry
# Working copies side by side build their launcher under a tag each, over the same bases and engines.
TAG=${DYNAMO_ENTRY_TAG:-latest}
BASE_IMAGE=$REPOSITORY/base:trixie

say() { printf '\e[1m== %s\e[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# require COMMAND=PACKAGE…: installs the packages whose command is missing.
require() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    ((${#missing[@]})) || return 0
    install_packages "${missing[@]}"
}

# install_packages PACKAGE…: from the distribution.
install_packages() {
    command -v apt-get >/dev/null || die "missing: $*, and no apt-get to install them with"
    ((EUID == 0)) || die "missing: $* (run as root, or install them)"
    say "installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# choose_engine: sets CONTAINER_ENGINE to podman or docker, and installs podman where neither works.
choose_engine() {
    if [[ -z ${CONTAINER_ENGINE:-} ]]; then
        CONTAINER_ENGINE=podman
        # A docker command alone says nothing: its daemon may be missing.
        command -v podman >/dev/null || ! docker info >/dev/null 2>&1 || CONTAINER_ENGINE=docker
    fi
    [[ $CONTAINER_ENGINE != podman ]] || require podman=podman runc=runc
    export CONTAINER_ENGINE
}

engine() { command "$CONTAINER_ENGINE" "$@"; }

# require_venv: a Python of this machine that can make environments.
require_venv() {
    python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        require python3=python3 /usr/lib/python3/ensurepip=python3-venv
}

# provide_uv: sets UV, the version that the images' builds use.
provide_uv() {
    local tool=$ROOT/.build/uv
    UV=$tool/bin/uv
    ! cmp -s "$ROOT/images/uv.txt" "$tool/pins" || return 0
    require_venv
    python3 -m venv --clear "$tool"
    "$tool/bin/pip" install -q --require-hashes -r "$ROOT/images/uv.txt"
    cp "$ROOT/images/uv.txt" "$tool/pins"
}
