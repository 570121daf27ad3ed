package pgautofailover

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// The channels on which the schema notifies.
const (
	// ChannelState carries one StateNotification for each change of a node's goal, reported state or health.
	ChannelState = "state"
	// ChannelLog carries the texts of decisions.
	ChannelLog = "log"
	// ChannelWake carries <formation>/<group> whenever there may be something to decide.
	ChannelWake = "pgdrover"
)

// Notification is one notification of the monitor.
type Notification struct {
	Channel, Payload string
}

// Listen subscribes this session to channels.
func (db *DB) Listen(ctx context.Context, channels ...string) error {
	for _, channel := range channels {
		if _, err := db.conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return wrap("listen to "+channel, err)
		}
	}
	return nil
}

// WaitNotification returns the next notification, also one that arrived while
// another method ran. It ends with the context, whose cause it then returns,
// and leaves the connection usable.
func (db *DB) WaitNotification(ctx context.Context) (Notification, error) {
	n, err := db.conn.WaitForNotification(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return Notification{}, context.Cause(ctx)
		}
		return Notification{}, wrap("wait for a notification", err)
	}
	return Notification{Channel: n.Channel, Payload: n.Payload}, nil
}

// StateNotification is the payload of channel state.
type StateNotification struct {
	Type      string    `json:"type"`
	Formation string    `json:"formation"`
	Group     int       `json:"groupId"`
	NodeID    int64     `json:"nodeId"`
	Name      string    `json:"name"`
	Host      string    `json:"host"`
	Port      int       `json:"port"`
	Reported  fsm.State `json:"reportedState"`
	Goal      fsm.State `json:"goalState"`
	Health    string    `json:"health"`
}

// ParseStateNotification reads the payload of channel state.
func ParseStateNotification(payload string) (StateNotification, error) {
	var n StateNotification
	if err := json.Unmarshal([]byte(payload), &n); err != nil {
		return StateNotification{}, fmt.Errorf("parse state notification: %w", err)
	}
	if n.Type != "state" {
		return StateNotification{}, fmt.Errorf("parse state notification: unexpected type %q", n.Type)
	}
	return n, nil
}

// GroupKey names one group of one formation.
type GroupKey struct {
	Formation string
	Group     int
}

// String returns the key as channel pgdrover spells it.
func (k GroupKey) String() string { return k.Formation + "/" + strconv.Itoa(k.Group) }

// ParseGroupKey reads the payload of channel pgdrover.
func ParseGroupKey(payload string) (GroupKey, error) {
	at := strings.LastIndexByte(payload, '/')
	if at < 0 {
		return GroupKey{}, fmt.Errorf("parse group %q: no slash", payload)
	}
	group, err := strconv.Atoi(payload[at+1:])
	if err != nil {
		return GroupKey{}, fmt.Errorf("parse group %q: %w", payload, err)
	}
	return GroupKey{Formation: payload[:at], Group: group}, nil
}
