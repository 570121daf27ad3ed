package group

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOverlap(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ack := func(tli uint32, sent, got int) Ack {
		at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
		return Ack{Port: 5000 + int(tli), Timeline: tli, Sent: at(sent), Got: at(got)}
	}
	elsewhere := func(a Ack) Ack {
		a.Port = 4000
		return a
	}
	for _, c := range []struct {
		name  string
		acks  []Ack
		found bool
	}{
		{name: "nothing"},
		{name: "one after the other", acks: []Ack{ack(1, 0, 10), ack(1, 20, 30), ack(2, 40, 50), ack(3, 60, 70)}},
		{name: "an answer that was on its way", acks: []Ack{ack(1, 0, 60), ack(2, 40, 50), ack(2, 51, 55)}},
		{name: "the old one still takes rows", acks: []Ack{ack(1, 0, 10), ack(2, 40, 50), ack(1, 51, 55)}, found: true},
		{name: "two on one timeline", acks: []Ack{ack(1, 0, 10), elsewhere(ack(1, 20, 30))}, found: true},
		{name: "far back", acks: []Ack{ack(1, 0, 10), ack(2, 20, 30), ack(3, 40, 50), ack(1, 60, 70)}, found: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, _, found := Overlap(c.acks)
			require.Equal(t, c.found, found)
		})
	}
}
