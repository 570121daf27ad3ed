package sim

import "time"

// event is something that happens at a virtual time.
type event struct {
	at  time.Duration
	seq uint64
	fn  func()
}

// queue is a binary heap of events, first by time, then by age.
type queue struct {
	heap []event
	seq  uint64
}

func (q *queue) before(i, j int) bool {
	a, b := &q.heap[i], &q.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(at time.Duration, fn func()) {
	q.seq++
	q.heap = append(q.heap, event{at, q.seq, fn})
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.before(i, up) {
			break
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

func (q *queue) pop() event {
	top := q.heap[0]
	last := len(q.heap) - 1
	q.heap[0] = q.heap[last]
	q.heap[last] = event{}
	q.heap = q.heap[:last]
	for i := 0; ; {
		small := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if q.before(c, small) {
				small = c
			}
		}
		if small == i {
			break
		}
		q.heap[i], q.heap[small] = q.heap[small], q.heap[i]
		i = small
	}
	return top
}

// source is a small random generator (splitmix64). Every actor has its own,
// so that leaving out one fault changes as little as possible for the others.
type source struct{ state uint64 }

func newSource(seed, stream uint64) source {
	s := source{seed*0x9E3779B97F4A7C15 ^ stream*0xD1B54A32D192ED03}
	s.next()
	return s
}

func (s *source) next() uint64 {
	s.state += 0x9E3779B97F4A7C15
	z := s.state
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// below returns a number in [0, n).
func (s *source) below(n int) int { return int(s.next() % uint64(n)) }

// chance is true p times out of 100.
func (s *source) chance(p int) bool { return s.below(100) < p }

// between returns a duration in [a, b).
func (s *source) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(s.next()%uint64(b-a))
}

// delay returns a duration around base with a heavy tail: most are near it,
// some ten times, a few a hundred times as long.
func (s *source) delay(base time.Duration) time.Duration {
	switch p := s.below(100); {
	case p < 75:
		return s.between(base/2, base*3/2)
	case p < 96:
		return s.between(base, base*10)
	default:
		return s.between(base*10, base*100)
	}
}
