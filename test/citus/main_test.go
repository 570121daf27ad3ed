package citus

import (
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.Main(m) }
