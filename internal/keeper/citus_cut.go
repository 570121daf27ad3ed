package keeper

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// A session of the coordinator that waits for a worker's answer holds the locks
// that the worker's replacement needs. Ended by a signal it still waits, for the
// answer to its rollback or to its request to cancel, and nothing interrupts that but the
// end of the connection. A host that is silent is noticed by the system, in its time; a server
// that hangs on a host which answers for it is noticed by nobody. So the coordinator's keeper
// ends these connections, as the host's end would have done.

// replaced lists the entries whose node is being replaced and does not answer:
// writes are still led there, and will not be.
func replaced(rows []distNode, nodes []pgautofailover.NodeRow) []distNode {
	var out []distNode
	for _, r := range rows {
		if r.Group == coordinatorGroup || r.Role == citusSecondary || !promoting(nodes, r.Group) {
			continue
		}
		if slices.ContainsFunc(nodes, func(n pgautofailover.NodeRow) bool {
			return n.Group == r.Group && r.at(n.Host, n.Port) && !n.Goal.Writable() &&
				n.Goal != n.Reported && n.Health != fsm.HealthGood
		}) {
			out = append(out, r)
		}
	}
	return out
}

const sessionsSQL = `SELECT pid FROM pg_catalog.pg_stat_activity WHERE pid <> pg_backend_pid()`

// A session whose connection has ended asks by another one for its work to be cancelled, and
// waits for that as well.
const (
	cutAgain = 200 * time.Millisecond // until those are looked for
	cutTimes = 10                     // at most, as new sessions may go there all the time
)

// cutOffAll ends connections to a node until there are none for a moment.
func (n *node) cutOffAll(ctx context.Context, s *distSession, at distNode) error {
	total := 0
	defer func() {
		if total > 0 {
			n.log.WarnContext(ctx, "ended connections to a worker that hangs and is being replaced", "group", at.Group,
				"address", postgres.HostPort(at.Host, at.Port), "connections", total)
		}
	}()
	for range cutTimes {
		cut, err := n.cutOff(ctx, s, at)
		total += cut
		if err != nil || cut == 0 {
			return err
		}
		if err := sleepFor(ctx, cutAgain); err != nil {
			return err
		}
	}
	return nil
}

// cutOff ends the connections of this server's sessions to a node.
func (n *node) cutOff(ctx context.Context, s *distSession, at distNode) (cut int, err error) {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", at.Host)
	if err != nil {
		return 0, fmt.Errorf("look up worker %s: %w", postgres.HostPort(at.Host, at.Port), err)
	}
	to := make([]netip.AddrPort, 0, len(addresses))
	for _, a := range addresses {
		to = append(to, netip.AddrPortFrom(a.Unmap(), uint16(at.Port))) //nolint:gosec // a port of the metadata
	}
	rows, err := s.conn.Query(ctx, sessionsSQL)
	if err != nil {
		return 0, fmt.Errorf("list sessions: %w", err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return 0, fmt.Errorf("list sessions: %w", err)
	}
	postmaster, err := parentOf(int(s.conn.PgConn().PID()))
	if err != nil {
		return 0, err
	}
	target := cutTarget{to: to, connecting: connectingTo(to)}
	var errs error
	for _, pid := range pids {
		done, err := cutProcess(pid, postmaster, target)
		cut += done
		errs = errors.Join(errs, err)
	}
	if errors.Is(errs, unix.EPERM) {
		return cut, withHint(fmt.Errorf("end connections to worker %s: %w", postgres.HostPort(at.Host, at.Port), errs),
			"this system does not let one process reach another's connections: switch the worker's host off, or end its server")
	}
	return cut, errs
}

// parentOf is the process that started another.
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// The name is in parentheses and may hold anything; state and parent follow.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, fmt.Errorf("look at process %d: its state is not readable", pid)
	}
	return strconv.Atoi(string(fields[1]))
}

// cutProcess ends a process's connections to these addresses; that it has ended is no error.
func cutProcess(pid, parent int, target cutTarget) (cut int, err error) {
	proc, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(proc) //nolint:errcheck // nothing was written
	// The number may have been given to another process before it was opened, not after.
	if of, err := parentOf(pid); err != nil || of != parent {
		return 0, nil // it has ended
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, gone(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		done, err := cutSocket(proc, fd, target)
		if err != nil {
			return cut, gone(err)
		}
		if done {
			cut++
		}
	}
	return cut, nil
}

// gone makes nothing of errors that say that a process has ended.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("look at the connections of a session: %w", err)
}

// cutSocket shuts a process's socket down when it leads to one of these addresses, or is to lead there.
func cutSocket(proc, fd int, target cutTarget) (bool, error) {
	mine, err := unix.PidfdGetfd(proc, fd, 0)
	if errors.Is(err, unix.EBADF) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(mine) //nolint:errcheck // a copy
	var leads bool
	switch peer, err := unix.Getpeername(mine); {
	case errors.Is(err, unix.ENOTCONN):
		var info unix.Stat_t
		leads = unix.Fstat(mine, &info) == nil && target.connecting[info.Ino]
	case err == nil:
		leads = slices.Contains(target.to, addressOf(peer))
	}
	if !leads {
		return false, nil
	}
	if err := unix.Shutdown(mine, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return false, err
	}
	return true, nil
}

func addressOf(peer unix.Sockaddr) netip.AddrPort {
	switch p := peer.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port)) //nolint:gosec // a port
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(p.Addr).Unmap(), uint16(p.Port)) //nolint:gosec // a port
	}
	return netip.AddrPort{}
}

// cutTarget is a node whose connections are to end.
type cutTarget struct {
	to []netip.AddrPort
	// connecting are the sockets that wait for an answer to their first packet.
	connecting map[uint64]bool
}

// connectingTo lists the sockets of this host that wait for one of these addresses to answer their
// first packet. A socket does not tell itself where it is to lead.
func connectingTo(to []netip.AddrPort) map[uint64]bool {
	found := make(map[uint64]bool)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table) //nolint:gosec // one of these two
		if err != nil {
			continue // a system without it, or without this version of the protocol
		}
		for line := range strings.Lines(string(text)) {
			if remote, inode, ok := parseConnecting(line); ok && slices.Contains(to, remote) {
				found[inode] = true
			}
		}
	}
	return found
}

// parseConnecting reads one line of the system's table of sockets.
func parseConnecting(line string) (remote netip.AddrPort, inode uint64, ok bool) {
	const synSent = "02"
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != synSent {
		return remote, 0, false
	}
	digits, portDigits, _ := strings.Cut(fields[2], ":")
	words, err := hex.DecodeString(digits)
	if err != nil || len(words)%4 != 0 {
		return remote, 0, false
	}
	// Every four bytes are printed as one number of this machine.
	for word := range slices.Chunk(words, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(words)
	port, portErr := strconv.ParseUint(portDigits, 16, 16)
	inode, inodeErr := strconv.ParseUint(fields[9], 10, 64)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), inode, ok && portErr == nil && inodeErr == nil
}
