package pgtest

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// placeVar names the directory below which tests keep their servers.
	placeVar = "PGDROVER_TEST_DIR"
	// memoryPlace is where a Linux machine keeps files in memory.
	memoryPlace = "/dev/shm"
	// enoughMemory is how much must be free for servers to be kept there, in
	// bytes: a stage with six groups of servers at once needs about half of it.
	enoughMemory = 8 << 30
)

// place is the directory below which the servers of the tests are kept: what
// the environment names, memory where there is plenty, else the disk. The tests
// end servers, not machines, so what they find does not depend on it; making and
// removing hundreds of data directories takes half the processor time in memory.
func place() string {
	if dir := os.Getenv(placeVar); dir != "" {
		return dir
	}
	if roomy(memoryPlace) {
		return memoryPlace
	}
	if dir := os.TempDir(); len(dir) <= 40 { // socket paths hold 107 bytes
		return dir
	}
	return "/tmp"
}

// roomy reports whether dir lies in memory, programs may be run from it, and a
// whole stage of tests fits.
func roomy(dir string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Flags&unix.ST_NOEXEC != 0 {
		return false
	}
	if fs.Bavail*uint64(fs.Bsize) < enoughMemory {
		return false
	}
	info, err := os.ReadFile("/proc/meminfo")
	return err == nil && availableMemory(string(info)) >= enoughMemory
}

// availableMemory is what programs can still get without swapping, in bytes;
// 0 when meminfo does not say.
func availableMemory(meminfo string) uint64 {
	_, rest, _ := strings.Cut(meminfo, "MemAvailable:")
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	kB, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil {
		return 0
	}
	return kB << 10
}

// OtherFileSystem makes a directory that does not lie on the file system of
// dir, and removes it when the test ends. Where there is none the test is skipped.
func OtherFileSystem(t testing.TB, dir string) string {
	t.Helper()
	var here, there unix.Stat_t
	if err := unix.Stat(dir, &here); err != nil {
		t.Fatalf("look at directory: %v", err)
	}
	for _, base := range []string{memoryPlace, "/tmp", "/var/tmp"} {
		if unix.Stat(base, &there) != nil || there.Dev == here.Dev {
			continue
		}
		other, err := os.MkdirTemp(base, "pgdrover-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(other); err != nil {
				t.Errorf("remove directory of the test: %v", err)
			}
		})
		return other
	}
	t.Skip("no second file system that this user may write to")
	return ""
}

// segmentAge is how old a segment of dynamic shared memory is at least before it
// counts as left behind: a server makes it a moment before it maps it.
const segmentAge = 2 * time.Second

// removeSegments removes the dynamic shared memory that the servers of user uid
// have made since the given moment and that nobody uses any more: a server that
// is killed leaves it, a megabyte at least, to a successor that the tests may
// never start.
func removeSegments(uid int, since time.Time) {
	left := leftSegments(uid, since)
	if len(left) == 0 {
		return
	}
	wait := time.NewTimer(time.Until(slices.MaxFunc(slices.Collect(maps.Values(left)), time.Time.Compare).Add(segmentAge)))
	defer wait.Stop()
	<-wait.C
	for name, made := range leftSegments(uid, since) {
		if left[name].Equal(made) {
			_ = os.Remove(name)
		}
	}
}

// leftSegments are the segments that no process maps and no server keeps for
// its processes of later (its statistics, say), and when they were made.
func leftSegments(uid int, since time.Time) map[string]time.Time {
	names, _ := filepath.Glob(memoryPlace + "/PostgreSQL.*") // the pattern is not malformed
	left := map[string]time.Time{}
	for _, name := range names {
		var info unix.Stat_t
		if unix.Stat(name, &info) != nil || int(info.Uid) != uid {
			continue
		}
		if made := time.Unix(info.Ctim.Unix()); made.After(since) {
			left[name] = made
		}
	}
	if len(left) == 0 {
		return nil
	}
	used := mappedSegments()
	for name := range used {
		delete(left, name)
	}
	keepListed(left, used)
	return left
}

// mappedSegments are the segments that processes use now.
func mappedSegments() map[string]bool {
	used := map[string]bool{}
	mappings, _ := filepath.Glob("/proc/[0-9]*/maps") // the pattern is not malformed
	for _, file := range mappings {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if at := strings.Index(line, memoryPlace+"/PostgreSQL."); at >= 0 {
				used[strings.Fields(line[at:])[0]] = true
			}
		}
	}
	return used
}

// keepListed takes out what a segment in use lists: a server's first segment,
// which it maps as long as it runs, holds the numbers of all others.
func keepListed(left map[string]time.Time, used map[string]bool) {
	numbers := map[uint32]string{}
	for name := range left {
		if n, err := strconv.ParseUint(strings.TrimPrefix(name, memoryPlace+"/PostgreSQL."), 10, 32); err == nil {
			numbers[uint32(n)] = name
		}
	}
	for name := range used {
		words, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		for ; len(words) >= 4; words = words[4:] {
			delete(left, numbers[binary.NativeEndian.Uint32(words)])
		}
	}
}
