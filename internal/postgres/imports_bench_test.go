package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/moving"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// BenchmarkImport compares an import with a bare COPY of the same accounts, which checks nothing and cannot refuse a
// single one. Run it with -benchtime 1x.
func BenchmarkImport(b *testing.B) {
	const accounts = 100_000
	path := filepath.Join(b.TempDir(), "users.ndjson")
	var text strings.Builder
	for n := range accounts {
		fmt.Fprintf(&text, `{"id":"%08x-0000-4000-8000-%012d","username":"user%d","email":"user%d@example.com",`+
			`"first_name":"Ada","last_name":"Lovelace",`+
			`"email_verified_at":"2024-05-01T12:00:00Z","password_hash":"$2b$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"}`+"\n",
			uint32(n)*2654435761, n, n, n) // ids in no order, as they are
	}
	testenv.NoError(b, os.WriteFile(path, []byte(text.String()), 0o600))
	measure := func(name string, run func(b *testing.B) time.Duration) {
		b.Run(name, func(b *testing.B) {
			var took time.Duration
			for range b.N {
				took += run(b)
			}
			b.ReportMetric(float64(accounts*b.N)/took.Seconds(), "accounts/s")
		})
	}
	measure("COPY", func(b *testing.B) time.Duration {
		c := postgrestest.Config(b)
		postgrestest.Open(b, c)
		conn := testenv.Must(pgx.Connect(b.Context(), postgrestest.DSN(c)))(b)
		defer conn.Close(b.Context())
		at := time.Now()
		columns := []string{"id", "username", "canonical_username", "email", "canonical_email", "first_name", "last_name", "scope",
			"password_hash", "email_verified_at", "activated_at", "created_at", "updated_at"}
		begun := time.Now()
		testenv.Must(conn.CopyFrom(b.Context(), pgx.Identifier{"users"}, columns, pgx.CopyFromSlice(accounts, func(n int) ([]any, error) {
			name := fmt.Sprint("user", n)
			return []any{fmt.Sprintf("%08x-0000-4000-8000-%012d", uint32(n)*2654435761, n), name, name, name + "@example.com", name + "@example.com",
				"Ada", "Lovelace", "profile email", "$2b$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", at, at, at, at}, nil
		})))(b)
		return time.Since(begun)
	})
	measure("import", func(b *testing.B) time.Duration {
		store := postgrestest.Open(b, postgrestest.Config(b))
		begun := time.Now()
		reader := &moving.Reader{From: "native", Files: []string{path}}
		testenv.NoError(b, reader.Check())
		p := testenv.Must(importing(store).Run(b.Context(), "files", reader.Entries()))(b)
		if p.Imported != accounts {
			b.Fatalf("%+v", p)
		}
		return time.Since(begun)
	})
}
