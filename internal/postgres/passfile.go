package postgres

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// passFile holds the password for the upstream: PostgreSQL writes each new
// primary_conninfo to its log. The server finds it by this name, it runs in its data directory.
const passFile = "postgresql-auto-failover.pgpass" //nolint:gosec // the name of a file

// withPassFile is how a standby reads what placePassword wrote.
func withPassFile(info pg.ConnInfo) pg.ConnInfo {
	if info.Get("password") == "" {
		return info
	}
	return info.With("password", "").With("passfile", passFile)
}

// placePassword has the password for up where primary_conninfo says. Nobody else's
// mode will do: the client library goes by no file that others may read. Without
// an upstream what is there stays for the next one.
func (i *Instance) placePassword(up Upstream, durable bool) error {
	password := up.ConnInfo.Get("password")
	if password == "" {
		return nil
	}
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	image := "*:*:*:" + escape.Replace(up.ConnInfo.Get("user")) + ":" + escape.Replace(password) + "\n"
	old, err := os.ReadFile(i.path(passFile))
	if info, statErr := os.Lstat(i.path(passFile)); err == nil && statErr == nil && info.Mode() == 0o600 && string(old) == image {
		return nil
	}
	_, err = placeFile(i.path(passFile), []byte(image), 0o600, durable)
	return err
}

// syncPassword brings to disk what placePassword left.
func (i *Instance) syncPassword() error {
	if err := syncDir(i.path(passFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removePassword is for a server that has no upstream any more. A power cut may
// bring the file back, for its owner's eyes only.
func (i *Instance) removePassword() error {
	if err := os.Remove(i.path(passFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
