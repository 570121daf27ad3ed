package keeper

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// Levels of the HBA rules that we write.
const (
	hbaSkip    = "skip"
	hbaMinimal = "minimal"
	hbaApp     = "app"
)

// backupDir is where base backups are taken before they replace the data directory.
func (n *node) backupDir() string {
	file := n.config()
	if file.BackupDirectory != "" {
		return file.BackupDirectory
	}
	return defaultBackupDir(file.PGData, n.identity().nodeID)
}

func defaultBackupDir(pgdata string, nodeID int64) string {
	return filepath.Join(filepath.Dir(filepath.Clean(pgdata)), "backup", "node_"+strconv.FormatInt(nodeID, 10))
}

// RemoveBackupDir removes the directory for copies, and the one above it, where a
// creation has chosen them beside the data directory. Both are ours while they
// are empty, and somebody else's otherwise.
func RemoveBackupDir(f File) {
	dir := filepath.Clean(f.BackupDirectory)
	if above := filepath.Dir(dir); above == filepath.Dir(defaultBackupDir(f.PGData, 0)) {
		_ = os.Remove(dir)
		_ = os.Remove(above)
	}
}

// configure has this node's own files in the data directory: certificate,
// settings and HBA rules. A running server goes by them when it returns,
// except for what needs a restart.
func (n *node) configure(ctx context.Context) error {
	changed, err := n.writeSettings()
	if err != nil {
		return err
	}
	if changed {
		if err := n.instance().Reload(ctx); err != nil {
			return err
		}
	}
	return n.ensureHBA(ctx, n.ownRules(ctx))
}

// freshen has the settings file as this program writes it, before anything else
// is done: another version, or another program, may have written it. Files that
// cannot be written are no reason not to keep the server. In maintenance
// the server is its operator's.
func (n *node) freshen(ctx context.Context, role fsm.State) {
	inst := n.instance()
	if fsm.DutyOf(role).Postgres == fsm.PowerUntouched || !inst.Exists() || inst.RewindInterrupted() {
		return
	}
	changed, err := n.writeSettings()
	if err == nil && changed {
		n.log.InfoContext(ctx, "rewrote the server's settings, some of them may need a restart")
		err = inst.AskReload()
	}
	if err != nil {
		n.log.WarnContext(ctx, "could not rewrite the settings, the server goes on with those that it has", "error", err)
	}
}

// writeSettings writes the certificate, when it is ours, and the settings file.
func (n *node) writeSettings() (changed bool, err error) {
	file := n.config()
	inst := n.instance()
	if file.SSL.selfSigned(file.PGData) {
		if _, err := inst.EnsureCertificate(file.Hostname); err != nil {
			return false, err
		}
	}
	tuning, err := n.machineTuning()
	if err != nil {
		return false, err
	}
	retention, err := inst.DetectRetention(file.MaxSlotWALKeepSize)
	if err != nil {
		return false, err
	}
	return inst.WriteSettings(postgres.NodeSettings(postgres.SettingsConfig{
		ListenAddresses: file.ListenAddresses, Port: file.Port, AuthMethod: file.AuthMethod,
		SSL: postgres.SSL{
			Active: file.SSL.Active, Mode: file.SSL.Mode, CAFile: file.SSL.CAFile, CRLFile: file.SSL.CRLFile,
			CertFile: file.SSL.CertFile, KeyFile: file.SSL.KeyFile,
		},
		Tuning: tuning, Retention: retention, Hostname: file.Hostname,
		Citus: kindOf(file) != fsm.Standalone, CitusCluster: file.CitusClusterName,
	}))
}

// ensureHBA has rules in pg_hba.conf, or says which ones an operator has to
// write who wants nobody else to.
func (n *node) ensureHBA(ctx context.Context, rules []pg.HBARule) error {
	if len(rules) == 0 {
		return nil
	}
	if n.config().HBALevel != hbaSkip {
		_, err := n.instance().EnsureHBA(ctx, rules...)
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range rules {
		if line := r.Line(); !n.wanted[line] {
			n.wanted[line] = true
			n.log.WarnContext(ctx, "add this rule to pg_hba.conf, which is left to you", "rule", line)
		}
	}
	return nil
}

func (n *node) machineTuning() (postgres.Tuning, error) {
	if n.tuning != (postgres.Tuning{}) {
		return n.tuning, nil
	}
	return postgres.DetectTuning()
}

// ownRules are the HBA rules that do not depend on other nodes.
func (n *node) ownRules(ctx context.Context) []pg.HBARule {
	file := n.config()
	user := file.Username
	if user == "" {
		user, _ = postgres.SystemUser()
	}
	kind := postgres.HostType(file.SSL.Active)
	own := pg.HBARule{Type: kind, Database: file.DBName, User: user, Address: n.address(ctx, file.Hostname), Method: file.AuthMethod}
	rules := []pg.HBARule{own}
	if file.HBALevel == hbaApp || kindOf(file) != fsm.Standalone {
		for _, lan := range lanAddresses(file.Hostname) {
			rule := own
			rule.Address = lan
			rules = append(rules, rule)
		}
	}
	for _, host := range file.monitorHosts() {
		rules = append(rules, postgres.MonitorRule(file.SSL.Active, n.address(ctx, host)))
	}
	return rules
}

// address is the address field of a host in pg_hba.conf. Looking a host up
// again and again would cost more than it tells.
func (n *node) address(ctx context.Context, host string) string {
	n.mu.Lock()
	known, ok := n.addrs[host]
	n.mu.Unlock()
	if ok {
		return known
	}
	address, warning := postgres.HBAAddress(ctx, net.DefaultResolver, host)
	if warning != "" {
		n.log.WarnContext(ctx, "host name and address do not agree", "host", host, "reason", warning)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs[host] = address
	return address
}

// lanAddresses returns the networks of the local interfaces that carry host's
// addresses, as pg_hba.conf writes them.
func lanAddresses(host string) []string {
	wanted := map[string]bool{}
	if ip := net.ParseIP(host); ip != nil {
		wanted[ip.String()] = true
	} else if ips, err := net.LookupIP(host); err == nil { //nolint:noctx // bounded by the resolver
		for _, ip := range ips {
			wanted[ip.String()] = true
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var lans []string
	for _, a := range addrs {
		lan, ok := a.(*net.IPNet)
		if !ok || !wanted[lan.IP.String()] {
			continue
		}
		masked := net.IPNet{IP: lan.IP.Mask(lan.Mask), Mask: lan.Mask}
		lans = append(lans, masked.String())
	}
	return lans
}

// bootstrap creates what a new primary has to have: the operator's role and
// database, the roles of the monitor and of the other nodes.
func (n *node) bootstrap(ctx context.Context) error {
	file := n.config()
	inst := n.instance()
	s, err := inst.Connect(ctx, postgres.ConnectConfig{DBName: "template1"})
	if err != nil {
		return err
	}
	err = n.createDatabase(ctx, s, file)
	s.Close(ctx)
	if err != nil {
		return err
	}
	s, err = inst.Connect(ctx, postgres.ConnectConfig{DBName: file.DBName})
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := s.EnsureExtension(ctx, "pg_stat_statements"); err != nil {
		// Contrib may not be installed; nothing of ours depends on it.
		n.log.WarnContext(ctx, "could not create the extension", "extension", "pg_stat_statements", "error", err)
	}
	if kindOf(file) == fsm.Standalone {
		return nil
	}
	if err := s.EnsureExtension(ctx, "citus"); err != nil {
		return withHint(err, cmp.Or(adviceOf(err), "install Citus for this PostgreSQL on every node of the formation"))
	}
	return nil
}

func (n *node) createDatabase(ctx context.Context, s *postgres.Session, file File) error {
	if file.Username != "" {
		role := postgres.Role{Name: file.Username, Login: true, Superuser: true}
		if err := s.EnsureRole(ctx, role); err != nil {
			return err
		}
	}
	roles := []postgres.Role{postgres.ReplicationRole(file.ReplicationPassword)}
	if file.Monitor != MonitorDisabled {
		roles = append(roles, postgres.MonitorRole())
	}
	for _, role := range roles {
		if err := s.EnsureRole(ctx, role); err != nil {
			return err
		}
	}
	if err := s.EnsureDatabase(ctx, file.DBName, file.Username); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}
