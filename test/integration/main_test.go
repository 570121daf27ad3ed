// Package integration runs whole groups on this host, real programs over real
// servers, and breaks them. Its tests assert what is left afterwards, never how
// long it took; times are logged.
//
// Most of them run for any user whom PostgreSQL accepts. Started by root, they
// stay root, for a small file system and for what only root can do wrong; the
// programs and servers run as user postgres then.
package integration

import (
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

// smallDisk holds a server's empty data directory, but not one with contents.
const smallDisk = 60

func TestMain(m *testing.M) { group.MainWithSmallDisk(m, smallDisk) }
