package bench

import (
	"testing"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.MainAsRoot(m) }
