package cli

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// server is what an operator is told about a local PostgreSQL.
type server struct {
	pgdata, pgCtl string
	version       postgres.Version
	host          string
	port          int
	proxyPort     int
	pid           int
	inRecovery    bool
	control       pg.ControlData
	hasControl    bool
	status        string
}

// The states of a postmaster as its pid file tells them.
const (
	postmasterUnknown = "unknown"
	postmasterReady   = "ready"
	postmasterStandby = "standby"
)

// up reports whether the server accepts connections.
func (s server) up() bool { return s.status == postmasterReady || s.status == postmasterStandby }

// instance is the local PostgreSQL of a node.
func (n node) instance(log *slog.Logger) *postgres.Instance {
	cfg := postgres.Config{
		Tools: postgres.Tools{Dir: filepath.Dir(n.pgCtl())}, DataDir: n.pgdata, Port: n.pgPort(), Host: n.pgHost(), Logger: log,
	}
	if filepath.IsAbs(cfg.Host) {
		cfg.SocketDir = cfg.Host // where a server that is started has to put its socket
	}
	if n.isMonitor() {
		cfg.DBName = "pg_auto_failover"
	} else {
		cfg.User, cfg.DBName = n.keeper.Username, n.keeper.DBName
	}
	return postgres.New(cfg)
}

// inspectServer looks at the local PostgreSQL without disturbing it.
func inspectServer(ctx context.Context, n node) (server, error) {
	in := n.instance(nil)
	s := server{pgdata: n.pgdata, pgCtl: n.pgCtl(), host: n.pgHost(), port: n.pgPort(), status: postmasterUnknown}
	if !n.isMonitor() {
		s.proxyPort = n.keeper.ProxyPort
	}
	if version, err := in.Tools().Version(ctx); err == nil {
		s.version = version
	}
	if in.Exists() {
		control, err := in.ControlData(ctx)
		if err != nil {
			return s, withCode(exitPgCtl, err)
		}
		s.control, s.hasControl = control, true
		s.inRecovery = control.State == "in archive recovery"
	}
	status, err := in.Status()
	if err != nil {
		return s, withCode(exitPgCtl, err)
	}
	if status.Running {
		s.pid, s.status = status.PID, orDefault(status.State, postmasterUnknown)
		s.inRecovery = s.inRecovery || status.State == postmasterStandby
		if s.host == "" {
			s.host = status.SocketDir
		}
		if status.Port > 0 {
			s.port = status.Port
		}
	}
	return s, nil
}

func (s server) json() object {
	o := object{
		{"pgdata", s.pgdata},
		{"pg_ctl", s.pgCtl},
		{"version", s.version.Text},
		{"host", s.host},
		{"port", s.port},
		{"proxyport", s.proxyPort},
		{"pid", s.pid},
		{"in_recovery", s.inRecovery},
	}
	if s.hasControl {
		o = append(o, field{"control", object{
			{"version", s.control.ControlVersion},
			{"catalog_version", s.control.CatalogVersion},
			{"system_identifier", s.control.SystemID.String()},
		}})
	}
	return append(o, field{"postmaster", object{{"status", s.status}}})
}

// text prints the server as labelled lines.
func (s server) text(w io.Writer) error {
	lines := [][2]string{
		{"pgdata:", s.pgdata},
		{"pg_ctl:", s.pgCtl},
		{"pg_version:", strconv.Quote(s.version.Text) + " (" + strconv.Itoa(s.version.Number) + ")"},
		{"pghost:", s.host},
		{"pgport:", strconv.Itoa(s.port)},
		{"proxyport:", strconv.Itoa(s.proxyPort)},
		{"pid:", strconv.Itoa(s.pid)},
		{"is in recovery:", yesNo(s.inRecovery)},
		{"Control cluster state:", s.control.State},
		{"Control Version:", strconv.Itoa(s.control.ControlVersion)},
		{"Catalog Version:", strconv.Itoa(s.control.CatalogVersion)},
		{"System Identifier:", s.control.SystemID.String()},
		{"Latest checkpoint LSN:", s.control.Checkpoint.String()},
		{"Postmaster status:", s.status},
	}
	return labelled(w, 23, lines...)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// waitServer waits until the local server accepts connections, and writes when readWrite is set.
func waitServer(ctx context.Context, n node, patience time.Duration, readWrite bool) (bool, error) {
	deadline := time.Now().Add(patience)
	in := n.instance(nil)
	for {
		status, err := in.Status()
		up := err == nil && status.Running && (status.State == postmasterReady || status.State == postmasterStandby)
		if up && readWrite {
			up = writable(ctx, in)
		}
		if up || !time.Now().Before(deadline) {
			return up, nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return false, err
		}
	}
}

// writable reports whether the server is out of recovery.
func writable(ctx context.Context, in *postgres.Instance) bool {
	recovering := true
	err := in.With(ctx, func(s *postgres.Session) error {
		seen, err := s.Observe(ctx)
		recovering = seen.InRecovery
		return err
	})
	return err == nil && !recovering
}
