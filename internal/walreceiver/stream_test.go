package walreceiver

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// heard is a report and when it came, by the test's own clock.
type heard struct {
	report
	after time.Duration
}

// listen collects reports until the connection ends.
func (s *server) listen(start time.Time, to chan<- heard) {
	for {
		r, err := s.report()
		if err != nil {
			return
		}
		to <- heard{r, time.Since(start)}
	}
}

func TestReportsOnATimer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, reports := time.Now(), make(chan heard, 100)
		c := streaming(t, Config{StatusInterval: 10 * time.Second, Timeout: -1}, func(s *server) { s.listen(start, reports) })
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		_, err := c.Receive(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		// Three numbers, none derived from another; none goes back.
		require.NoError(t, c.Report(t.Context(), Feedback{Written: 30, Applied: 10}))
		c.SetFeedback(Feedback{Written: 20, Flushed: 5})
		ctx, cancel = context.WithTimeout(t.Context(), 11*time.Second)
		defer cancel()
		_, err = c.Receive(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		var got []heard
		for range len(reports) {
			got = append(got, <-reports)
		}
		require.Equal(t, []heard{
			{report{}, 0},
			{report{}, 10 * time.Second},
			{report{}, 20 * time.Second},
			{report{Feedback: Feedback{Written: 30, Applied: 10}}, 25 * time.Second},
			{report{Feedback: Feedback{Written: 30, Flushed: 5, Applied: 10}}, 35 * time.Second},
		}, got)
	})
}

func TestReportsOnRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, reports := time.Now(), make(chan heard, 100)
		c := streaming(t, Config{Timeout: -1}, func(s *server) {
			if s.send(keepalive(0x100, 1), data(0x100, 0x200, "x"), keepalive(0x200, 0)) == nil {
				s.listen(start, reports)
			}
		})
		m, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, Keepalive, m.Kind)
		require.True(t, m.ReplyRequested)
		c.SetFeedback(Feedback{0x100, 0x100, 0x100})
		m, err = c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, Data, m.Kind)
		require.EqualValues(t, 77, m.ServerTime)
		m, err = c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, Keepalive, m.Kind)
		require.False(t, m.ReplyRequested)
		require.EqualValues(t, 78, m.ServerTime)
		synctest.Wait()
		require.Len(t, reports, 2)
		require.Equal(t, heard{}, <-reports, "the first report")
		require.Equal(t, heard{report: report{Feedback: Feedback{0x100, 0x100, 0x100}}}, <-reports)
	})
}

// TestSilence: a server that says nothing is asked, and then given up.
func TestSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, reports := time.Now(), make(chan heard, 100)
		c := streaming(t, Config{StatusInterval: time.Hour, Timeout: 60 * time.Second}, func(s *server) { s.listen(start, reports) })
		_, err := c.Receive(t.Context())
		require.ErrorIs(t, err, ErrSilent)
		require.EqualError(t, err, "receive changes: server is silent: nothing received for 1m0s")
		require.Equal(t, time.Minute, time.Since(start))
		synctest.Wait()
		require.Equal(t, heard{}, <-reports, "the first report")
		require.Equal(t, heard{report{ping: true}, 30 * time.Second}, <-reports)
		require.Empty(t, reports)
	})
}

// TestAnAnswerBreaksTheSilence: what keeps answering is not given up.
func TestAnAnswerBreaksTheSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := streaming(t, Config{StatusInterval: time.Hour, Timeout: 60 * time.Second}, func(s *server) {
			for {
				r, err := s.report()
				if err != nil {
					return
				}
				if r.ping && s.send(keepalive(0x100, 0)) != nil {
					return
				}
			}
		})
		start := time.Now()
		for i := 1; i <= 5; i++ {
			m, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, Keepalive, m.Kind)
			require.Equal(t, time.Duration(i)*30*time.Second, time.Since(start))
		}
	})
}

// TestSlowBytesAreNoSilence: a large message on a slow link takes its time.
func TestSlowBytesAreNoSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		payload := strings.Repeat("x", 100)
		c := streaming(t, Config{Timeout: 10 * time.Second}, func(s *server) {
			go func() { _, _ = io.Copy(io.Discard, s.conn) }()
			b, err := data(0x100, 0x200, payload).Encode(nil)
			if err != nil {
				return
			}
			for i := range b {
				time.Sleep(time.Second)
				if _, err := s.conn.Write(b[i : i+1]); err != nil {
					return
				}
			}
		})
		m, err := c.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, payload, string(m.Data))
	})
}

// TestABusyCallerIsNoSilence: while the caller is away nobody listens, and the
// server is not blamed for it.
func TestABusyCallerIsNoSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, reports := time.Now(), make(chan heard, 100)
		release := make(chan struct{})
		c := streaming(t, Config{StatusInterval: 10 * time.Second, Timeout: 60 * time.Second}, func(s *server) {
			if s.send(data(0x100, 0x200, "first")) != nil {
				return
			}
			go s.listen(start, reports)
			<-release
			_ = s.send(data(0x200, 0x300, "second"))
		})
		stop := errors.New("enough")
		var got []string
		err := c.Run(t.Context(), func(m Message) error {
			got = append(got, string(m.Data))
			if len(got) == 2 {
				return stop
			}
			c.SetFeedback(Feedback{Written: 0x200})
			time.Sleep(5 * time.Minute)
			close(release)
			return nil
		})
		require.ErrorIs(t, err, stop)
		require.Equal(t, []string{"first", "second"}, got)
		require.GreaterOrEqual(t, len(reports), 30, "reports went on")
		last := time.Duration(0)
		for range 30 {
			h := <-reports
			require.LessOrEqual(t, h.after-last, 11*time.Second)
			last = h.after
		}
	})
}

// TestCancelAndGoOn: a context that ends while nothing comes, or in the middle of
// a message, loses nothing.
func TestCancelAndGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := streaming(t, Config{}, func(s *server) {
			go func() { _, _ = io.Copy(io.Discard, s.conn) }()
			b, err := data(0x100, 0x200, "payload").Encode(nil)
			if err != nil {
				return
			}
			time.Sleep(2 * time.Second)
			for _, part := range [][]byte{b[:3], b[3:20], b[20:]} {
				if _, err := s.conn.Write(part); err != nil {
					return
				}
				time.Sleep(2 * time.Second)
			}
		})
		tries := 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			m, err := c.Receive(ctx)
			cancel()
			if err == nil {
				require.Equal(t, "payload", string(m.Data))
				break
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			tries++
		}
		require.GreaterOrEqual(t, tries, 5)
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("asked to stop")
		cancel(cause)
		_, err := c.Receive(ctx)
		require.ErrorIs(t, err, cause)
		require.ErrorIs(t, c.Run(ctx, func(Message) error { return nil }), cause)
		require.ErrorIs(t, c.Report(ctx, Feedback{}), cause)
		require.NoError(t, c.Report(t.Context(), Feedback{}), "none of that broke the connection")
	})
}

// TestAServerThatDoesNotRead: a report that cannot be sent ends with its context,
// or after the timeout.
func TestAServerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := streaming(t, Config{Timeout: time.Minute}, func(*server) {})
		client, end := net.Pipe() // nobody reads from this one
		defer end.Close()
		c.conn = client
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.ErrorIs(t, c.Report(ctx, Feedback{}), context.DeadlineExceeded)
		require.Equal(t, 5*time.Second, time.Since(start))
		err := c.Report(t.Context(), Feedback{})
		require.Error(t, err)
		require.True(t, Lost(err))
		require.Equal(t, 65*time.Second, time.Since(start))
		// It is broken now, for everybody.
		_, err = c.Receive(t.Context())
		require.True(t, Lost(err))
	})
}

// TestARunEndsWithItsBeat: what the timer's report meets while the caller is busy
// ends the run.
func TestARunEndsWithItsBeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := streaming(t, Config{StatusInterval: time.Second, Timeout: time.Minute}, func(s *server) {
			_, _ = s.report()
			_ = s.send(data(0x100, 0x200, "x"))
			_ = s.conn.Close()
		})
		err := c.Run(t.Context(), func(Message) error {
			time.Sleep(5 * time.Second)
			return nil
		})
		require.ErrorContains(t, err, "receive changes: ")
		require.ErrorIs(t, err, io.ErrClosedPipe)
	})
}

func TestEndsOfAStream(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		sent    pgproto3.BackendMessage
		problem string
		lost    bool
	}{
		{"copy done", &pgproto3.CopyDone{}, "server ended the stream", true},
		{"command complete", &pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}, "server ended the stream", true},
		{"shutdown", &pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "terminating connection"}, "FATAL: terminating connection (SQLSTATE 57P01)", true},
		{"error", &pgproto3.ErrorResponse{Severity: "ERROR", Code: "42704", Message: "no publication"}, "ERROR: no publication (SQLSTATE 42704)", false},
		{"empty", &pgproto3.CopyData{}, "unexpected message: no bytes", false},
		{"unknown", &pgproto3.CopyData{Data: []byte("zzz")}, "unexpected message: kind 'z', 3 bytes", false},
		{"short data", &pgproto3.CopyData{Data: make([]byte, 24)}, "unexpected message: kind '\\x00', 24 bytes", false},
		{"long keepalive", &pgproto3.CopyData{Data: append(keepalive(1, 0).Data, 0)}, "unexpected message: kind 'k', 19 bytes", false},
		{"a row", &pgproto3.DataRow{}, "unexpected message: *pgproto3.DataRow", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := streaming(t, Config{}, func(s *server) {
				go func() { _, _ = io.Copy(io.Discard, s.conn) }()
				_ = s.send(&pgproto3.NoticeResponse{Severity: "NOTICE"}, &pgproto3.ParameterStatus{Name: "x", Value: "y"}, tt.sent)
			})
			_, err := c.Receive(t.Context())
			require.EqualError(t, err, "receive changes: "+tt.problem)
			require.Equal(t, tt.lost, Lost(err))
			require.Equal(t, "y", c.Parameter("x"))
			_, err = c.Receive(t.Context())
			require.EqualError(t, err, "receive changes: "+tt.problem)
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(keepalive(7, 1).Data)
	f.Add(data(7, 8, "x").Data)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err == nil && m.Kind == Data {
			require.Len(t, m.Data, len(b)-25)
		}
	})
}
