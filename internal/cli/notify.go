package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// notifyVariable names the socket of the service manager that started us.
const notifyVariable = "NOTIFY_SOCKET"

// readyAnyway is how long a service waits for its monitor before it counts as
// started: a node starts also while its monitor is away.
const readyAnyway = 10 * time.Second

// notifier tells the service manager what a service does, as sd_notify(3)
// does. Without a service manager it does nothing.
type notifier struct {
	env    *Env
	socket string
	once   sync.Once
}

// newNotifier takes the socket out of the process's environment: the server
// would answer there as well, for a service that is not its own.
func newNotifier(env *Env) *notifier {
	n := &notifier{env: env, socket: env.getenv(notifyVariable)}
	if n.socket != "" {
		if err := os.Unsetenv(notifyVariable); err != nil {
			env.warnf("unset %s: %s", notifyVariable, err)
		}
	}
	return n
}

// ready says, once, that the service does its work.
func (n *notifier) ready() {
	n.once.Do(func() { n.send("READY=1") })
}

// follow says what becomes of a service: that it is ready, at the latest after
// a while, and that it stops. It returns when the service has ended.
func (n *notifier) follow(ctx context.Context, ended <-chan struct{}) {
	if n.socket == "" {
		return
	}
	patience := time.NewTimer(readyAnyway)
	defer patience.Stop()
	for stopping := ctx.Done(); ; {
		select {
		case <-ended:
			return
		case <-patience.C:
			n.ready()
		case <-stopping:
			n.send("STOPPING=1")
			stopping = nil
		}
	}
}

// send passes one message on. A manager that is not there is no reason to stop.
func (n *notifier) send(state string) {
	if n.socket == "" {
		return
	}
	// A name that begins with @ is in the abstract name space, for the manager and for Go.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close()
	}
	if err != nil {
		n.env.warnf("%s", fmt.Errorf("tell the service manager %s: %w", state, err))
	}
}
