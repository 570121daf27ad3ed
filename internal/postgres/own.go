package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// ownFiles is what of a data directory belongs to the node and not to the data,
// by path within it: our settings, the certificate, and what the operator
// configured. A copy or a rewind brings another node's; this one keeps its own.
// Only pg_hba.conf is the other's: the rules of all nodes are in it.
type ownFiles map[string][]byte

// includesAtMost bounds the files that include one another.
const includesAtMost = 10

// readOwnFiles reads them from the data directory; where a rewind was
// interrupted, from what that one had put aside.
func (i *Instance) readOwnFiles() (ownFiles, error) {
	if image, err := os.ReadFile(i.rewindMark()); err == nil && len(image) > 0 {
		var own ownFiles
		if err := json.Unmarshal(image, &own); err != nil {
			return nil, fmt.Errorf("read the configuration put aside in %s: %w", i.rewindMark(), err)
		}
		return own, nil
	}
	own := make(ownFiles)
	for _, name := range []string{settingsFile, "server.key", "server.crt", identFile, autoConfFile} {
		if err := own.read(i, name); err != nil {
			return nil, err
		}
	}
	if err := own.readConfig(i, "postgresql.conf", includesAtMost); err != nil {
		return nil, err
	}
	return own, nil
}

func (own ownFiles) read(i *Instance, name string) error {
	data, err := os.ReadFile(i.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	own[name] = data
	return nil
}

// readConfig reads a configuration file and those within the data directory
// that it includes; others are not touched by a copy or a rewind.
func (own ownFiles) readConfig(i *Instance, name string, depth int) error {
	if _, known := own[name]; known || depth == 0 || name == standbyFile {
		return nil
	}
	if err := own.read(i, name); err != nil {
		return err
	}
	files, _ := included(i, name, own[name])
	for _, file := range files {
		if err := own.readConfig(i, file, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// included lists the files and directories within the data directory that a
// configuration file includes, by their paths in it. One that cannot be parsed includes nothing.
func included(i *Instance, name string, image []byte) (files, dirs []string) {
	settings, err := pg.ParseSettings(string(image))
	if err != nil {
		return nil, nil
	}
	for _, s := range settings {
		directive := strings.ToLower(s.Name)
		if !slices.Contains([]string{"include", "include_if_exists", "include_dir"}, directive) {
			continue
		}
		path := s.Value
		if !filepath.IsAbs(path) {
			path = filepath.Join(i.cfg.DataDir, filepath.Dir(name), path)
		}
		path, err := filepath.Rel(filepath.Clean(i.cfg.DataDir), filepath.Clean(path))
		if err != nil || !filepath.IsLocal(path) || path == "." {
			continue
		}
		if directive != "include_dir" {
			files = append(files, path)
			continue
		}
		dirs = append(dirs, path)
		names, _ := filepath.Glob(i.path(path, "*.conf"))
		for _, name := range names {
			if !strings.HasPrefix(filepath.Base(name), ".") {
				files = append(files, filepath.Join(path, filepath.Base(name)))
			}
		}
	}
	return files, dirs
}

// putAside has them where an interrupted rewind leaves them.
func (own ownFiles) putAside(i *Instance) error {
	image, err := json.Marshal(own)
	if err != nil {
		return err
	}
	return writeFile(i.rewindMark(), image, 0o600)
}

// restore writes them into a data directory that holds another node's.
func (own ownFiles) restore(i *Instance) error {
	for name, data := range own {
		if err := os.MkdirAll(filepath.Dir(i.path(name)), 0o700); err != nil {
			return fmt.Errorf("keep %s: %w", name, diskHint(err))
		}
		if err := writeFile(i.path(name), data, 0o600); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	// A directory that is included as a whole holds the other node's files as well.
	for name, data := range own {
		_, dirs := included(i, name, data)
		for _, dir := range dirs {
			files, _ := filepath.Glob(i.path(dir, "*.conf"))
			for _, file := range files {
				if _, ours := own[filepath.Join(dir, filepath.Base(file))]; ours {
					continue
				}
				if err := os.Remove(file); err != nil {
					return fmt.Errorf("remove another node's %s: %w", file, err)
				}
			}
		}
	}
	return nil
}

// raiseLimits gives a stopped standby at least what its WAL asks for of the
// settings that bound a server's sessions and locks: with less it does not
// start. An operator who raised one on the primary alone finds the
// primary's value here, and nothing else is changed.
func (i *Instance) raiseLimits(ctx context.Context) error {
	control, err := i.ControlData(ctx)
	if err != nil {
		return err
	}
	var have [len(control.Needs)]int
	// All at once: an election may be waiting for this standby.
	var looks sync.WaitGroup
	for n, need := range control.Needs {
		if need.Setting == "" {
			continue
		}
		looks.Go(func() {
			var err error
			if have[n], err = i.configured(ctx, need.Setting); err != nil {
				have[n] = need.AtLeast
				i.log.DebugContext(ctx, "could not look a setting up", "setting", need.Setting, "error", err)
			}
		})
	}
	looks.Wait()
	for n, need := range control.Needs {
		if have[n] >= need.AtLeast {
			continue
		}
		i.log.WarnContext(ctx, "this node's setting is lower than a standby needs, taking its primary's", "setting", need.Setting, "value", have[n], "primary", need.AtLeast)
		if err := i.setAutoConf(setting(need.Setting, strconv.Itoa(need.AtLeast))); err != nil {
			return err
		}
	}
	return nil
}

// configured is the value of a number that a stopped server will start with.
func (i *Instance) configured(ctx context.Context, setting string) (int, error) {
	cmd := exec.CommandContext(ctx, i.cfg.Tools.Path("postgres"), "-D", i.cfg.DataDir, "-C", setting) //nolint:gosec // the configured program
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("run postgres -C %s: %w", setting, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}
