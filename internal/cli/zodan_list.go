package cli

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

func newZodanListCmd(env *Env) *cobra.Command {
	cmd := newZodanLeaf(env, "list", "List the runs that a node knows of", func(ctx context.Context, z *zodan) error {
		return z.showRuns(ctx, false)
	})
	cmd.Flags().String("src-dsn", "", "`connection string` of the node to ask")
	return cmd
}

func newZodanStatusCmd(env *Env) *cobra.Command {
	cmd := newZodanWords(env, "status [ <run> ]", "Show the steps of a run: of the newest one unless it is named", 1, func(ctx context.Context, z *zodan) error {
		return z.showRuns(ctx, true)
	})
	cmd.Flags().String("src-dsn", "", "`connection string` of the node to ask")
	cmd.Flags().String("run", "", "another way to say the `name` of the run, as list shows it")
	return cmd
}

// runLine is a run as JSON.
type runLine struct {
	Run     string    `json:"run"`
	Kind    string    `json:"kind"`
	Target  string    `json:"target"`
	State   string    `json:"state"`
	Owner   string    `json:"owner"`
	Started time.Time `json:"started"`
	Updated time.Time `json:"updated"`
	Steps   []runStep `json:"steps,omitempty"`
}

type runStep struct {
	Step   string `json:"step"`
	Phase  string `json:"phase"`
	Node   string `json:"node"`
	Status string `json:"status"`
	What   string `json:"description"`
	Error  string `json:"error,omitempty"`
}

func (z *zodan) showRuns(ctx context.Context, steps bool) error {
	if err := z.need("src-dsn"); err != nil {
		return err
	}
	runs, err := z.surveyor().Runs(ctx, workflow.Member{DSN: z.text("src-dsn")})
	if err != nil {
		return fail(exitBadArgs, "%w", err)
	}
	wanted := ""
	if steps {
		wanted = orDefault(strings.Join(z.words, ""), z.text("run"))
	}
	shown := 0
	for _, r := range runs {
		if wanted != "" && wanted != r.Record.Run {
			continue
		}
		shown++
		z.showRun(r, steps)
		if steps {
			break
		}
	}
	if shown == 0 && wanted != "" {
		return fail(exitBadArgs, "there is no run %q", wanted).withHint("zodan list names those that the node knows of")
	}
	if shown == 0 && z.json {
		return nil
	}
	if shown == 0 {
		z.title("there is no such run")
	}
	return nil
}

func (z *zodan) showRun(r orchestrator.KnownRun, steps bool) {
	line := runLine{
		Run: r.Record.Run, Kind: r.Kind, Target: r.Target, State: r.Record.State, Owner: r.Record.Owner, Started: r.Record.Started,
		Updated: r.Record.Updated,
	}
	if steps {
		for _, s := range r.Record.Steps {
			line.Steps = append(line.Steps, runStep{
				Step: s.Path, Phase: s.Phase, Node: s.Node, Status: string(s.Status), What: orDefault(s.What, strings.TrimSpace(s.Command+" "+s.Object)),
				Error: s.Error,
			})
		}
	}
	if z.json {
		if text, err := json.Marshal(line); err == nil {
			z.env.printf("%s\n", text)
		}
		return
	}
	z.env.printf("%s  %s  %s  %s, last change %s, by %s\n", line.Run, line.Kind, line.Target, line.State,
		line.Updated.Local().Format(time.DateTime), line.Owner)
	for _, s := range line.Steps {
		z.env.printf("    %-4s %-10s %-10s %s\n", s.Phase, s.Status, s.Node, s.What)
		if s.Error != "" {
			z.env.printf("         %s\n", s.Error)
		}
	}
}
