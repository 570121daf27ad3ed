package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseShared(t *testing.T) {
	t.Parallel()
	require.Equal(t, &shared{id: "00000003-0000001B-1", slot: "pgdrover_share_x", point: 0x1_0000_00FF},
		parseShared("slot=pgdrover_share_x snapshot=00000003-0000001B-1 point=1/FF"))
	for _, text := range []string{"", "slot=a snapshot=b", "slot=a point=0/1", "snapshot=b point=0/1", "slot=a snapshot=b point=x", "slot=a snapshot=b point=0/0"} {
		require.Nil(t, parseShared(text), text)
	}
}
