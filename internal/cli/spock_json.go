package cli

import (
	"cmp"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/spock"
)

// sortedSettings are the settings by name.
func sortedSettings(settings spock.Settings) []spock.Setting {
	return slices.SortedFunc(maps.Values(settings), func(a, b spock.Setting) int { return cmp.Compare(a.Name, b.Name) })
}

// writeSpockJSON prints what status shows, one object for each node.
func writeSpockJSON(w io.Writer, nodes []spockNode) error {
	all := array{}
	for _, n := range nodes {
		all = append(all, n.object())
	}
	return printJSON(w, all, jsonStyle{})
}

func (n *spockNode) object() object {
	if n.failure != nil {
		return object{{"database", n.place}, {"node", nil}, {"error", n.failure.Error()}, {"hint", jsonText(hintOf(n.failure))}}
	}
	o := object{{"database", n.place}, {"schema_version", n.schema}}
	if n.name == "" {
		return append(o, field{"node", nil})
	}
	subs := array{}
	for _, s := range n.subs {
		subs = append(subs, s.object())
	}
	copies := array{}
	for _, c := range n.copies {
		copies = append(copies, object{
			{"subscription", c.Subscription},
			{"schema", c.Schema},
			{"table", c.Table},
			{"state", c.State},
			{"bytes_total", c.BytesTotal},
			{"bytes_done", c.BytesDone},
			{"rows", c.Rows},
		})
	}
	var oldest any
	if n.tombstones > 0 {
		oldest = jsonTime(n.oldest)
	}
	invalid := object{}
	for _, s := range n.invalid {
		invalid = append(invalid, field{s.Name, s.Invalid})
	}
	return append(o,
		field{"node", object{{"id", int64(n.id)}, {"name", n.name}}},
		field{"engine", n.engine},
		field{"copy", n.copied},
		field{"subscriptions", subs},
		field{"resolutions", n.resolved},
		field{"exceptions", n.exceptions},
		field{"tombstones", object{{"count", n.tombstones}, {"oldest", oldest}}},
		field{"counters", countersObject(n.counters)},
		field{"copies", copies},
		field{"invalid_settings", invalid},
	)
}

func (s *spockSub) object() object {
	o := object{
		{"name", s.Name},
		{"provider", s.ProviderName},
		{"enabled", s.Enabled},
		{"status", s.status},
		{"state", s.state.State},
		{"slot", s.Slot},
	}
	if s.known {
		var lagBytes, lag any
		if s.bytesKnown() {
			lagBytes = s.lagBytes
		}
		if s.lagKnown() {
			lag = s.lag.Milliseconds()
		}
		o = append(o,
			field{"lag_bytes", lagBytes},
			field{"lag_ms", lag},
			field{"applied_lsn", s.progress.CommitLSN.String()},
			field{"received_lsn", s.progress.Received.String()},
			field{"provider_lsn", s.progress.InsertLSN.String()},
			field{"commit_time", jsonTime(s.progress.CommitAt)},
			field{"measured_at", jsonTime(s.progress.UpdatedAt)},
		)
	} else {
		o = append(o, field{"lag_bytes", nil}, field{"lag_ms", nil})
	}
	var last any
	if s.state.LastError != "" {
		last = object{
			{"message", s.state.LastError},
			{"hint", jsonText(s.state.LastHint)},
			{"sqlstate", s.state.LastErrorCode},
			{"at", jsonTime(s.state.LastErrorAt)},
		}
	}
	return append(o,
		field{"inserted", s.stats.Inserted},
		field{"updated", s.stats.Updated},
		field{"deleted", s.stats.Deleted},
		field{"conflicts", s.stats.Conflicts},
		field{"delta_applied", s.stats.DCA},
		field{"counters", countersObject(s.counters)},
		field{"failures", s.state.Failures},
		field{"last_error", last},
	)
}

func countersObject(counters []spock.Counter) object {
	o := object{}
	for _, c := range counters {
		o = append(o, field{c.Name, c.Value})
	}
	return o
}

// jsonText is a text, or null where there is none.
func jsonText(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func jsonTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
