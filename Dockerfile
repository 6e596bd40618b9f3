# Two images from one file, chosen by --target: authserver (the default) and
# operator. Both hold one static program, the licence
# texts of all that is linked into it, and no shell, and run as no one.

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
# In a container localhost is reached by nobody, so it listens everywhere.
ENV HOST=""
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/authserver", "healthcheck"]
ENTRYPOINT ["/authserver"]
