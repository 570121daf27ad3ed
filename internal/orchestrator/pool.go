package orchestrator

import "context"

// acquire takes a session with a node: an idle one, or a new one.
func (e *Executor) acquire(ctx context.Context, node string) (Server, error) {
	e.mu.Lock()
	for idle := e.idle[node]; len(idle) > 0; idle = e.idle[node] {
		server := idle[len(idle)-1]
		e.idle[node] = idle[:len(idle)-1]
		if !server.Closed() {
			e.mu.Unlock()
			return server, nil
		}
	}
	e.mu.Unlock()
	server, err := e.cfg.Dial(ctx, e.nodes[node], e.notice(node))
	if err != nil {
		return nil, &NodeError{Node: node, Op: "connect", Err: serverError(err)}
	}
	return server, nil
}

// release gives a session back.
func (e *Executor) release(ctx context.Context, node string, server Server) {
	if server.Closed() {
		_ = server.Close(context.WithoutCancel(ctx))
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.idle[node] = append(e.idle[node], server)
}

// on lends a session with a node, until the node's server is known to be gone.
func (e *Executor) on(ctx context.Context, node string, use func(ctx context.Context, server Server) error) error {
	server, err := e.acquire(ctx, node)
	if err != nil {
		return err
	}
	defer e.release(ctx, node, server)
	lent, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e.mu.Lock()
	e.lent[server] = loan{node: node, cancel: cancel}
	e.mu.Unlock()
	err = use(lent, server)
	e.mu.Lock()
	delete(e.lent, server)
	e.mu.Unlock()
	if err != nil && ctx.Err() == nil && lent.Err() != nil {
		return &NodeError{Node: node, Op: "wait for an answer", Err: context.Cause(lent)}
	}
	return err
}

// loan is a session that is in use.
type loan struct {
	node   string
	cancel context.CancelCauseFunc
}

// sever ends what waits for answers of a node whose server is gone. A session may
// outlive its server: one that makes a slot does, and keeps the server from
// being started again, as long as somebody waits for it.
func (e *Executor) sever(node string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lent {
		if l.node == node {
			l.cancel(errServerGone)
		}
	}
}

// ask asks a node one question.
func (e *Executor) ask(ctx context.Context, node, sql string, args ...*string) (Result, error) {
	var answer Result
	err := e.on(ctx, node, func(ctx context.Context, server Server) error {
		var err error
		answer, err = server.Ask(ctx, sql, args...)
		return err
	})
	return answer, err
}

// closeAll ends all sessions, and with them the locks.
func (e *Executor) closeAll(ctx context.Context) {
	e.mu.Lock()
	var all []Server
	for _, server := range e.locks {
		all = append(all, server)
	}
	for _, idle := range e.idle {
		all = append(all, idle...)
	}
	clear(e.idle)
	clear(e.locks)
	e.mu.Unlock()
	for _, server := range all {
		_ = server.Close(ctx)
	}
	e.cfg.Journal.Close(ctx)
}

// lockOf is the session that keeps other runs off a node, nil when there is none.
func (e *Executor) lockOf(node string) Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.locks[node]
}
