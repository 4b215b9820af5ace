#!/bin/bash
# Installs what is missing to build, run and test; a machine that has everything is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

has() { command -v "$1" >/dev/null; }
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }
as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"
  elif has sudo; then sudo "$@"
  else echo "setup: run as root, or install by hand: $*" >&2; return 1; fi
}
is_debian() { has apt-get; }

missing=()
need() { missing+=("$1"); }
has cc || need compiler
find_libclang >/dev/null || need libclang
find_server >/dev/null || need server
has python3 && has_venv || need python

# Package names, as the distribution in question calls them.
packages() { # compiler libclang server python
  local what
  for what in "${missing[@]}"; do
    case $what in
      compiler) echo "$1" ;; libclang) echo "$2" ;; server) echo "$3" ;; python) echo "$4" ;;
    esac
  done
}

install_debian() {
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get -qq update
  local clang=libclang-dev
  [[ -n $(apt-cache -q0 policy libclang-common-14-dev | grep 'Candidate: [0-9]') ]] &&
    clang="libclang1-14 libclang-common-14-dev" # 7 MB instead of 37
  # shellcheck disable=SC2046
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
    $(packages "gcc libc6-dev" "$clang" redis-server "python3 python3-venv") >/dev/null
  # Only the binary is wanted. The service was not here before this install, so nobody else relies on it.
  if [[ " ${missing[*]} " == *" server "* ]]; then
    if [[ -d /run/systemd/system ]]; then as_root systemctl disable -q --now redis-server || true
    elif has service; then as_root service redis-server stop >/dev/null 2>&1 || true; fi
  fi
}

if ((${#missing[@]})); then
  echo "setup: missing: ${missing[*]}"
  # shellcheck disable=SC2046
  if is_debian; then install_debian
  elif has dnf; then as_root dnf -yq install $(packages gcc clang-devel redis python3)
  elif has apk; then as_root apk add -q $(packages "gcc musl-dev" clang-dev redis python3)
  elif has brew; then brew install -q $(packages gcc llvm redis python3)
  else
    echo "setup: no known package manager. Install: a C compiler, libclang with its headers, redis-server or" \
      "valkey-server (or set REDIS_SERVER), Python 3 with venv." >&2
    exit 1
  fi
fi

if ! has cargo; then
  echo "setup: Rust is missing. Install it from https://rustup.rs and run this again." >&2
  exit 1
fi
if has rustup; then
  cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt || true
  cargo clippy --version >/dev/null 2>&1 || rustup component add clippy || true
fi
find_libclang >/dev/null || { echo "setup: libclang or its headers are still not found; set LIBCLANG_PATH." >&2; exit 1; }
find_server >/dev/null || { echo "setup: ${REDIS_SERVER:-redis-server} is still not found; set REDIS_SERVER." >&2; exit 1; }
