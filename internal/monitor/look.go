package monitor

import (
	"context"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// look reads signs of life, and now and then everything, on and on.
func (d *decider) look(ctx context.Context, looks watch, probes *prober) error {
	ticker := time.NewTicker(pulseInterval)
	defer ticker.Stop()
	sessions := d.watchmen()
	defer sessions.Close()
	l := looking{decider: d, watch: looks, probes: probes, sessions: sessions}
	// The driver watches a context that can be cancelled with a goroutine per
	// query, which at five queries a second costs more than the queries. So the
	// end of the context breaks the connection instead.
	stop := context.AfterFunc(ctx, looks.Break)
	defer stop()
	for {
		if err := l.once(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		case <-sessions.Ended():
			l.whole = true
		}
	}
}

// looking is the state of the looks of one session.
type looking struct {
	*decider
	watch  watch
	probes *prober
	// sessions tells when a server process that serves a keeper's session ends.
	sessions watchman
	swept    time.Time
	// whole asks the next look for the sessions as well: one has ended or is
	// missing, or the watchman cannot see them.
	whole bool
}

func (l *looking) once(ctx context.Context) error {
	if l.whole || time.Since(l.swept) >= sweepInterval {
		return l.wholly(ctx)
	}
	all, err := l.watch.ReportTimes(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	now := time.Now()
	l.tick(ctx, now)
	again, strangers := l.observed.reports(all, now)
	l.queue.add(again...)
	if strangers {
		return l.wholly(ctx)
	}
	return nil
}

// tick keeps the observer's clock.
func (l *looking) tick(ctx context.Context, now time.Time) {
	if l.observed.tick(now) {
		l.probes.forgiveAll()
		if !l.swept.IsZero() {
			l.log.WarnContext(ctx, "the monitor was late: silence is counted from now on")
		}
	}
}

// wholly looks at reports and sessions, and now and then at everything.
func (l *looking) wholly(ctx context.Context) error {
	all, err := l.watch.Pulses(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	now := time.Now()
	first := l.swept.IsZero()
	l.tick(ctx, now)
	seen := l.observed.pulses(all, now)
	l.whole = !l.follow(all) || seen.missing
	if len(seen.lost) > 0 {
		l.log.InfoContext(ctx, "keeper sessions ended", "nodes", seen.lost)
		l.probes.hurry(seen.lost...)
	}
	l.queue.add(seen.changed...)
	if seen.strangers || now.Sub(l.swept) >= sweepInterval {
		l.swept = now
		if err := l.sweep(ctx); err != nil {
			return err
		}
	}
	if first {
		for _, p := range all {
			l.queue.add(p.GroupKey)
		}
		if l.ready != nil {
			l.ready()
		}
	}
	return nil
}

// follow has the watchman know all sessions, and tells whether it can see each.
func (l *looking) follow(all []pgautofailover.Pulse) bool {
	var backends []int
	known := true
	for _, p := range all {
		known = known && (!p.HasSession || len(p.Backends) > 0)
		for _, pid := range p.Backends {
			backends = append(backends, int(pid))
		}
	}
	return l.sessions.Follow(backends) && known
}

// sweep reads everything: what a notification told already, and what it should have.
func (l *looking) sweep(ctx context.Context) error {
	rows, err := l.watch.AllNodeRows(ctx)
	if err != nil {
		return err
	}
	l.queue.add(l.observed.sweep(rows, time.Now())...)
	if err := l.readSettings(ctx, l.watch); err != nil {
		return err
	}
	rules := rulesOf(l.current())
	l.probes.rules.Store(&rules)
	targets := make([]target, 0, len(rows))
	for _, n := range rows {
		targets = append(targets, target{id: n.ID, host: n.Host, port: n.Port})
	}
	l.probes.follow(ctx, targets)
	return nil
}

func (d *decider) readSettings(ctx context.Context, looks watch) error {
	s, err := looks.Settings(ctx)
	if err != nil && (ctx.Err() != nil || looks.Closed()) {
		return err
	}
	d.mu.Lock()
	changed := d.settings != s
	d.settings = s
	d.mu.Unlock()
	if !changed {
		return nil
	}
	if err != nil {
		d.log.WarnContext(ctx, "settings that cannot be read keep their defaults", "error", err)
	}
	d.log.InfoContext(ctx, "settings read", "node_considered_unhealthy_timeout", s.Decision.UnhealthyTimeout,
		"primary_demote_timeout", s.Decision.DemoteTimeout, "health_check_period", s.HealthCheckPeriod,
		"health_check_timeout", s.HealthCheckTimeout)
	return nil
}

func rulesOf(s pgautofailover.Settings) probeRules {
	return probeRules{
		enabled: s.HealthChecks, period: s.HealthCheckPeriod, timeout: s.HealthCheckTimeout,
		retries: s.HealthCheckMaxRetries, delay: s.HealthCheckRetryDelay, unhealthy: s.Decision.UnhealthyTimeout,
	}
}
