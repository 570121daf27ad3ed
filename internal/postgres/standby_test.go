package postgres_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func setList(t *testing.T, n *node, names pg.StandbyNames) {
	t.Helper()
	ctx := within(t)
	require.NoError(t, n.With(ctx, func(s *postgres.Session) error { return s.SetSyncNames(ctx, names) }))
	require.NoError(t, n.WaitVoters(ctx, names))
}

func TestStandbyIsObservedAndVotes(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, p := newStandby(t, primary, 2)
	ready, err := p.WaitReady(within(t))
	require.NoError(t, err)
	require.True(t, ready)
	names := pg.StandbyNames{K: 1, Members: []string{pg.StandbyName(2)}}
	setList(t, primary, names)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 100)`)

	o := primary.observe(t)
	require.False(t, o.InRecovery)
	require.EqualValues(t, 1, o.TLI)
	require.Equal(t, "quorum", o.SyncState)
	require.Equal(t, names.String(), o.SyncNames)
	require.Len(t, o.Standbys, 1)
	require.EqualValues(t, 2, o.Standbys[0].ID)
	require.Equal(t, "streaming", o.Standbys[0].State)
	require.NotZero(t, o.Standbys[0].ReplyTime)

	s := standby.observe(t)
	require.True(t, s.InRecovery)
	require.True(t, s.Receiver.Streaming())
	require.Equal(t, pg.StandbyName(2), s.Receiver.Slot)
	require.EqualValues(t, 1, s.TLI)
	require.GreaterOrEqual(t, s.LSN, o.LSN-1)
	require.Empty(t, s.SyncNames, "the list of the source does not come with the copy")

	// The empty list releases whoever waits.
	require.NoError(t, p.Stop(within(t), postgres.StopImmediate))
	waiting := make(chan error, 1)
	conn := pgtest.Connect(t, primary.dsn())
	go func() {
		_, err := conn.Exec(context.Background(), `INSERT INTO t VALUES (1000)`)
		waiting <- err
	}()
	ctx := within(t)
	require.NoError(t, primary.With(ctx, func(s *postgres.Session) error {
		eventually(t, func() error {
			n, err := s.ReleaseSyncWaiters(ctx)
			if err == nil && n == 0 {
				return fmt.Errorf("nobody waits")
			}
			return err
		})
		return s.SetSyncNames(ctx, pg.StandbyNames{})
	}))
	require.NoError(t, <-waiting)
}

func TestReceiverEndsByReloadAndTheNextUpstreamIsFollowedByReload(t *testing.T) {
	t.Parallel()
	primary, p1 := newPrimary(t, 1)
	second, p2 := newStandby(t, primary, 2)
	third, p3 := newStandby(t, primary, 3)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 1000)`)
	for _, n := range []*node{second, third} {
		eventually(t, func() error {
			if rows := n.count(t); rows != 1000 {
				return fmt.Errorf("%d rows", rows)
			}
			return nil
		})
	}
	p1.Release()
	primary.end(t)
	var votes []pg.LSN
	for _, n := range []*node{second, third} {
		o, err := n.EndReceiver(within(t))
		require.NoError(t, err)
		require.Empty(t, o.Receiver.Status)
		require.True(t, o.ReplayIdle)
		require.Equal(t, o.Replayed, o.LSN)
		require.EqualValues(t, 1, o.TLI)
		votes = append(votes, o.LSN)
	}
	if votes[1] > votes[0] {
		second, third, p2, p3 = third, second, p3, p2
	}
	second.promote(t)
	second.promote(t) // promoted is promoted
	require.False(t, second.IsStandby())
	o := second.observe(t)
	require.False(t, o.InRecovery)
	require.EqualValues(t, 2, o.TLI)
	second.slot(t, 1, third.id)
	require.NoError(t, third.Follow(within(t), postgres.StandbyOf(third.upstream(second))))
	require.NoError(t, third.WaitStreaming(within(t)))
	require.False(t, third.followsOther(t, second))
	require.True(t, third.followsOther(t, primary))
	require.False(t, second.followsOther(t, primary), "a primary follows nobody")
	second.exec(t, `INSERT INTO t VALUES (2000)`)
	eventually(t, func() error {
		if n := third.count(t); n != 1001 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	require.EqualValues(t, 2, third.observe(t).TLI)
	for _, p := range []*postgres.Postmaster{p2, p3} {
		st, err := second.Status()
		require.NoError(t, err)
		require.True(t, st.Running)
		select {
		case <-p.Exited():
			t.Fatal("no server was restarted")
		default:
		}
	}
	// A standby that ended its receiver again is on the new line, also for a new keeper.
	o, err := third.EndReceiver(within(t))
	require.NoError(t, err)
	require.EqualValues(t, 2, o.TLI)
	require.False(t, third.followsOther(t, primary), "it has no upstream")
	third.stop(t, p3, postgres.StopFast)
	third.start(t)
	o, err = third.EndReceiver(within(t))
	require.NoError(t, err)
	require.EqualValues(t, 2, o.TLI)
}

func (n *node) followsOther(t *testing.T, up *node) bool {
	t.Helper()
	other, err := n.FollowsOther(n.upstream(up))
	require.NoError(t, err)
	return other
}

func TestVoteOfAStandbyThatWasKilledCountsWhatItHasOnDisk(t *testing.T) {
	t.Parallel()
	primary, p1 := newPrimary(t, 1)
	standby, p := newStandby(t, primary, 2)
	setList(t, primary, pg.StandbyNames{K: 1, Members: []string{pg.StandbyName(2)}})
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 50000)`)
	flushed := primary.observe(t).LSN
	p1.Release()
	primary.end(t)
	standby.stop(t, p, postgres.StopImmediate)
	standby.start(t)
	o, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	require.GreaterOrEqual(t, o.LSN, flushed)
	standby.promote(t)
	require.Equal(t, 50000, standby.count(t))
}

func TestGateShutsOutOrdinaryClientsAndNobodyElse(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	tcp := pgtest.Connect(t, primary.dsn())
	local := pgtest.Connect(t, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", primary.root, primary.Port()))
	require.NoError(t, local.Ping(within(t)))

	require.NoError(t, primary.CloseGate(within(t)))
	require.NoError(t, primary.CloseGate(within(t)), "closed is closed")
	require.Error(t, tcp.Ping(within(t)))
	require.Error(t, local.Ping(within(t)))
	for _, dsn := range []string{
		primary.dsn(),
		fmt.Sprintf("host=%s port=%d user=other dbname=postgres", primary.root, primary.Port()),
		fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres replication=true sslmode=disable", primary.Port()),
	} {
		_, err := postgres.ConnectForTest(within(t), dsn)
		require.ErrorContains(t, err, "pg_hba.conf rejects", dsn)
	}
	for _, user := range []string{pg.ReplicationRole, pg.MonitorRole} {
		pgtest.Connect(t, fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=disable", primary.Port(), user))
	}
	require.NoError(t, primary.With(within(t), func(*postgres.Session) error { return nil }))
	require.Equal(t, "streaming", primary.observe(t).Standbys[0].State, "the standby went on")

	// A node that registers now gets in as well.
	_, err := primary.EnsureHBA(within(t), postgres.PeerRules(false, "postgres", "127.0.0.2/32", "trust")...)
	require.NoError(t, err)
	closed, err := primary.GateClosed()
	require.NoError(t, err)
	require.True(t, closed)

	// A copy of a gated server is not gated.
	clone := newNode(t, 3)
	backup := clone.backup(primary)
	backup.Slot = ""
	require.NoError(t, clone.BaseBackup(within(t), backup))
	closed, err = clone.GateClosed()
	require.NoError(t, err)
	require.False(t, closed)

	require.NoError(t, primary.OpenGate(within(t)))
	require.NoError(t, primary.OpenGate(within(t)))
	require.Zero(t, primary.count(t))
	require.NoError(t, standby.CloseGate(within(t)), "a standby can be gated before it is promoted")
	standby.promote(t)
	_, err = postgres.ConnectForTest(within(t), standby.dsn())
	require.ErrorContains(t, err, "pg_hba.conf rejects")
}

func TestGateEndsClientsThatAreStillLoggingIn(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	// A client that was let in by the old rules and has not said who it is.
	var dialer net.Dialer
	conn, err := dialer.DialContext(within(t), "tcp", "127.0.0.1:"+strconv.Itoa(primary.Port()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	var client []int
	eventually(t, func() error {
		// Sessions that are about to end look alike, for a moment.
		before := client
		if client = primary.EarlyClientsForTest(t); len(client) != 1 || !slices.Equal(client, before) {
			return fmt.Errorf("%v, before %v", client, before)
		}
		return nil
	})
	require.NoError(t, primary.CloseGate(within(t)))
	require.NotContains(t, primary.EarlyClientsForTest(t), client[0])
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
}

func TestFastStopShowsItsCheckpointWhileASilentStandbyHoldsItUp(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	link := pgtest.NewLink(t, "127.0.0.1:"+strconv.Itoa(primary.Port()))
	standby, _ := newStandby(t, primary, 2)
	through := standby.upstream(primary)
	through.Port = link.Port()
	require.NoError(t, standby.Follow(within(t), postgres.StandbyOf(through)))
	eventually(t, func() error {
		if o := standby.observe(t); o.Receiver.Port != link.Port() || !o.Receiver.Streaming() {
			return fmt.Errorf("%+v", o.Receiver)
		}
		return nil
	})
	link.Stall()
	primary.exec(t, `INSERT INTO t VALUES (1)`)
	require.NoError(t, p.Signal(postgres.StopFast))
	var at pg.LSN
	eventually(t, func() error {
		lsn, clean, err := primary.ShutdownLocation(within(t))
		if err == nil && !clean {
			return fmt.Errorf("not yet")
		}
		at = lsn
		return err
	})
	select {
	case <-p.Exited():
		t.Fatal("the silent standby did not hold the stop up")
	default:
	}
	require.NoError(t, p.Stop(within(t), postgres.StopImmediate))
	again, clean, err := primary.ShutdownLocation(within(t))
	require.NoError(t, err)
	require.True(t, clean, "the immediate end does not undo the clean stop")
	require.Equal(t, at, again)
}

func TestReceiverOfASilentUpstreamEndsToo(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	link := pgtest.NewLink(t, "127.0.0.1:"+strconv.Itoa(primary.Port()))
	through := standby.upstream(primary)
	through.Port = link.Port()
	require.NoError(t, standby.Follow(within(t), postgres.StandbyOf(through)))
	eventually(t, func() error {
		if o := standby.observe(t); o.Receiver.Port != link.Port() || !o.Receiver.Streaming() {
			return fmt.Errorf("%+v", o.Receiver)
		}
		return nil
	})
	link.Stall()
	_, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	// And one that is still trying to connect.
	require.NoError(t, standby.Follow(within(t), postgres.StandbyOf(through)))
	eventually(t, func() error {
		conn := pgtest.Connect(t, standby.dsn())
		var n int
		if err := conn.QueryRow(within(t), `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'`).Scan(&n); err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("%d receivers", n)
		}
		return nil
	})
	o, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	require.True(t, o.ReplayIdle)
}

func TestSlotsAreKeptInStep(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	primary.slot(t, 2, 3)
	primary.exec(t, `SELECT pg_create_physical_replication_slot('mine', true)`)
	primary.exec(t, `INSERT INTO t VALUES (1)`)
	to := primary.observe(t).LSN
	ctx := within(t)
	require.NoError(t, primary.With(ctx, func(s *postgres.Session) error {
		require.NoError(t, s.EnsureSlots(ctx, []postgres.SlotWant{{ID: 3, Advance: to}, {ID: 4, Advance: to + 1<<30}}))
		slots, err := s.Slots(ctx)
		require.NoError(t, err)
		require.Len(t, slots, 3)
		require.Equal(t, "mine", slots[0].Name)
		require.Equal(t, postgres.Slot{Name: pg.StandbyName(3), Restart: to}, slots[1])
		require.NoError(t, s.EnsureSlots(ctx, []postgres.SlotWant{{ID: 3, Advance: to - 1}, {ID: 4, Advance: to + 1<<30}}))
		require.NoError(t, s.DropSlots(ctx))
		slots, err = s.Slots(ctx)
		require.NoError(t, err)
		require.Len(t, slots, 1)
		return nil
	}))
}

func TestSelfSignedCertificateServes(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	cert, err := n.EnsureCertificate("node1.example.com")
	require.NoError(t, err)
	first, err := os.ReadFile(cert.CertFile)
	require.NoError(t, err)
	_, err = n.EnsureCertificate("node1.example.com")
	require.NoError(t, err)
	again, err := os.ReadFile(cert.CertFile)
	require.NoError(t, err)
	require.Equal(t, first, again, "a good certificate stays")
	_, err = n.EnsureCertificate("node2.example.com")
	require.NoError(t, err)
	again, err = os.ReadFile(cert.CertFile)
	require.NoError(t, err)
	require.NotEqual(t, first, again)
	info, err := os.Stat(cert.KeyFile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	own := postgres.NodeSettings(postgres.SettingsConfig{
		ListenAddresses: "127.0.0.1", Port: n.Port(), Tuning: postgres.Tuning{Small: true},
		SSL: postgres.SSL{Active: true, CertFile: cert.CertFile, KeyFile: cert.KeyFile},
	})
	_, err = n.WriteSettings(append(own, pg.Setting{Name: "logging_collector", Value: "off"}))
	require.NoError(t, err)
	_, err = n.EnsureHBA(within(t), pg.HBARule{Type: "hostssl", Database: "all", User: "all", Address: "127.0.0.1/32", Method: "trust"})
	require.NoError(t, err)
	n.stop(t, p, postgres.StopFast)
	n.start(t)
	conn := pgtest.Connect(t, strings.Replace(n.dsn(), "sslmode=disable", "sslmode=require", 1))
	var ssl bool
	require.NoError(t, conn.QueryRow(within(t), `SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&ssl))
	require.True(t, ssl)
	require.FileExists(t, filepath.Join(n.DataDir(), "server.key"))

	// Our own connections too look at the list of what is revoked.
	source := postgres.CopyFrom(n.upstream(n)).With("sslmode", "require")
	for revoked, serial := range map[bool]*big.Int{false: big.NewInt(7), true: nil} {
		file := revocationList(t, cert.CertFile, serial)
		_, err := postgres.Identify(within(t), source.With("sslcrl", file))
		_, errMeet := postgres.Meet(within(t), source.With("sslcrl", file))
		if !revoked {
			require.NoError(t, err)
			require.NoError(t, errMeet)
			continue
		}
		require.ErrorContains(t, err, postgres.ErrRevoked.Error())
		require.ErrorContains(t, errMeet, postgres.ErrRevoked.Error())
		require.ErrorContains(t, postgres.Stir(within(t), source.With("sslcrl", file)), postgres.ErrRevoked.Error())
	}
	_, err = postgres.Identify(within(t), source.With("sslcrl", cert.CertFile))
	require.ErrorContains(t, err, "there is none in it")
}

// revocationList is a file in which the issuer of a certificate revokes a
// number, or, with nil, that certificate.
func revocationList(t *testing.T, certFile string, serial *big.Int) string {
	t.Helper()
	text, err := os.ReadFile(certFile)
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	if serial == nil {
		serial = cert.SerialNumber
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	issuer := *cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	issuer.SubjectKeyId = []byte{1}
	now := time.Now()
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: serial, RevocationTime: now}},
	}, &issuer, key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "revoked.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}), 0o600))
	return file
}

// A receiver whose upstream does not have the WAL any more connects again and again, and never streams.
func TestRefusedReceiverDoesNotStream(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, p := newStandby(t, primary, 2)
	require.True(t, standby.observe(t).Receiver.Streaming())
	standby.stop(t, p, postgres.StopFast)
	ctx := within(t)
	require.NoError(t, primary.With(ctx, func(s *postgres.Session) error {
		for name, value := range map[string]string{"wal_keep_size": "0", "max_slot_wal_keep_size": "0", "wal_retrieve_retry_interval": "100ms"} {
			if err := s.AlterSystem(ctx, name, value); err != nil {
				return err
			}
		}
		if err := s.Reload(ctx); err != nil {
			return err
		}
		return s.DropSlots(ctx)
	}))
	for range 3 {
		primary.exec(t, `INSERT INTO t SELECT coalesce(max(id), 0) + generate_series(1, 10) FROM t`)
		primary.exec(t, `SELECT pg_switch_wal()`)
		primary.exec(t, `CHECKPOINT`)
	}
	primary.slot(t, 2)
	standby.start(t)
	connected := 0
	for looks := 0; connected < 3 && looks < 2000; looks++ {
		o := standby.observe(t)
		require.False(t, o.Receiver.Streaming())
		if o.Receiver.Status == "connecting" {
			connected++
		}
	}
	t.Logf("seen connecting %d times", connected)
}
