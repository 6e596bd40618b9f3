module github.com/auth-gateway/auth-gateway/verify

go 1.23.0
