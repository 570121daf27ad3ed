package pgtest

import (
	"context"
	"embed"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed citus
var citusFiles embed.FS

// Citus returns a directory of server programs whose servers can create the
// extension citus, and whether it is the real one. Where that is not installed
// it is CitusStandIn's.
func Citus(t testing.TB) (bin string, genuine bool) {
	t.Helper()
	bin = Bin(t)
	share, lib := installed(t, bin, "--sharedir"), installed(t, bin, "--pkglibdir")
	if isFile(filepath.Join(share, "extension/citus.control")) && isFile(filepath.Join(lib, "citus.so")) {
		return bin, true
	}
	return CitusStandIn(t), false
}

// CitusStandIn returns copies of Bin's programs whose servers have an extension
// citus that is a stand-in: it has the metadata and the functions that change
// them, and distributes nothing.
func CitusStandIn(t testing.TB) string {
	t.Helper()
	bin := Bin(t)
	share, lib := installed(t, bin, "--sharedir"), installed(t, bin, "--pkglibdir")
	prefix := commonDir(bin, share, lib)
	root := Dir(t)
	place := func(dir string) string {
		at := filepath.Join(root, strings.TrimPrefix(dir, prefix))
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		return at
	}
	binAt, shareAt, libAt := place(bin), place(share), place(lib)
	// A server looks for its files beside the program that it really is.
	for _, name := range []string{"postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_config", "pg_resetwal"} {
		if err := copyFile(filepath.Join(bin, name), filepath.Join(binAt, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	linkAll(t, share, shareAt, "extension", "postgresql.conf.sample")
	linkAll(t, filepath.Join(share, "extension"), place(filepath.Join(share, "extension")), "citus.control", "citus--1.sql")
	linkAll(t, lib, libAt, "citus.so")
	// Something harmless that can be preloaded.
	link(t, filepath.Join(lib, "auto_explain.so"), filepath.Join(libAt, "citus.so"))
	for _, name := range []string{"citus.control", "citus--1.sql"} {
		text, err := citusFiles.ReadFile("citus/" + name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(shareAt, "extension", name), text)
	}
	sample, err := os.ReadFile(filepath.Join(share, "postgresql.conf.sample"))
	if err != nil {
		t.Fatal(err)
	}
	// The library sets it when it is the real one.
	write(t, filepath.Join(shareAt, "postgresql.conf.sample"), append(sample, "\nmax_prepared_transactions = 100\n"...))
	return binAt
}

// installed asks pg_config for a directory.
func installed(t testing.TB, bin, option string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "pg_config"), option).Output()
	if err != nil {
		missing(t, "pg_config does not say where the server's files are: "+err.Error())
	}
	return strings.TrimSpace(string(out))
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// commonDir is the directory that all of these are below.
func commonDir(dirs ...string) string {
	common := strings.Split(dirs[0], "/")
	for _, dir := range dirs[1:] {
		parts := strings.Split(dir, "/")
		n := 0
		for n < len(common) && n < len(parts) && common[n] == parts[n] {
			n++
		}
		common = common[:n]
	}
	return strings.Join(common, "/")
}

// linkAll makes links in one directory to everything in another but these.
func linkAll(t testing.TB, from, to string, but ...string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(but, e.Name()) {
			link(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
		}
	}
}

func link(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Symlink(from, to); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// ReachesConnections reports whether this system lets a process reach the
// connections of another one of the same user, which a container may forbid.
func ReachesConnections(t testing.TB) bool {
	t.Helper()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(self)
	fd, err := unix.PidfdGetfd(self, int(file.Fd()), 0)
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}
