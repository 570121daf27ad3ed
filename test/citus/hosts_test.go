package citus

import (
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// TestSilentHost cuts the host of a worker's primary off from everybody: what the
// coordinator's sessions have sent to it is answered by nobody, not even by its
// system. The worker is replaced all the same, and clients of the coordinator go on.
// What a client on the host itself goes on to write there is acknowledged to nobody.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	bin, genuine := pgtest.Citus(t)
	name := "stand-in for the extension"
	if genuine {
		name = "with the extension"
	}
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		f := &formation{genuine: genuine, workers: 1, alone: true}
		f.net = pgtest.NewNetwork(t, append([]string{"monitor"}, f.allNames()...)...)
		f.start(t, bin)
		f.createLedger(t)
		w := f.write(t)
		w.waitAck(t, time.Now())
		old := f.primary(t, 1, nil)
		straight := f.writeStraight(t, old)
		straight.waitAck(t, time.Now())
		w.begin()
		f.net.Isolate(t, old.Host)
		next := f.primary(t, 1, old)
		w.waitAck(t, time.Now())
		t.Logf("the host of %s is silent: write gap %s", old.Name, w.longest())
		f.net.Heal(t)
		f.requireHealed(t, w)
		straight.requireStraight(t, old, next)
	})
}
