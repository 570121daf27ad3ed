// Package partition cuts the network between the members of a group, each on a
// host of its own (a network namespace), while a client beside every node keeps
// writing to that node alone. It asserts that no two servers acknowledge rows in
// overlapping time, and that no acknowledged row is lost.
//
// It needs root, for the namespaces.
package partition

import (
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.MainAsRoot(m) }
