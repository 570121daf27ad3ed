package citus

import (
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.MainAsRoot(benchmarks{m}) }
