// Package watch is the live terminal dashboard: it draws the Snapshots of
// package status. Model is pure, one message in and one frame out, so frames are
// compared with files; Run connects it to a terminal and a status.Watcher.
//
// It never asks a monitor itself, and changes nothing.
package watch
