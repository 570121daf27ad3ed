package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// CreateConfig is what creating a monitor takes besides its configuration.
type CreateConfig struct {
	Config
	// Formations are created besides "default".
	Formations []string
	// SelfSigned asks for a certificate of our own making.
	SelfSigned bool
	// Run leaves the server running for a Run that follows.
	Run bool
}

// CreateError says at which step the creation of a monitor ended. What was
// done stays; the same call goes on from there.
type CreateError struct {
	Step string
	Err  error
}

// Error names the step and what went wrong.
func (e *CreateError) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *CreateError) Unwrap() error { return e.Err }

// Create makes a monitor: configuration file, data directory, server settings,
// roles, database, schema and access rule. Every step is "make it so", so that
// a call that was killed anywhere is finished by the next.
func Create(ctx context.Context, cfg CreateConfig) (err error) {
	if err := cfg.validate(); err != nil {
		return err
	}
	pidFile, err := cfg.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release(pidFile)) }()
	c := creation{cfg: cfg, log: cfg.logger(), instance: cfg.instance()}
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"look at the data directory", c.checkDirectory},
		{"write the configuration file", c.writeConfig},
		{"create the data directory", c.initDB},
		{"configure the server", c.configure},
		{"start the server", c.start},
		{"create role and database", c.bootstrap},
		{"install the schema", c.install},
		{"let the nodes in", c.admit},
		{"stop the server", c.finish},
	}
	for _, step := range steps {
		began := time.Now()
		err := step.run(ctx)
		c.log.DebugContext(ctx, "step", "step", step.name, "took", time.Since(began), "error", err)
		if err != nil {
			return &CreateError{Step: step.name, Err: errors.Join(err, c.undo(ctx))}
		}
	}
	c.postmaster.Release()
	return nil
}

type creation struct {
	cfg        CreateConfig
	log        *slog.Logger
	instance   *postgres.Instance
	postmaster *postgres.Postmaster
	// newConfig and newData say that there was no configuration file, or no
	// data directory, before this call.
	newConfig, newData bool
}

// undo leaves things as they were before a creation that failed: what this
// call made goes. After a kill nobody undoes anything; the next call goes on.
func (c *creation) undo(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	if c.postmaster != nil {
		if !c.postmaster.Adopted() {
			errs = append(errs, c.postmaster.Stop(ctx, postgres.StopFast))
		}
		c.postmaster.Release()
	}
	if c.newData {
		errs = append(errs, c.instance.Remove())
		_ = os.Remove(c.cfg.File.PGData) // it may be a mount point
	}
	if c.newConfig {
		errs = append(errs, os.Remove(c.cfg.Paths.ConfigFile))
	}
	return errors.Join(errs...)
}

// settingsFile holds our settings, and shows that a data directory is ours.
const settingsFile = "postgresql-auto-failover.conf"

// errNotOurs is a data directory that some other server lives in.
var errNotOurs = errors.New("a server that is not a monitor runs in the data directory")

// checkDirectory refuses a data directory whose server runs, unless it is the
// one that an interrupted creation left behind.
func (c *creation) checkDirectory(ctx context.Context) error {
	if !c.instance.Exists() {
		entries, err := os.ReadDir(c.cfg.File.PGData)
		empty := err == nil && len(entries) == 0 || errors.Is(err, fs.ErrNotExist)
		if err := c.checkPort(ctx); err != nil {
			return err
		}
		c.newData = empty
		return nil
	}
	status, err := c.instance.Status()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(c.cfg.File.PGData, settingsFile))
	ours := err == nil && strings.Contains(string(text), clusterName)
	if status.Running && !ours {
		return &ConfigError{err: errNotOurs, hint: "stop that server, or choose another directory with --pgdata"}
	}
	if !ours && err == nil {
		return &ConfigError{
			err:  errors.New("the data directory belongs to a node that pg_autoctl manages"),
			hint: "choose another directory with --pgdata",
		}
	}
	if status.Running {
		return nil
	}
	return c.checkPort(ctx)
}

// checkPort finds out whether somebody else has the port, while it is still
// easy to choose another one.
func (c *creation) checkPort(ctx context.Context) error {
	for address := range strings.SplitSeq(c.cfg.File.ListenAddresses, ",") {
		address = strings.TrimSpace(address)
		if address == "*" {
			address = ""
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(c.cfg.File.Port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			return &ConfigError{
				err:  fmt.Errorf("port %d is in use by another process", c.cfg.File.Port),
				hint: "choose another port with --pgport, or stop that process",
			}
		}
		if err == nil {
			_ = l.Close()
		}
		// Whatever else is wrong with the address, the server says it better.
	}
	return nil
}

func (c *creation) writeConfig(context.Context) error {
	if c.cfg.Paths.ConfigFile == "" {
		return nil
	}
	_, err := os.Stat(c.cfg.Paths.ConfigFile)
	c.newConfig = errors.Is(err, fs.ErrNotExist)
	if err := c.cfg.File.Save(c.cfg.Paths.ConfigFile); err != nil {
		c.newConfig = false
		return err
	}
	return nil
}

func (c *creation) initDB(ctx context.Context) error {
	return c.instance.InitDB(ctx, postgres.InitDBConfig{})
}

func (c *creation) configure(context.Context) error {
	if c.cfg.SelfSigned {
		cert, err := c.instance.EnsureCertificate(c.cfg.File.Hostname)
		if err != nil {
			return err
		}
		c.cfg.File.SSL.CertFile, c.cfg.File.SSL.KeyFile = cert.CertFile, cert.KeyFile
		if c.cfg.Paths.ConfigFile != "" {
			if err := c.cfg.File.Save(c.cfg.Paths.ConfigFile); err != nil {
				return err
			}
		}
	}
	if err := makeRoom(c.cfg.File.PGData); err != nil {
		return err
	}
	_, err := c.instance.WriteSettings(serverSettings(c.cfg.File))
	return err
}

func (c *creation) start(ctx context.Context) error {
	p, err := c.instance.Start(ctx, postgres.StartConfig{})
	if err != nil {
		return err
	}
	c.postmaster = p
	if p.Adopted() {
		// Its settings may be older than the file.
		if err := p.Reload(); err != nil {
			return err
		}
	}
	_, err = p.WaitReady(ctx)
	return err
}

func (c *creation) bootstrap(ctx context.Context) error {
	s, err := c.instance.Connect(ctx, postgres.ConnectConfig{DBName: "postgres", ApplicationName: applicationName})
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := s.EnsureRole(ctx, postgres.Role{Name: ownerRole, Login: true, ConnLimit: -1}); err != nil {
		return err
	}
	return s.EnsureDatabase(ctx, databaseName, ownerRole)
}

func (c *creation) install(ctx context.Context) error {
	db, err := connectOwn(ctx, c.instance)
	if err != nil {
		return err
	}
	defer closeDB(ctx, db)
	if err := pgautofailover.Install(ctx, db); err != nil {
		return err
	}
	if err := c.password(ctx); err != nil {
		return err
	}
	have, err := db.Formations(ctx)
	if err != nil {
		return err
	}
	exists := make(map[string]bool, len(have))
	for _, f := range have {
		exists[f.ID] = true
	}
	for _, name := range c.cfg.Formations {
		if exists[name] {
			continue
		}
		_, err := db.CreateFormation(ctx, pgautofailover.Formation{ID: name, Kind: "pgsql", DBName: "postgres", OptSecondary: true})
		if err != nil {
			return err
		}
		exists[name] = true
	}
	return nil
}

// password gives the nodes' role the password that was asked for.
func (c *creation) password(ctx context.Context) error {
	if c.cfg.File.NodePassword == "" {
		return nil
	}
	return c.instance.With(ctx, func(s *postgres.Session) error {
		return s.EnsureRole(ctx, postgres.Role{Name: nodeRole, Login: true, Password: c.cfg.File.NodePassword, ConnLimit: -1})
	})
}

func (c *creation) admit(ctx context.Context) error {
	rule := lanRule(ctx, c.cfg.File, c.log)
	if c.cfg.File.HBALevel == hbaSkip {
		c.log.WarnContext(ctx, "add this rule to pg_hba.conf, so that the nodes can connect", "rule", rule.Line())
		return nil
	}
	_, err := c.instance.EnsureHBA(ctx, rule)
	return err
}

func (c *creation) finish(ctx context.Context) error {
	if c.cfg.Run {
		return nil
	}
	return c.postmaster.Stop(ctx, postgres.StopFast)
}

// lanRule lets the nodes in that live in the same network as this host.
func lanRule(ctx context.Context, f File, log *slog.Logger) pg.HBARule {
	address := f.Hostname
	if network, err := localNetwork(ctx, f.Hostname); err != nil {
		log.WarnContext(ctx, "the network of this host cannot be found: nodes on other hosts need rules in pg_hba.conf of their own",
			"hostname", f.Hostname, "error", err)
	} else {
		address = network.String()
	}
	method, options := f.AuthMethod, ""
	if method == "cert" {
		options = "map=pgautofailover"
	}
	return pg.HBARule{Type: postgres.HostType(f.SSL.Active), Database: databaseName, User: nodeRole, Address: pg.HBAAddress(address), Method: method, Options: options}
}

const applicationName = "pgdrover monitor"

// connectOwn connects to the monitor's database as the owner of everything.
func connectOwn(ctx context.Context, instance *postgres.Instance) (*pgautofailover.DB, error) {
	info, err := instance.ConnInfo()
	if err != nil {
		return nil, fmt.Errorf("find the monitor's server: %w", err)
	}
	return pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{
		ConnInfo: info.With("dbname", databaseName), ApplicationName: applicationName,
	})
}
