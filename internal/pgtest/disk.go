package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// diskVar names a directory on a small file system.
const diskVar = "PGDROVER_TEST_SMALL_DISK"

// SmallDisk returns a directory on a file system that is quickly full: the one
// that Setup.SmallDisk asked for. Making one needs root, so otherwise the test
// is skipped, unless the environment names one.
func SmallDisk(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(diskVar)
	if dir == "" {
		t.Skipf("a small file system needs root to be made, and %s names none", diskVar)
	}
	return dir
}

func (s Setup) mountSmallDisk(dir string, owner *syscall.Credential) ([]string, error) {
	if s.SmallDisk == 0 || os.Geteuid() != 0 || os.Getenv(diskVar) != "" {
		return nil, nil
	}
	disk := smallDisk(dir)
	if err := os.Mkdir(disk, 0o755); err != nil {
		return nil, fmt.Errorf("make a small file system: %w", err)
	}
	options := fmt.Sprintf("size=%dm", s.SmallDisk)
	if owner != nil {
		options += fmt.Sprintf(",uid=%d,gid=%d", owner.Uid, owner.Gid)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, options); err != nil {
		// A container may not let root mount: the test says that it is skipped.
		return nil, nil //nolint:nilerr // see above
	}
	return []string{diskVar + "=" + disk}, nil
}

func smallDisk(dir string) string { return filepath.Join(dir, "disk") }

// unmountSmallDisk undoes mountSmallDisk, also when that did nothing.
func unmountSmallDisk(dir string) { _ = unix.Unmount(smallDisk(dir), unix.MNT_DETACH) }
