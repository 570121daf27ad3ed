// Package integration runs whole groups on this host, real programs over real
// servers, and breaks them. Its tests assert what is left afterwards, never how
// long it took; times are logged.
package integration

import (
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.Main(m) }
