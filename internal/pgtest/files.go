package pgtest

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Dir makes a directory with a short path that belongs to the user who runs the
// servers, and removes it when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatalf("make a directory: %v", err)
	}
	t.Cleanup(func() {
		releaseSharedMemory(dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove directory of the test: %v", err)
		}
	})
	owner, err := serverOwner()
	if err != nil {
		t.Fatal(err)
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatalf("give directory to %s: %v", serverUser, err)
		}
	}
	return dir
}

// releaseSharedMemory removes the System V segments of the data directories
// below root. A postmaster that was killed leaves its segment to the next one;
// when there is none it would stay until the machine is restarted, and a kernel
// has room for 4096 of them.
func releaseSharedMemory(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil { // what cannot be read has no segment that we know of
			return nil //nolint:nilerr // see above
		}
		if d.Name() != pidFile {
			return nil
		}
		if id, attached, ok := sharedMemory(filepath.Dir(path)); ok && attached == 0 {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		}
		return nil
	})
}

// pidFile is the file of a data directory that its postmaster writes and, after
// a crash, leaves behind.
const pidFile = "postmaster.pid"

// sharedMemory finds the segment of a data directory and how many processes are
// attached to it; false means that there is none.
func sharedMemory(dataDir string) (id, attached int, ok bool) {
	text, err := os.ReadFile(filepath.Join(dataDir, pidFile))
	if err != nil {
		return 0, 0, false
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 7 {
		return 0, 0, false
	}
	fields := strings.Fields(lines[6]) // key and id
	if len(fields) != 2 {
		return 0, 0, false
	}
	id, err = strconv.Atoi(fields[1])
	if err != nil {
		return 0, 0, false
	}
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil || strconv.Itoa(int(desc.Perm.Key)) != fields[0] {
		return 0, 0, false
	}
	return id, int(desc.Nattch), true
}

func copyFile(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if err := dst.Close(); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

// copyTree copies directories and plain files, modes included, into a directory
// that may exist already.
func copyTree(from, to string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, info.Mode().Perm())
		}
		return copyFile(path, target, info.Mode().Perm())
	})
	if err != nil {
		return fmt.Errorf("copy directory: %w", err)
	}
	return nil
}

// giveToServerUser hands a directory and everything in it to the user who runs
// the servers, when that is somebody else.
func giveToServerUser(dir string) error {
	owner, err := serverOwner()
	if err != nil || owner == nil {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
	if err != nil {
		return fmt.Errorf("give directory to %s: %w", serverUser, err)
	}
	return nil
}

// GiveToServerUser hands a file, or a directory with everything in it, to the
// user who runs the servers, when that is somebody else.
func GiveToServerUser(t testing.TB, path string) {
	t.Helper()
	if err := giveToServerUser(path); err != nil {
		t.Fatal(err)
	}
}

// Mkdir makes a directory that belongs to the user who runs the servers.
func Mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatalf("make directory: %v", err)
	}
	if err := giveToServerUser(dir); err != nil {
		t.Fatal(err)
	}
}
