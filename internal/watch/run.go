package watch

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/pgdrover/pgdrover/internal/status"
)

// Config is where a dashboard runs.
type Config struct {
	Formation string
	// Program is the name under which the program was called.
	Program string
	// Open connects to the monitor; it is called again whenever the connection is lost.
	Open func(ctx context.Context) (status.Session, error)
	// Input and Output are the terminal, Environ says what it can do.
	Input   io.Reader
	Output  io.Writer
	Environ []string
	Zone    *time.Location
}

// Run shows the dashboard until the operator quits, which is no error, or the
// context ends, whose cause it then returns. The terminal is as it was before.
func Run(ctx context.Context, cfg Config) error {
	model := New(cfg.Formation, cfg.Zone, time.Now())
	if cfg.Program != "" {
		model.Program = cfg.Program
	}
	program := tea.NewProgram(model,
		tea.WithContext(ctx), tea.WithInput(cfg.Input), tea.WithOutput(cfg.Output), tea.WithEnvironment(cfg.Environ),
		tea.WithoutSignalHandler(), tea.WithFPS(framesPerSecond))
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		// It ends with its context and in no other way.
		_ = status.Watcher{
			Open: cfg.Open,
			Show: func(s status.Snapshot) { program.Send(snapshotMsg(s)) },
			Lost: func(err error) { program.Send(lostMsg{err}) },
		}.Run(watching)
	})
	_, err := program.Run()
	stop()
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// framesPerSecond bounds drawing; keys feel immediate, and a burst of changes costs little.
const framesPerSecond = 30
