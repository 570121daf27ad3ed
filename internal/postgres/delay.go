package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

const (
	delaySetting = "recovery_min_apply_delay"
	// delayMemory is in postgresql.auto.conf while a delay is lifted, with what the
	// operator has there, "" for nothing: where the one goes the other goes, in a rewind or a copy.
	delayMemory = "pgdrover." + delaySetting
	// delayLifted is what delaySetting is then. It wins over every other file.
	delayLifted = "0"
)

// What the startup process of a standby waits for, as pg_stat_activity names it.
const (
	waitsForWAL = "RecoveryRetrieveRetryInterval"
	waitsPaused = "RecoveryPause"
)

// endStall is how long the replay may show no progress on its way to the end of
// the local WAL.
const endStall = 30 * time.Second

// release lets the replay of a standby go to its end that an operator paused or
// delays: only there does it go by a change of its upstream. A pause is over
// then, as it is at a promotion; the delay comes back with the next upstream.
type release struct {
	resumed bool
	lifted  time.Time
}

func (r *release) look(ctx context.Context, s *Session, st receiverState) error {
	i := s.instance
	if st.wait == waitsPaused {
		if err := s.checkLimits(ctx); err != nil {
			return err
		}
		if !r.resumed {
			i.log.WarnContext(ctx, "the replay is paused, resuming it: the group needs this standby's position", "replayed", st.replay.String())
		}
		r.resumed = true
		return s.exec(ctx, "resume the replay", `SELECT pg_wal_replay_resume()`)
	}
	if st.delay == delayLifted || time.Since(r.lifted) < reloadPatience {
		return nil
	}
	if r.lifted.IsZero() {
		i.log.WarnContext(ctx, "the replay is delayed, lifting that: the group needs this standby's position", "delay", st.delay, "replayed", st.replay.String())
	}
	r.lifted = time.Now()
	return s.liftDelay(ctx)
}

// liftDelay has a running standby replay without delay from here on.
func (s *Session) liftDelay(ctx context.Context) error {
	settings, err := s.instance.autoConf()
	if err != nil {
		return err
	}
	_, lifted := settings.Get(delayMemory)
	now, _ := settings.Get(delaySetting)
	if !lifted || now != delayLifted {
		// Only a name that the session knows can be set.
		if err := s.exec(ctx, "remember "+delaySetting, `SELECT set_config($1, '', false)`, delayMemory); err != nil {
			return err
		}
		if err := s.AlterSystem(ctx, delayMemory, now); err != nil {
			return err
		}
	}
	if err := s.AlterSystem(ctx, delaySetting, delayLifted); err != nil {
		return err
	}
	return s.Reload(ctx)
}

// delayAgain takes back what liftDelay did, for the next reload or start. What an
// operator has set meanwhile stays.
func (i *Instance) delayAgain(ctx context.Context) error {
	settings, err := i.autoConf()
	if err != nil {
		return err
	}
	before, lifted := settings.Get(delayMemory)
	if !lifted {
		return nil
	}
	now, _ := settings.Get(delaySetting)
	st, err := i.Status()
	if err != nil {
		return err
	}
	switch {
	case !st.Running && now != delayLifted:
		return i.setAutoConf(removals([]string{delayMemory})...)
	case !st.Running && before == "":
		return i.setAutoConf(removals([]string{delaySetting, delayMemory})...)
	case !st.Running:
		return i.setAutoConf(append(removals([]string{delayMemory}), setting(delaySetting, before))...)
	}
	return i.With(ctx, func(s *Session) error {
		// The memory goes last: after a kill in between this is done again.
		switch {
		case now != delayLifted:
		case before == "":
			err = s.ResetSystem(ctx, delaySetting)
		default:
			err = s.AlterSystem(ctx, delaySetting, before)
		}
		if err == nil {
			err = s.exec(ctx, "forget "+delaySetting, `SELECT set_config($1, '', false)`, delayMemory)
		}
		if err != nil {
			return err
		}
		return s.ResetSystem(ctx, delayMemory)
	})
}

// autoConf reads postgresql.auto.conf.
func (i *Instance) autoConf() (pg.Settings, error) {
	text, err := os.ReadFile(i.path(autoConfFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", autoConfFile, err)
	}
	settings, err := pg.ParseSettings(string(text))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", autoConfFile, err)
	}
	return settings, nil
}

// checkLimits tells a standby whose operator paused it from one that PostgreSQL
// paused because its settings are smaller than what the WAL asks for: to resume that one would end it.
func (s *Session) checkLimits(ctx context.Context) error {
	control, err := s.instance.ControlData(ctx)
	if err != nil {
		return err
	}
	var small []string
	for _, need := range control.Needs {
		if need.Setting == "" {
			continue
		}
		var have int
		if err := s.conn.QueryRow(ctx, `SELECT current_setting($1)::int`, need.Setting).Scan(&have); err != nil {
			return fmt.Errorf("ask for %s: %w", need.Setting, err)
		}
		if have < need.AtLeast {
			small = append(small, fmt.Sprintf("%s is %d, the primary has %d", need.Setting, have, need.AtLeast))
		}
	}
	if len(small) == 0 {
		return nil
	}
	return withHint(fmt.Errorf("%w: %s", ErrLimits, strings.Join(small, ", ")), "restart the standby")
}

// CheckLimits is ErrLimits for a standby whose replay PostgreSQL has paused until
// it is restarted with larger settings, which Start sees to.
func (i *Instance) CheckLimits(ctx context.Context) error {
	return i.With(ctx, func(s *Session) error { return s.checkLimits(ctx) })
}
