package postgres

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRetention(t *testing.T) {
	t.Parallel()
	const gb = int64(1) << 30
	for _, test := range []struct {
		Retention
		keep, slots string
	}{
		{Retention{}, "8 GB", ""},
		{Retention{DiskBytes: 10 * gb}, "1024 MB", "2560 MB"},
		{Retention{DiskBytes: 1000 * gb}, "8 GB", "256000 MB"},
		{Retention{DiskBytes: 1000 * gb, Slots: "5GB"}, "8 GB", "5GB"},
		{Retention{DiskBytes: 1000 * gb, Slots: "-1"}, "8 GB", "-1"},
	} {
		s := test.settings()
		keep, _ := s.Get("wal_keep_size")
		slots, _ := s.Get("max_slot_wal_keep_size")
		require.Equal(t, test.keep, keep, "%+v", test)
		require.Equal(t, test.slots, slots, "%+v", test)
	}
	r, err := New(Config{DataDir: filepath.Join(t.TempDir(), "not", "there", "yet")}).DetectRetention("")
	require.NoError(t, err)
	require.Positive(t, r.DiskBytes)
}
