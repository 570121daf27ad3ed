package watch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/status"
)

// still is a monitor whose formation does not change; it says when it was read.
type still struct{ read chan struct{} }

func (s still) Read(context.Context) (status.Snapshot, error) {
	select {
	case s.read <- struct{}{}:
	default:
	}
	return quiet(), nil
}

func (s still) Wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s still) Close(context.Context) {}

// screenBuffer is what a terminal was sent.
type screenBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *screenBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func TestRun(t *testing.T) {
	t.Parallel()
	stop := errors.New("asked to stop")
	for name, end := range map[string]func(keys io.Writer, cancel context.CancelCauseFunc) error{
		"q quits":             func(keys io.Writer, _ context.CancelCauseFunc) error { _, err := keys.Write([]byte("q")); return err },
		"the context ends it": func(_ io.Writer, cancel context.CancelCauseFunc) error { cancel(stop); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			input, keys := io.Pipe()
			defer func() { _ = keys.Close() }()
			s := still{read: make(chan struct{}, 1)}
			done := make(chan error, 1)
			var out screenBuffer
			go func() {
				done <- Run(ctx, Config{
					Formation: "default", Input: input, Output: &out, Environ: []string{"TERM=xterm-256color"}, Zone: time.UTC,
					Open: func(context.Context) (status.Session, error) { return s, nil },
				})
			}()
			<-s.read
			require.NoError(t, end(keys, cancel))
			err := <-done
			if context.Cause(ctx) != nil {
				require.ErrorIs(t, err, stop)
			} else {
				require.NoError(t, err)
			}
		})
	}
}
