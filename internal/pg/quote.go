package pg

import (
	"strconv"
	"strings"
)

// QuoteIdent quotes an SQL identifier, always.
func QuoteIdent(s string) string {
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// QuoteLiteral quotes an SQL string constant; it reads the same whatever
// standard_conforming_strings is.
func QuoteLiteral(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// QuoteConf quotes a value for postgresql.conf, where a quoted string may not
// span lines and backslashes are escapes.
func QuoteConf(s string) string {
	return "'" + confEscapes().Replace(s) + "'"
}

func confEscapes() *strings.Replacer {
	return strings.NewReplacer("'", "''", `\`, `\\`, "\n", `\n`, "\r", `\r`)
}

// Prefixes of the names by which the nodes of a group know one another.
const (
	StandbyPrefix = "pgautofailover_standby_"
	CopyPrefix    = "pgautofailover_copy_"
)

// Roles that the nodes of a group and their monitor use among themselves.
const (
	ReplicationRole = "pgautofailover_replicator"
	MonitorRole     = "pgautofailover_monitor"
)

// StandbyName is the replication slot of node id on the other nodes and the
// application name of its WAL receiver. Nothing but a running standby's
// receiver may use it: whoever connects under it acknowledges commits.
func StandbyName(id int64) string { return StandbyPrefix + strconv.FormatInt(id, 10) }

// CopyName is the application name of node id's base backups and rewinds.
func CopyName(id int64) string { return CopyPrefix + strconv.FormatInt(id, 10) }

// ParseStandbyName returns the node of a slot or application name.
func ParseStandbyName(name string) (id int64, ok bool) {
	digits, ok := strings.CutPrefix(name, StandbyPrefix)
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || StandbyName(id) != name {
		return 0, false
	}
	return id, true
}
