package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// AttendantConfig says which database an attendant serves.
type AttendantConfig struct {
	ConnInfo pg.ConnInfo
	Log      *slog.Logger
	// Dial opens sessions; [Dial] when it is nil.
	Dial Dialer
	// Owner is how journals name the runs of this attendant.
	Owner string
}

// Attendant runs what sessions ask for with the procedures of schema spock, one
// after the other. The journal of a run is on its nodes: what one attendant has
// begun another goes on with.
type Attendant struct {
	cfg AttendantConfig
}

// NewAttendant makes an attendant; it touches nothing.
func NewAttendant(cfg AttendantConfig) *Attendant {
	if cfg.Dial == nil {
		cfg.Dial = Dial
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Attendant{cfg: cfg}
}

// attendantPause is the time between two looks, also after an error.
const attendantPause = 500 * time.Millisecond

// Run serves the database until the context ends.
func (a *Attendant) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.serve(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.DebugContext(ctx, "requests are not served", "error", err)
		}
		sleep(ctx, 2*attendantPause)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

const (
	qRequestsKnown = `SELECT pg_catalog.to_regclass('spock.pgdrover_request') IS NOT NULL`
	qAttend        = `SELECT pg_catalog.pg_try_advisory_lock(727400017, 0)`
	// Whoever has stopped asking gets nothing done any more.
	qNextRequest = `UPDATE spock.pgdrover_request SET state = 'running' WHERE id = (
  SELECT r.id FROM spock.pgdrover_request r WHERE r.state IN ('wanted', 'running')
     AND r.heard_at > pg_catalog.clock_timestamp() - interval '1 minute' ORDER BY r.id LIMIT 1) RETURNING id, kind, arguments`
	qStillHeard = `SELECT heard_at > pg_catalog.clock_timestamp() - interval '1 minute' FROM spock.pgdrover_request WHERE id = $1::bigint`
	qTell       = `INSERT INTO spock.pgdrover_request_event (request_id, n, message)
SELECT $1::bigint, coalesce(max(e.n), 0) + 1, $2 FROM spock.pgdrover_request_event e WHERE e.request_id = $1::bigint`
	qEndRequest   = `UPDATE spock.pgdrover_request SET state = $2, error = $3, hint = $4 WHERE id = $1::bigint`
	qStallTimeout = `SELECT pgdrover.setting('spock.sync_timeout')`
)

// serve holds one session with the database.
func (a *Attendant) serve(ctx context.Context) error {
	server, err := a.cfg.Dial(ctx, workflow.Node{Name: "local", ConnInfo: a.cfg.ConnInfo}, func(spock.Notice) {})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range []string{qRequestsKnown, qAttend} {
		answer, err := server.Ask(ctx, sql)
		if err != nil || !answer.is() {
			return err
		}
	}
	for ctx.Err() == nil {
		answer, err := server.Ask(ctx, qNextRequest)
		if err != nil {
			return err
		}
		if len(answer.Rows) == 0 {
			sleep(ctx, attendantPause)
			continue
		}
		r := &request{id: answer.text(0), kind: answer.text(1), server: server}
		if err := json.Unmarshal([]byte(answer.text(2)), &r.arguments); err != nil {
			return fmt.Errorf("read request %s: %w", r.id, err)
		}
		if err := a.attend(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// request is what one session asks for.
type request struct {
	id, kind  string
	arguments struct {
		SrcNodeName    string          `json:"src_node_name"`
		SrcDSN         string          `json:"src_dsn"`
		NewNodeName    string          `json:"new_node_name"`
		NewNodeDSN     string          `json:"new_node_dsn"`
		Location       string          `json:"location"`
		Country        string          `json:"country"`
		Info           json.RawMessage `json:"info"`
		CheckType      string          `json:"check_type"`
		TargetNodeName string          `json:"target_node_name"`
		TargetNodeDSN  string          `json:"target_node_dsn"`
		SurvivorDSN    string          `json:"survivor_dsn"`
		Timeout        int             `json:"timeout"`
		Verb           bool            `json:"verb"`
	}
	server Server
	phase  string
}

// attend does what was asked for and stores how it ended.
func (a *Attendant) attend(ctx context.Context, r *request) error {
	a.cfg.Log.InfoContext(ctx, "request taken up", "kind", r.kind)
	runCtx, cancel := context.WithCancelCause(ctx)
	messages := make(chan string)
	failed := make(chan error, 1) // the one result
	go func() {
		failed <- a.do(runCtx, r, func(text string) {
			select {
			case messages <- text:
			case <-runCtx.Done():
			}
		})
	}()
	defer cancel(nil)
	look := time.NewTicker(2 * time.Second)
	defer look.Stop()
	var lost error
	for {
		select {
		case text := <-messages:
			if _, err := r.server.Ask(context.WithoutCancel(ctx), qTell, &r.id, &text); err != nil && lost == nil {
				lost = err
				cancel(err)
			}
		case <-look.C:
			if answer, err := r.server.Ask(ctx, qStillHeard, &r.id); err == nil && !answer.is() {
				cancel(errNobodyAsks)
			}
		case err := <-failed:
			if lost != nil {
				return lost
			}
			return a.end(context.WithoutCancel(ctx), r, err, ctx.Err() != nil)
		}
	}
}

var errNobodyAsks = errors.New("the session that asked for it has gone")

// end stores the result. What was cut short by our own end is left to the next attendant.
func (a *Attendant) end(ctx context.Context, r *request, err error, stopped bool) error {
	if stopped {
		return nil
	}
	state, text, hint := "done", (*string)(nil), (*string)(nil)
	if err != nil {
		state, text = "failed", new(workflow.Mask(err.Error()))
		var h interface{ Hint() string }
		if errors.As(err, &h) && h.Hint() != "" {
			hint = new(workflow.Mask(h.Hint()))
		}
	}
	a.cfg.Log.InfoContext(ctx, "request ended", "kind", r.kind, "state", state)
	_, err = r.server.Ask(ctx, qEndRequest, &r.id, &state, text, hint)
	return err
}

// do runs what was asked for; tell hears every line of the answer.
func (a *Attendant) do(ctx context.Context, r *request, tell func(string)) error {
	surveyor := &Surveyor{Dial: a.cfg.Dial}
	m := &Membership{Surveyor: surveyor, Owner: a.cfg.Owner, OnTitle: tell, OnCheck: func(c Check) { tell(checkLine(c)) }}
	args := r.arguments
	var cfg Config
	var err error
	switch r.kind {
	case "health_check":
		return healthRequest(ctx, surveyor, r, tell)
	case "add_node":
		cfg, err = m.Add(ctx, Addition{
			Source: workflow.Member{Name: args.SrcNodeName, DSN: args.SrcDSN},
			New: []workflow.Newcomer{{
				Member: workflow.Member{Name: args.NewNodeName, DSN: args.NewNodeDSN}, Location: args.Location, Country: args.Country, Info: string(args.Info),
			}},
		})
	case "remove_node":
		cfg, err = m.Remove(ctx, Removal{
			Target:   workflow.Member{Name: args.TargetNodeName, DSN: args.TargetNodeDSN},
			Survivor: workflow.Member{DSN: args.SurvivorDSN},
		})
		if errors.Is(err, ErrNothingToRemove) {
			tell("    - " + args.TargetNodeName + " is in no cluster")
			return nil
		}
	default:
		err = fmt.Errorf("nobody knows how to %s", r.kind)
	}
	if err != nil {
		return err
	}
	cfg.Log = a.cfg.Log
	cfg.OnEvent = func(e Event) {
		for _, line := range r.lines(e) {
			tell(line)
		}
	}
	seconds := args.Timeout
	if answer, err := r.timeout(ctx, a.cfg); err == nil && seconds == 0 {
		seconds = answer
	}
	cfg.StallTimeout = time.Duration(seconds) * time.Second
	e, err := New(cfg)
	if err != nil {
		return err
	}
	return e.Run(ctx)
}

// timeout is the operator's limit for waits in seconds, 0 when there is none.
func (r *request) timeout(ctx context.Context, cfg AttendantConfig) (int, error) {
	server, err := cfg.Dial(ctx, workflow.Node{Name: "local", ConnInfo: cfg.ConnInfo}, func(spock.Notice) {})
	if err != nil {
		return 0, err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	answer, err := server.Ask(ctx, qStallTimeout)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(answer.text(0))
}

func healthRequest(ctx context.Context, s *Surveyor, r *request, tell func(string)) error {
	args := r.arguments
	if args.CheckType != "pre" && args.CheckType != "post" {
		return fmt.Errorf("check_type must be pre or post, not %q", args.CheckType)
	}
	failed, total := 0, 0
	s.Health(ctx, HealthConfig{
		Source: workflow.Member{Name: args.SrcNodeName, DSN: args.SrcDSN}, New: workflow.Member{Name: args.NewNodeName, DSN: args.NewNodeDSN},
		Post: args.CheckType == "post",
	}, func(c Check) {
		total++
		if c.Verdict == Fail {
			failed++
		}
		tell(checkLine(c))
	})
	tell(fmt.Sprintf("Passed: %d, Failed: %d, Total: %d", total-failed, failed, total))
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, total)
	}
	return nil
}

func checkLine(c Check) string { return fmt.Sprintf("    %s: %s", c.Verdict, c.Text) }

// phaseTitle is what a phase of a plan does.
func phaseTitle(phase string) string {
	titles := map[string]string{
		"J1": "keep definitions as they are", "J2": "create nodes", "J3": "create replication slots", "J4": "create disabled subscriptions",
		"J5": "wait until the source has everything", "J6": "subscribe to the source", "J8": "copy structure and data", "J9": "compare the structure",
		"J10": "copy replication sets", "J11": "read where the copy ends", "J12": "catch up with the source", "J13": "follow the other nodes",
		"J14": "let the others follow", "J15": "check all subscriptions", "J16": "open the new node",
		"D1": "wait for the last changes", "D2": "drop subscriptions to the node", "D3": "drop subscriptions of the node", "D4": "drop slots",
		"D5": "drop the node", "D6": "forget the node", "D7": "see that nothing is left",
	}
	return titles[phase]
}

// lines are an event in the words of the scripts.
func (r *request) lines(e Event) []string {
	var all []string
	if e.Phase != "" && e.Phase != r.phase && e.Type != "undo" {
		r.phase = e.Phase
		all = append(all, "Phase "+strings.TrimLeft(e.Phase, "JD")+": "+phaseTitle(e.Phase))
	}
	const width = 120
	switch {
	case e.Status == Running:
	case e.Of > 0:
		all = append(all, fmt.Sprintf("    ⏳ %d %% on %s%s", 100*e.Done/e.Of, e.Node, e.Pace()))
	case e.Status == Waiting:
		all = append(all, "    ⏳ "+e.Message)
	case e.Status == Noted && e.Type == "WARNING":
		all = append(all, "    WARNING: "+e.Message)
	case e.Status == Noted:
		if e.Type == "" || r.arguments.Verb {
			all = append(all, "    - "+e.Message)
		}
	case e.Status == Failed:
		all = append(all, "    [FAILED] "+e.Description)
	case e.Status == Cancelled:
		all = append(all, "    [CANCELLED] "+e.Description)
	default:
		all = append(all, fmt.Sprintf("    OK: %-*s", width, e.Description))
	}
	return all
}
