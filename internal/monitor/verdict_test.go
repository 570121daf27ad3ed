package monitor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

func testRules() probeRules {
	return probeRules{
		enabled: true, period: time.Second, timeout: time.Second, retries: 2, delay: 100 * time.Millisecond,
		unhealthy: 3 * time.Second,
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	ms := func(n int) time.Time { return t0.Add(time.Duration(n) * time.Millisecond) }
	type attempt struct {
		out  outcome
		at   int
		lost bool
		bad  bool
	}
	for name, attempts := range map[string][]attempt{
		"three failures":                     {{outcomeRefused, 0, false, false}, {outcomeRefused, 100, false, false}, {outcomeRefused, 200, false, true}},
		"an answer in between":               {{outcomeRefused, 0, false, false}, {outcomeSilent, 1000, false, false}, {outcomeAlive, 1100, false, false}, {outcomeRefused, 1200, false, false}},
		"lost session, two refusals":         {{outcomeRefused, 0, true, false}, {outcomeRefused, 100, true, true}},
		"lost session, refusals too close":   {{outcomeRefused, 0, true, false}, {outcomeRefused, 50, true, false}},
		"lost session, silence is no answer": {{outcomeSilent, 0, true, false}, {outcomeSilent, 1100, true, false}},
		"our own failures do not count":      {{outcomeNone, 0, true, false}, {outcomeNone, 100, true, false}, {outcomeNone, 200, true, false}, {outcomeNone, 300, true, false}},
		"long silence, one attempt":          {{outcomeSilent, 3000, false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := verdict{health: fsm.HealthUnknown}
			for _, a := range attempts {
				v.note(a.out, ms(a.at), testRules(), suspicion{heard: t0, sessionLost: a.lost})
				require.Equal(t, a.bad, v.health == fsm.HealthBad, "attempt at %d ms", a.at)
			}
		})
	}
}

func TestPatienceEndsWithTheSilence(t *testing.T) {
	t.Parallel()
	now := time.Now()
	v := verdict{failures: 1}
	require.Equal(t, time.Second, v.patience(now, testRules(), suspicion{heard: now}))
	require.Equal(t, 300*time.Millisecond, v.patience(now, testRules(), suspicion{heard: now.Add(-2700 * time.Millisecond)}))
	v.failures = 0
	require.Equal(t, time.Second, v.patience(now, testRules(), suspicion{heard: now.Add(-2700 * time.Millisecond)}),
		"no verdict without one attempt of full length")
}

func TestQueueHandsOutAKeyOnce(t *testing.T) {
	t.Parallel()
	q := newQueue()
	q.add(testKey, testKey)
	key, err := q.next(t.Context())
	require.NoError(t, err)
	require.Equal(t, testKey, key)
	_, more := q.take()
	require.False(t, more)
	q.add(testKey)
	q.add(testKey)
	_, more = q.take()
	require.False(t, more, "it is being worked on")
	q.done(testKey)
	_, more = q.take()
	require.True(t, more)
	q.done(testKey)
	_, more = q.take()
	require.False(t, more)
	require.Empty(t, q.state)
}
