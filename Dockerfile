# Two images from one file, chosen by --target: authserver (the default) and
# operator. Each contains one static program and the licence texts of everything
# linked into it, has no shell, and runs as an unprivileged user.

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS source
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=dev
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    GOFLAGS="-trimpath -buildvcs=false"

FROM source AS build-authserver
RUN go build -ldflags "-s -w -X main.version=$VERSION" -o /out/authserver ./cmd/authserver
RUN GOOS= GOARCH= go run ./hack/licenses /out/licenses ./cmd/authserver

FROM source AS build-operator
RUN go build -ldflags "-s -w -X main.version=$VERSION" -o /out/operator ./cmd/operator
RUN GOOS= GOARCH= go run ./hack/licenses /out/licenses ./cmd/operator

FROM scratch AS base
COPY --from=source /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=source /usr/local/go/lib/time/zoneinfo.zip /
ENV ZONEINFO=/zoneinfo.zip
USER 65532:65532

FROM base AS operator
COPY --from=build-operator /out/operator /
COPY --from=build-operator /out/licenses /licenses
COPY LICENSE NOTICE /licenses/
ENTRYPOINT ["/operator"]

FROM base AS authserver
COPY --from=build-authserver /out/authserver /
COPY --from=build-authserver /out/licenses /licenses
COPY LICENSE NOTICE /licenses/
# localhost cannot be reached from outside a container, so listen on all interfaces.
ENV HOST=""
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/authserver", "healthcheck"]
ENTRYPOINT ["/authserver"]
