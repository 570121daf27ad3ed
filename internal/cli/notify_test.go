package cli

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

func TestNotifier(t *testing.T) {
	// Not parallel: it changes the environment of the process.
	socket := filepath.Join(pgtest.Dir(t), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer l.Close()
	t.Setenv(notifyVariable, socket)
	env := &Env{Getenv: func(name string) (string, bool) { return socket, name == notifyVariable }}
	env.prepare()
	n := newNotifier(env)

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { n.follow(ctx, ended) })
	hear := func() string {
		buf := make([]byte, 100)
		size, err := l.Read(buf)
		require.NoError(t, err)
		return string(buf[:size])
	}
	n.ready()
	n.ready()
	require.Equal(t, "READY=1", hear())
	stop()
	require.Equal(t, "STOPPING=1", hear(), "ready is said once")
	close(ended)
	wg.Wait()
}

func TestNotifierWithoutManager(t *testing.T) {
	t.Parallel()
	env := &Env{}
	env.prepare()
	n := newNotifier(env)
	n.ready()
	n.follow(t.Context(), nil)
}
