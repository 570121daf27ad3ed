package apply

import (
	"slices"
	"time"
)

// clock is how far this server's clock is ahead of ours, as far as that is sure.
// When the server answers, its clock has passed the time that it says; how much
// of the way since was the answer's nobody knows. So each answer is a lower
// bound, and the best of the last few counts: what is applied before the server's
// clock has passed it could be followed by a local write with an earlier stamp.
type clock struct {
	bounds []time.Duration
}

// clockWindow is how many answers count: in some seconds a clock that was set
// back is believed.
const clockWindow = 10

func (c *clock) add(bound time.Duration) {
	if len(c.bounds) == clockWindow {
		c.bounds = append(c.bounds[:0], c.bounds[1:]...)
	}
	c.bounds = append(c.bounds, bound)
}

func (c *clock) offset() time.Duration {
	if len(c.bounds) == 0 {
		return 0
	}
	return slices.Max(c.bounds)
}
