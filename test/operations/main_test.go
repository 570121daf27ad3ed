// Package operations walks through what the manual tells an operator to do with
// a group that is in use: clients write all the time, and notice nothing.
//
// Its tests assert what is left afterwards, never how long it took; times are logged.
package operations

import (
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.MainWithNext(m) }
