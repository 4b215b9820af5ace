# Sourced by the other scripts: where the compiler's and the server's parts are.

# The folder of libclang, which the crate redis-module needs for its bindings. The headers beside it (stddef.h)
# are a package of their own, so a library without them does not count.
find_libclang() {
  local dir
  for dir in ${LIBCLANG_PATH:-} $(printf '%s\n' /usr/lib/llvm*/lib | sort -rV) /usr/lib64 /usr/lib \
    /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib; do
    compgen -G "$dir/libclang*.so*" >/dev/null || [[ -e $dir/libclang.dylib ]] || continue
    compgen -G "$dir/clang/*/include/stddef.h" >/dev/null || compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null || continue
    echo "$dir"
    return
  done
  return 1
}

find_server() {
  command -v "${REDIS_SERVER:-redis-server}" || { [[ -z ${REDIS_SERVER:-} ]] && command -v valkey-server; }
}

[[ -f ${CARGO_HOME:-$HOME/.cargo}/env ]] && . "${CARGO_HOME:-$HOME/.cargo}/env"
if LIBCLANG_PATH=$(find_libclang); then export LIBCLANG_PATH; else unset LIBCLANG_PATH; fi
