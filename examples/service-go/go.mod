module example.com/service

go 1.23.0

require github.com/auth-gateway/auth-gateway/verify v0.0.0

replace github.com/auth-gateway/auth-gateway/verify => ../../verify
