package multimaster

import (
	"os"
	"testing"

	"github.com/pgdrover/pgdrover/test/group"
)

// measured is what this run has found; every benchmark adds to it.
var measured report

// benchmarks prints the report after the last of them.
type benchmarks struct{ *testing.M }

func (m benchmarks) Run() int {
	code := m.M.Run()
	measured.write(os.Stdout)
	return code
}

func TestMain(m *testing.M) { group.MainAsRoot(benchmarks{m}) }
