package moving

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// manifestSuffix is what the name of a manifest has in addition to that of its file.
const manifestSuffix = ".manifest"

// Manifest describes an exported file.
type Manifest struct {
	Format string `json:"format"` // native
	Users  int64  `json:"users"`
	SHA256 string `json:"sha256"` // of the file, in hex
}

// Export writes the accounts that read yields to a file, and a manifest beside it. An existing file is not overwritten.
// If perSecond is not 0, it takes at most so many accounts a second.
func Export(ctx context.Context, path string, perSecond int, read func(func(*identity.MovedAccount) error) error) (m Manifest, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return m, err
	}
	sum := sha256.New()
	buffer := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	size, limiter := pace(perSecond)
	err = read(func(a *identity.MovedAccount) error {
		if m.Users%int64(size) == 0 {
			if err := limiter.WaitN(ctx, size); err != nil {
				return err
			}
		}
		m.Users++
		return encoder.Encode(a)
	})
	if err = errors.Join(err, buffer.Flush(), f.Sync(), f.Close()); err != nil {
		return m, errors.Join(err, os.Remove(path))
	}
	m.Format, m.SHA256 = "native", hex.EncodeToString(sum.Sum(nil))
	text, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	return m, os.WriteFile(path+manifestSuffix, append(text, '\n'), 0o600)
}

// CheckManifest compares a file with its manifest. A file without a manifest is not checked.
func CheckManifest(path string) error {
	text, err := os.ReadFile(path + manifestSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var m Manifest
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return fmt.Errorf("%s%s cannot be read: %w", path, manifestSuffix, err)
	}
	sum, err := digestOf(path)
	if err != nil {
		return err
	}
	if sum != m.SHA256 {
		return fmt.Errorf("%s is not the file that its manifest describes; export it again, or remove %s%s if you have changed the file yourself",
			path, path, manifestSuffix)
	}
	return nil
}
