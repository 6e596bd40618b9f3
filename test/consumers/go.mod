module github.com/auth-gateway/auth-gateway/test/consumers

go 1.26.0

require (
	github.com/auth-gateway/auth-gateway v0.0.0
	github.com/auth-gateway/auth-gateway/verify v0.0.0
	github.com/emersion/go-sasl v0.0.0-20241020182733-b788ff22d5a6
	github.com/emersion/go-smtp v0.25.1
)

require (
	github.com/emersion/go-message v0.18.2 // indirect
	github.com/fergusstrange/embedded-postgres v1.34.0 // indirect
	github.com/go-jose/go-jose/v4 v4.1.9 // indirect
	github.com/xi2/xz v0.0.0-20171230120015-48954b6210f8 // indirect
)

require (
	github.com/go-json-experiment/json v1.27.2 // indirect
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	github.com/lib/pq v1.12.3
	golang.org/x/crypto v0.59.0 // indirect
)

replace (
	github.com/auth-gateway/auth-gateway => ../..
	github.com/auth-gateway/auth-gateway/verify => ../../verify
)
