# Builds the module and puts it into an official server image:
#   docker build --build-arg SERVER_IMAGE=valkey/valkey:8-bookworm .
ARG SERVER_IMAGE=redis:7-bookworm

FROM rust:1-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends libclang1-14 libclang-common-14-dev \
 && rm -rf /var/lib/apt/lists/*
ENV LIBCLANG_PATH=/usr/lib/llvm-14/lib
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM ${SERVER_IMAGE}
COPY --from=build --chmod=755 /src/target/release/libcache_guard.so /usr/local/lib/libcache_guard.so
CMD ["redis-server", "--loadmodule", "/usr/local/lib/libcache_guard.so"]
