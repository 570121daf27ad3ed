package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
)

const (
	hbaFile   = "pg_hba.conf"
	identFile = "pg_ident.conf"
	// gateMap leads our system user to the role of local connections while the gate is closed.
	gateMap = "pgdrover_gate"
)

// Resolver looks names up; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

var _ Resolver = (*net.Resolver)(nil)

// HBAAddress returns the address field for a host. The server checks a name by
// looking up the client's address and that name again: a name whose addresses
// do not lead back to it becomes its address. warning says what an operator should know.
func HBAAddress(ctx context.Context, resolver Resolver, host string) (address, warning string) {
	if _, err := netip.ParseAddr(host); err == nil || strings.Contains(host, "/") {
		return pg.HBAAddress(host), ""
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		return host, fmt.Sprintf("host name %q does not resolve: its HBA rules match nobody until it does", host)
	}
	for _, addr := range addrs {
		names, err := resolver.LookupAddr(ctx, addr.Unmap().String())
		if err == nil && slices.ContainsFunc(names, func(name string) bool {
			return strings.EqualFold(strings.TrimSuffix(name, "."), strings.TrimSuffix(host, "."))
		}) {
			return host, ""
		}
	}
	address = pg.HBAAddress(addrs[0].Unmap().String())
	return address, fmt.Sprintf("address %s of host name %q does not lead back to it: the HBA rules use the address", addrs[0].Unmap(), host)
}

// HostType returns the kind of rule for connections over TCP.
func HostType(ssl bool) string {
	if ssl {
		return "hostssl"
	}
	return "host"
}

// PeerRules let another node of the group replicate from this one and rewind to it.
func PeerRules(ssl bool, dbname, address, method string) []pg.HBARule {
	options := ""
	if method == "cert" {
		options = "map=pgautofailover"
	}
	rule := pg.HBARule{Type: HostType(ssl), Database: "replication", User: pg.ReplicationRole, Address: address, Method: method, Options: options}
	other := rule
	other.Database = dbname
	return []pg.HBARule{rule, other}
}

// MonitorRule lets the monitor's health checks in.
func MonitorRule(ssl bool, address string) pg.HBARule {
	return pg.HBARule{Type: HostType(ssl), Database: "all", User: pg.MonitorRole, Address: address, Method: "trust"}
}

// EnsureHBA has the rules in pg_hba.conf; when that changed anything and the server
// runs, it returns once they are in force.
func (i *Instance) EnsureHBA(ctx context.Context, rules ...pg.HBARule) (changed bool, err error) {
	changed, err = updateFile(i.path(hbaFile), 0o600, func(image string) string {
		image, _ = pg.EnsureHBARules(image, rules...)
		return image
	})
	if err != nil {
		return false, fmt.Errorf("edit pg_hba.conf: %w", err)
	}
	for _, r := range rules {
		if strings.Contains(r.Options, "map=pgautofailover") {
			// A node's certificate bears the name of the role that nodes have on the monitor.
			for _, role := range []string{"autoctl_node", pg.ReplicationRole} {
				if err := i.ensureIdent(pg.IdentLine("pgautofailover", "autoctl_node", role)); err != nil {
					return changed, err
				}
			}
		}
	}
	if !changed {
		return false, nil
	}
	return true, i.reloadLoose(ctx)
}

func (i *Instance) ensureIdent(line string) error {
	_, err := updateFile(i.path(identFile), 0o600, func(image string) string {
		image, _ = pg.EnsureLine(image, line)
		return image
	})
	if err != nil {
		return fmt.Errorf("edit pg_ident.conf: %w", err)
	}
	return nil
}

// reloadLoose reloads, and is content with the signal when the server takes no connection now.
func (i *Instance) reloadLoose(ctx context.Context) error {
	if err := i.Reload(ctx); err != nil {
		if _, answered := errors.AsType[*pgconn.PgError](err); !answered && ctx.Err() != nil {
			return err
		}
		return i.signalServer(hangup)
	}
	return nil
}

// GateClosed reports whether pg_hba.conf refuses ordinary connections.
func (i *Instance) GateClosed() (bool, error) {
	image, err := os.ReadFile(i.path(hbaFile))
	if err != nil {
		return false, fmt.Errorf("read pg_hba.conf: %w", err)
	}
	return pg.GateClosed(string(image)), nil
}

// CloseGate refuses all ordinary connections, local ones too, and ends those
// that exist. It returns when both are proved: a new connection is refused, and no
// session is left that began before. On a stopped server the next start is gated.
func (i *Instance) CloseGate(ctx context.Context) error {
	if err := i.writeGate(); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	st, err := i.Status()
	if err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	if !st.Running {
		return nil
	}
	s, err := i.reloaded(ctx)
	if err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	defer s.Close(ctx)
	if err := i.proveGate(ctx); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	if err := s.clearClients(ctx, st.PID); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	return nil
}

func (i *Instance) writeGate() error {
	role, err := i.localUser()
	if err != nil {
		return err
	}
	system, err := SystemUser()
	if err != nil {
		return err
	}
	if err := i.ensureIdent(pg.IdentLine(gateMap, system, role)); err != nil {
		return err
	}
	_, err = updateFile(i.path(hbaFile), 0o600, func(image string) string {
		return pg.CloseGate(image, pg.GateLocal{User: role, Map: gateMap})
	})
	return err
}

// OpenGate lets ordinary connections in again.
func (i *Instance) OpenGate(ctx context.Context) error {
	closed, err := i.GateClosed()
	if err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	if closed {
		if _, err := updateFile(i.path(hbaFile), 0o600, pg.OpenGate); err != nil {
			return fmt.Errorf("open the gate: %w", err)
		}
	}
	// Also when the file is open already: a kill may have come before the reload.
	if err := i.Reload(ctx); err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	return nil
}

// probeRole has no right to anything; it need not exist.
const probeRole = "pgdrover_gate_probe"

// proveGate connects as somebody ordinary and must be refused by pg_hba.conf itself.
func (i *Instance) proveGate(ctx context.Context) error {
	for {
		s, err := i.Connect(ctx, ConnectConfig{User: probeRole})
		if err == nil {
			s.Close(ctx)
		}
		// The name of the server's function is the same in every language.
		if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Routine == "ClientAuthentication" {
			return nil
		}
		if waitErr := pause(ctx, pollPeriod); waitErr != nil {
			return withHint(fmt.Errorf("wait until pg_hba.conf refuses connections: %w", errors.Join(waitErr, err)),
				"see the server's log: a mistake in pg_hba.conf makes it keep the old rules")
		}
	}
}

// clearClients ends all ordinary sessions, those included that were let in by
// the old rules but had not finished logging in when the new ones came: they
// are children of the postmaster that no view shows yet.
func (s *Session) clearClients(ctx context.Context, postmaster int) error {
	early, err := childrenOf(postmaster)
	if err != nil {
		return err
	}
	for {
		left, err := s.TerminateClients(ctx)
		if err != nil {
			return err
		}
		early, err = s.stillLoggingIn(ctx, postmaster, early)
		if err != nil || left == 0 && len(early) == 0 {
			return err
		}
		for _, pid := range early {
			err := killVerified(pid, terminate, func(pid int) bool {
				return parentOf(pid) == postmaster && s.instance.isServerProcess(pid)
			})
			if err != nil {
				return err
			}
		}
		if err := pause(ctx, pollPeriod); err != nil {
			return fmt.Errorf("wait for the end of %d client sessions: %w", left+len(early), err)
		}
	}
}

// stillLoggingIn keeps those processes that hold a client's connection and are
// in no view. Other processes without a place there, as the one that collects
// the server's log, hold none.
func (s *Session) stillLoggingIn(ctx context.Context, postmaster int, pids []int) ([]int, error) {
	if len(pids) == 0 {
		return nil, nil
	}
	var known []int64
	const query = `SELECT coalesce(array_agg(pid::bigint), '{}') FROM pg_stat_activity`
	if err := s.conn.QueryRow(ctx, query).Scan(&known); err != nil {
		return nil, fmt.Errorf("list server processes: %w", err)
	}
	return slices.DeleteFunc(pids, func(pid int) bool {
		return slices.Contains(known, int64(pid)) || parentOf(pid) != postmaster || !holdsSocket(pid) ||
			!s.instance.isServerProcess(pid)
	}), nil
}

// HostPort renders an address for messages.
func HostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
