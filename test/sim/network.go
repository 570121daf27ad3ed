package sim

import "time"

// network is the matrix of links, both directions apart; the monitor has the
// last row and column.
type network struct {
	w    *World
	cuts [maxHosts + 1][maxHosts + 1]bool
	// cutAt is when the link was last closed.
	cutAt [maxHosts + 1][maxHosts + 1]time.Duration
	// lossy is how many messages out of 100 need to be sent again.
	lossy [maxHosts + 1][maxHosts + 1]int
	// tcp says when connections are given up.
	tcp source
}

// giveUp is how long a server keeps a connection that has gone silent.
func (n *network) giveUp() time.Duration { return n.tcp.between(giveUpSoonest, giveUpLatest) }

const (
	latency  = 500 * time.Microsecond
	resend   = 200 * time.Millisecond
	deadPeer = 30 * time.Second // wal_sender_timeout, wal_receiver_timeout
	// A server gives up a silent connection after so long: sooner when something
	// was on its way, later when only keepalives find out.
	giveUpSoonest = 10 * time.Second
	giveUpLatest  = 20 * time.Second
)

// open reports whether packets from a reach b now.
func (n *network) open(a, b int) bool { return !n.cuts[a][b] }

// both reports whether a and b can talk now.
func (n *network) both(a, b int) bool { return !n.cuts[a][b] && !n.cuts[b][a] }

// alive reports whether the machine at this end answers packets.
func (n *network) alive(a int) bool {
	if a == monitorHost {
		return n.w.mon.up
	}
	h := n.w.hosts[a]
	return h.up && !h.frozen
}

// send delivers a message of one connection: delayed while the link is cut,
// lost when that takes longer than hold.
func (n *network) send(from, to int, hold time.Duration, deliver, lost func()) {
	w := n.w
	src := &w.rng
	if from < maxHosts {
		src = &w.hosts[from].rng
	}
	delay := src.delay(latency)
	if src.chance(n.lossy[from][to]) {
		delay += resend << src.below(4)
	}
	deadline := w.now + hold
	var arrive func()
	arrive = func() {
		if n.open(from, to) && n.alive(to) {
			deliver()
			return
		}
		if w.now >= deadline {
			if lost != nil {
				lost()
			}
			return
		}
		w.after(min(resend, deadline-w.now), arrive)
	}
	w.after(delay, arrive)
}

// cut closes the way from a to b.
func (n *network) cut(a, b int) {
	if a == b || n.cuts[a][b] {
		return
	}
	n.cuts[a][b] = true
	since := n.w.now
	n.cutAt[a][b] = since
	n.w.after(deadPeer, func() { n.expire(a, b, since) })
	if a == monitorHost || b == monitorHost {
		n.w.after(n.giveUp(), func() { n.expireSessions(a, b, since) })
	}
}

// expire ends replication connections over a link that stayed closed.
func (n *network) expire(a, b int, since time.Duration) {
	if !n.cuts[a][b] || n.cutAt[a][b] != since || a == monitorHost || b == monitorHost {
		return
	}
	for _, pair := range [2][2]int{{a, b}, {b, a}} {
		up := n.w.hosts[pair[0]].s
		for _, st := range append([]*stream(nil), up.senders...) {
			if st.down.h.n == pair[1] {
				st.closeReceiver()
				st.closeSender()
				st.down.connect(time.Second)
				st.down.h.k.serverChanged()
			}
		}
	}
}

// expireSessions lets the monitor's server give up the session of a keeper
// that it cannot reach.
func (n *network) expireSessions(a, b int, since time.Duration) {
	if !n.cuts[a][b] || n.cutAt[a][b] != since || a != monitorHost && b != monitorHost {
		return
	}
	other := min(a, b)
	if id := n.w.hosts[other].k.id; id != 0 {
		n.w.mon.releaseSession(id)
	}
}

// deaf is for how long the monitor has been cut off from everybody.
func (n *network) deaf() time.Duration {
	since := time.Duration(0)
	for h := range n.w.hosts {
		if n.open(h, monitorHost) {
			return 0
		}
		since = max(since, n.cutAt[h][monitorHost])
	}
	return n.w.now - since
}

// healAll opens everything.
func (n *network) healAll() {
	n.cuts = [maxHosts + 1][maxHosts + 1]bool{}
	n.lossy = [maxHosts + 1][maxHosts + 1]int{}
}
