package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/status"
)

//go:embed static
var static embed.FS

// Times of the server.
const (
	headerPatience = 5 * time.Second
	farewell       = time.Second
	// streamPatience is how long a browser may take for one picture before it is given up.
	streamPatience = 10 * time.Second
)

// Config is what a page shows, and to whom.
type Config struct {
	Formation string
	// Open connects to the monitor; it is called again whenever the connection is lost.
	Open func(ctx context.Context) (status.Session, error)
	// Listener takes the clients; Run closes it.
	Listener net.Listener
	// JSON writes a snapshot for programs.
	JSON   func(io.Writer, status.Snapshot) error
	Zone   *time.Location
	Logger *slog.Logger
}

// Server serves the page of one formation.
type Server struct {
	cfg   Config
	pages *template.Template

	mu      sync.Mutex
	now     picture
	changed chan struct{} // closed when now is replaced
}

// New reads its templates; it touches nothing else.
func New(cfg Config) (*Server, error) {
	pages, err := template.ParseFS(static, "static/*.html")
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, pages: pages, changed: make(chan struct{})}, nil
}

// Run watches the monitor and serves until the context ends, whose cause it
// then returns.
func (s *Server) Run(ctx context.Context) error {
	serving, stop := context.WithCancel(ctx)
	defer stop()
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerPatience,
		BaseContext: func(net.Listener) context.Context { return serving },
		ErrorLog:    slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		// It ends with its context and in no other way.
		_ = status.Watcher{Open: s.cfg.Open, Show: s.show, Lost: s.lose}.Run(serving)
	})
	wg.Go(func() {
		<-serving.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if server.Shutdown(closing) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(s.cfg.Listener)
	stop()
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// show takes a snapshot of the watcher.
func (s *Server) show(snapshot status.Snapshot) {
	s.replace(func(p *picture) { *p = picture{snapshot: snapshot, known: true} })
}

// lose notes that the monitor cannot be read; what was read last stays, and is said to be old.
func (s *Server) lose(err error) {
	s.replace(func(p *picture) {
		if p.lost == nil || p.lost.Error() != err.Error() { // once, not at every attempt
			s.cfg.Logger.Warn("the monitor cannot be read", "error", err)
		}
		p.lost = err
	})
}

func (s *Server) replace(change func(*picture)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.now)
	close(s.changed)
	s.changed = make(chan struct{})
}

// current is the latest picture, and a channel that is closed when there is a later one.
func (s *Server) current() (picture, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.changed
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /state", s.state)
	mux.HandleFunc("GET /changes", s.changes)
	for name, kind := range map[string]string{"style.css": "text/css", "follow.js": "text/javascript"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			text, err := static.ReadFile("static/" + name)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", kind+"; charset=utf-8")
			_, _ = w.Write(text)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

// page answers with the whole page.
func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	p, _ := s.current()
	text, err := s.render("page", p)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(text)
}

func (s *Server) render(name string, p picture) ([]byte, error) {
	var b bytes.Buffer
	err := s.pages.ExecuteTemplate(&b, name, s.view(p))
	return b.Bytes(), err
}

// state answers with the snapshot in JSON, and with an error as long as there is none to be trusted.
func (s *Server) state(w http.ResponseWriter, _ *http.Request) {
	p, _ := s.current()
	if !p.known || p.lost != nil {
		http.Error(w, p.alarm(), http.StatusServiceUnavailable)
		return
	}
	var b bytes.Buffer
	if err := s.cfg.JSON(&b, p.snapshot); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
}

// changes sends each new picture, as a part of the page, until the browser leaves.
func (s *Server) changes(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for {
		p, later := s.current()
		text, err := s.render("formation", p)
		if err != nil {
			return
		}
		if err := out.SetWriteDeadline(time.Now().Add(streamPatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return
		}
		if _, err := w.Write([]byte(event(string(text)))); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-later:
		}
	}
}

// event is a text as one event of a stream, which has it line by line.
func event(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString("data: " + line + "\n")
		}
	}
	return b.String() + "\n"
}
