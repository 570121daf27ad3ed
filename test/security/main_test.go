// Package security runs groups whose members do not trust everybody: each on a
// host of its own (a network namespace), with certificates and passwords, from
// the creation through a failover, a rewind and a switchover. It looks for
// passwords where they must not be, and tries what a node's role must not do.
//
// The groups need root, for the namespaces.
package security

import (
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.MainAsRoot(m) }
