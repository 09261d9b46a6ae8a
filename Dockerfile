# The image of sallyport: one static program that runs as nobody in particular, and nothing else. It has no shell, so its
# health check is `sallyport ready`. Any builder can build it, BuildKit or not.
ARG GO_IMAGE=golang:1.26.8-bookworm

FROM ${GO_IMAGE} AS build
# Where modules come from; the defaults are Go's own.
ARG GOPROXY
ARG GOSUMDB
ARG GONOSUMDB
ARG GOPRIVATE
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags=-s -o /root-of-image/sallyport ./cmd/sallyport
# A new volume takes owner and mode of the directory that it is mounted on, so nobody has to be root to make it ours.
RUN cd /root-of-image && mkdir -p run/sallyport var/lib/sallyport/secrets var/lib/sallyport/audit etc/ssl/certs && \
    cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ && chmod 0755 run var var/lib && \
    chmod 0700 run/sallyport var/lib/sallyport/secrets var/lib/sallyport/audit

FROM scratch
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sallyport" \
      org.opencontainers.image.description="Identity for Model Context Protocol servers, as an Envoy filter" \
      org.opencontainers.image.source="https://github.com/sallyport/sallyport" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build --chown=65532:65532 /root-of-image/ /
USER 65532:65532
ENTRYPOINT ["/sallyport"]
CMD ["help"]
