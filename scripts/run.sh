#!/bin/bash
# A server with the module, on a free port of 127.0.0.1, in a folder that goes when it ends.
# usage: scripts/run.sh [option of redis-server...]     environment: PORT, REDIS_SERVER
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

module=$PWD/target/release/libcache_guard.so
server=$(find_server)
port=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
dir=$(mktemp -d)
pid=

finish() {
  trap - EXIT
  [[ -n $pid ]] && kill "$pid" 2>/dev/null && wait "$pid" || true
  rm -rf "$dir"
}
trap finish EXIT
trap 'exit 0' INT TERM HUP

ready() {
  [[ -S $dir/server.sock ]] || return 1 # ours, not another server on this port
  local reply
  exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'PING\r\n' >&3 && read -rt 1 reply <&3 && [[ $reply == +PONG* ]]
}

"$server" --bind 127.0.0.1 --port "$port" --dir "$dir" --unixsocket "$dir/server.sock" \
  --save '' --appendonly no --loadmodule "$module" "$@" &
pid=$!
until (ready) 2>/dev/null; do
  kill -0 "$pid" 2>/dev/null || { echo "run: the server did not start" >&2; exit 1; }
  sleep 0.1
done

cat <<TEXT

cache-guard is loaded; the server listens on 127.0.0.1:$port. In another terminal:

  redis-cli -p $port CACHE.GETSM user:7 META                          # a miss: you hold the lease, regenerate
  redis-cli -p $port CACHE.SETSM user:7 '{"name":"Ada"}' 60000 STALE 30000   # 60 s fresh, then 30 s stale
  redis-cli -p $port CACHE.GETSM user:7 META                          # a hit

Ctrl-C ends it; nothing is kept.
TEXT
wait "$pid"
