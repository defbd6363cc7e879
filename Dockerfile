# Tidegate as a container: docker build -t tidegate .
# Then: docker run -p 8080:8080 -e ORIGIN=http://app:8000 tidegate

# The builder's version is that of rust-toolchain.toml, which is not copied: rustup would fetch rustfmt and clippy for it.
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
COPY .ci/need .ci/need
RUN .ci/need cc=gcc cmake make

# The dependencies, in a layer of their own: built for an empty program, and again only when Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src tests benches \
    && touch src/lib.rs tests/main.rs benches/rules.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cargo build --locked --release

# Sources are as old as the checkout; without the touch the empty program would pass for newer.
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --locked --release

FROM ${RUNTIME_IMAGE}
ARG RUNTIME_IMAGE
LABEL org.opencontainers.image.title="Tidegate" \
      org.opencontainers.image.description="A caching reverse proxy for traffic spikes" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${RUNTIME_IMAGE}"

# Who the app is when it speaks TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE /usr/share/doc/tidegate/LICENSE
COPY config/container.toml /etc/tidegate/tidegate.toml
COPY --from=build /build/target/release/tidegate /usr/local/bin/tidegate

# Nobody's number: nothing in the image belongs to it but the place of its state, which is for a volume. Nothing else is written
# but standard output and error.
RUN install -d -m 700 -o 65532 -g 65532 /var/lib/tidegate
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["tidegate", "health", "-c", "/etc/tidegate/tidegate.toml"]
ENTRYPOINT ["tidegate"]
CMD ["run", "-c", "/etc/tidegate/tidegate.toml"]
