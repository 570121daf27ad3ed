package security

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// secrets are passwords that nobody may see. Nothing else contains these words.
type secrets []string

// in names the secrets that a text holds.
func (s secrets) in(text []byte) []string {
	var found []string
	for _, secret := range s {
		if bytes.Contains(text, []byte(secret)) {
			found = append(found, secret)
		}
	}
	return found
}

// requireNotReadable looks at every file below a directory: those that others
// than their owner may read, and logs whoever may read them, hold no secret.
func (s secrets) requireNotReadable(t *testing.T, dir string) {
	t.Helper()
	looked := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) { // servers come and go
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // gone
		}
		log := strings.HasSuffix(path, ".log") || strings.Contains(path, "/log/")
		if info.Mode().Perm()&0o077 == 0 && !log {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // gone
		}
		looked++
		if found := s.in(text); len(found) > 0 {
			t.Errorf("%s %s holds %s", info.Mode(), path, strings.Join(found, " and "))
		}
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, looked)
}

// sightings are secrets on command lines and in process titles of this machine.
type sightings struct {
	secrets secrets
	dir     string
	stop    chan struct{}
	wg      sync.WaitGroup

	mu   sync.Mutex
	seen map[string]bool
}

// watch looks at all processes whose command line names something below a
// directory, as often as it can, until the test ends.
func (s secrets) watch(t *testing.T, dir string) *sightings {
	t.Helper()
	w := &sightings{secrets: s, dir: dir, stop: make(chan struct{}), seen: map[string]bool{}}
	w.wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
				w.look()
			}
		}
	})
	t.Cleanup(func() {
		close(w.stop)
		w.wg.Wait()
	})
	return w
}

func (w *sightings) look() {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte(w.dir)) || len(w.secrets.in(text)) == 0 {
			continue
		}
		w.mu.Lock()
		w.seen[string(bytes.ReplaceAll(text, []byte{0}, []byte{' '}))] = true
		w.mu.Unlock()
	}
}

// now looks once, and says what it sees.
func (w *sightings) now() error {
	w.forget()
	w.look()
	return w.error()
}

// forget begins anew.
func (w *sightings) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.seen)
}

func (w *sightings) error() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range w.seen {
		return fmt.Errorf("%d process titles hold a password, one of them: %s", len(w.seen), line)
	}
	return nil
}
