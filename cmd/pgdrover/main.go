// Command pgdrover keeps groups of PostgreSQL servers highly available. Called
// as pg_autoctl it answers to the commands of that name.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/term"

	"github.com/pgdrover/pgdrover/internal/cli"
)

// version is set when the program is linked.
var version = "devel"

func main() { os.Exit(run()) }

// run calls the command line with a context that the first signal ends. Later
// signals go to the command when it listens to them; else the process leaves.
func run() int {
	args := arguments()
	hideConnInfo(args)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	reload, again := make(chan struct{}, 1), make(chan os.Signal)
	go dispatch(ctx, cancel, signals, reload, again)

	executable, err := os.Executable()
	if err != nil {
		executable = args[0]
	}
	return cli.Main(ctx, cli.Env{
		Name: args[0], Args: args[1:], Hide: hide, Version: version,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.LookupEnv, Environ: os.Environ(), Executable: executable,
		PID: os.Getpid(), EUID: os.Geteuid(),
		Terminal: term.IsTerminal(int(os.Stderr.Fd())), OutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		Reload: reload, Signals: again, OneThread: oneThread,
	})
}

// oneThread has Go run on one thread at a time, unless the operator says otherwise.
func oneThread() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// dispatch turns signals into a reload, the end of ctx, or the end of the process.
func dispatch(
	ctx context.Context, cancel context.CancelCauseFunc, signals <-chan os.Signal, reload chan<- struct{}, again chan<- os.Signal,
) {
	for sig := range signals {
		switch {
		case sig == syscall.SIGHUP:
			select {
			case reload <- struct{}{}:
			default: // one is waiting already
			}
		case ctx.Err() == nil:
			cancel(&cli.SignalError{Sig: sig})
		default:
			select {
			case again <- sig:
			default:
				os.Exit(128 + int(sig.(syscall.Signal)))
			}
		}
	}
}
