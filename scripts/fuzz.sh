#!/bin/bash
# The fuzz targets of fuzz/ under libFuzzer, MINUTES each (5), one on each core at a time.
# usage: scripts/fuzz.sh [target...]     environment: MINUTES, SEED
#        scripts/fuzz.sh --minimize      writes the smallest corpus that reaches as far back to fuzz/corpus
#
# Coverage is what stable Rust can give: LLVM's own pass, by flags that cargo-fuzz sets too. The sanitizers need nightly;
# the engine has no unsafe code, and tests with the server run under valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

command -v c++ >/dev/null || {
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && apt-get -qq update && apt-get -qq install -y --no-install-recommends g++ >/dev/null
} || { echo "fuzz: a C++ compiler is needed for libFuzzer; install g++" >&2; exit 1; }

target=$(rustc -vV | awk '/^host:/ { print $2 }')
# With --target these reach no build script.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
cargo build --release --quiet --locked --manifest-path fuzz/Cargo.toml --target "$target" --target-dir target/fuzz/build
fuzz=target/fuzz/build/$target/release/fuzz

names=()
for folder in fuzz/corpus/*/; do names+=("$(basename "$folder")"); done

if [[ ${1:-} == --minimize ]]; then
  for name in "${names[@]}"; do
    rm -rf "target/fuzz/minimal/$name"
    mkdir -p "target/fuzz/minimal/$name" "target/fuzz/found/$name"
    FUZZ_TARGET=$name "$fuzz" -set_cover_merge=1 -use_counters=0 -max_len=256 "target/fuzz/minimal/$name" "fuzz/corpus/$name" "target/fuzz/found/$name" 2>/dev/null
    rm -f "fuzz/corpus/$name"/*
    cp "target/fuzz/minimal/$name"/* "fuzz/corpus/$name/"
    echo "fuzz: $name: $(ls "fuzz/corpus/$name" | wc -l) inputs"
  done
  exit
fi

(($#)) && names=("$@")
minutes=${MINUTES:-5}
run() { # target
  local name=$1 found=target/fuzz/found/$1 log=target/fuzz/$1.log
  mkdir -p "$found" "target/fuzz/crashes"
  if FUZZ_TARGET=$name "$fuzz" -max_total_time="$(awk "BEGIN { print int($minutes * 60) }")" -timeout=5 -rss_limit_mb=1024 -max_len=4096 \
    ${SEED:+-seed="$SEED"} -artifact_prefix="target/fuzz/crashes/$name-" -print_final_stats=1 "$found" "fuzz/corpus/$name" >"$log" 2>&1; then
    echo "fuzz: $name: $(awk '/number_of_executed_units/ { print $2 }' "$log") inputs, none broke it ($(grep -o 'cov: [0-9]*' "$log" | tail -1))"
  else
    echo "fuzz: $name is broken by target/fuzz/crashes/$name-…; run it again with FUZZ_TARGET=$name $fuzz FILE" >&2
    grep -m3 -E 'panicked|allocation of|ERROR: libFuzzer|assertion' -A3 "$log" >&2
    return 1
  fi
}

# So many at a time as there are cores; a broken target does not end the others.
status=0
jobs=()
for name in "${names[@]}"; do
  while (($(jobs -rp | wc -l) >= $(nproc))); do sleep 1; done
  run "$name" &
  jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job" || status=1; done
exit $status
