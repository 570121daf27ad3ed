package spock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ExtensionDirs are the directories of a server's installation: the share
// directory (pg_config --sharedir) and the library directory (--pkglibdir).
type ExtensionDirs struct{ Share, Lib string }

// baseVersion is the release of the extension's base script; every later one
// is reached by steps that change nothing.
const baseVersion = "5.0.0"

// links are the library names that Spock's manuals use; each is a link to the
// server's own output plugin. As a preloaded library it does nothing.
func links() []string { return []string{"spock.so", "spock_output.so"} }

const linkTarget = "pgoutput.so"

const controlText = `# Multi-master replication: Spock's SQL interface, by pgdrover
comment = 'PostgreSQL Logical Replication'
default_version = '` + CompatVersion + `'
module_pathname = '$libdir/spock'
relocatable = false
schema = spock
`

// extensionTail runs only as a script of CREATE EXTENSION: what an operator
// adds to a configuration table belongs into dumps.
const extensionTail = `
SELECT pg_catalog.pg_extension_config_dump('spock.reserved_object', 'WHERE NOT builtin');
`

// extensionScripts returns the files of the share directory's part by name.
func extensionScripts() (map[string]string, error) {
	var script strings.Builder
	script.WriteString("\\echo Use \"CREATE EXTENSION spock\" to load this file. \\quit\n\n")
	for _, file := range installOrder() {
		text, err := sqlFiles.ReadFile("sql/" + file)
		if err != nil {
			return nil, fmt.Errorf("read embedded %s: %w", file, err)
		}
		script.Write(text)
		script.WriteString("\n")
	}
	script.WriteString(extensionTail)
	files := map[string]string{
		"spock.control":                    controlText,
		"spock--" + baseVersion + ".sql":   script.String(),
		"spock--" + CompatVersion + ".sql": script.String(),
	}
	for patch := range 11 {
		files[fmt.Sprintf("spock--5.0.%d--5.0.%d.sql", patch, patch+1)] =
			"-- Nothing to do: the base script is that of " + CompatVersion + ".\n"
	}
	return files, nil
}

// InstallExtension puts the control file and the scripts into the share
// directory, and links spock.so and spock_output.so to pgoutput.so in the
// library directory, so that CREATE EXTENSION spock,
// shared_preload_libraries = 'spock' and slots with the plugin spock_output
// work. It may be run again. Files of another spock are not touched.
func InstallExtension(_ context.Context, dirs ExtensionDirs) error {
	if err := checkForeignExtension(dirs); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dirs.Lib, linkTarget)); err != nil {
		return hinted{
			fmt.Sprintf("find the server's output plugin: %v", err),
			"Give the library directory of the server: pg_config --pkglibdir.",
		}
	}
	scripts, err := extensionScripts()
	if err != nil {
		return err
	}
	for name, text := range scripts {
		if err := replaceFile(filepath.Join(dirs.Share, "extension", name), text); err != nil {
			return err
		}
	}
	for _, link := range links() {
		if err := ensureLink(filepath.Join(dirs.Lib, link)); err != nil {
			return err
		}
	}
	return nil
}

// checkForeignExtension refuses when the directories hold somebody else's
// spock: a library that is a file, or a control file that is not ours.
func checkForeignExtension(dirs ExtensionDirs) error {
	for _, link := range links() {
		info, err := os.Lstat(filepath.Join(dirs.Lib, link))
		if err == nil && info.Mode()&os.ModeSymlink == 0 {
			return hinted{
				fmt.Sprintf("link %s: a library of this name is installed", filepath.Join(dirs.Lib, link)),
				"Remove the package of pgEdge's Spock first.",
			}
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look at %s: %w", link, err)
		}
	}
	file := filepath.Join(dirs.Share, "extension", "spock.control")
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the directory
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read control file: %w", err)
	}
	if !strings.Contains(string(text), "by pgdrover") {
		return hinted{
			fmt.Sprintf("write %s: it belongs to another installation of spock", file),
			"Remove the package of pgEdge's Spock first.",
		}
	}
	return nil
}

// replaceFile writes a file that any server user may read, whole or not at all.
func replaceFile(name, text string) error {
	old, err := os.ReadFile(name) //nolint:gosec // the operator names the directory
	if err == nil && string(old) == text {
		return nil
	}
	temporary := name + ".pgdrover"
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil { //nolint:gosec // servers read it
		return hinted{fmt.Sprintf("write extension file: %v", err), "Run this as root, on the server's own host."}
	}
	if err := os.Chmod(temporary, 0o644); err != nil { //nolint:gosec // whatever the umask
		return fmt.Errorf("write extension file: %w", err)
	}
	if err := os.Rename(temporary, name); err != nil {
		return fmt.Errorf("write extension file: %w", err)
	}
	return nil
}

func ensureLink(name string) error {
	target, err := os.Readlink(name)
	if err == nil && target == linkTarget {
		return nil
	}
	if err == nil {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("replace link: %w", err)
		}
	}
	if err := os.Symlink(linkTarget, name); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}

// RemoveExtension takes back what InstallExtension did. preload is the
// server's shared_preload_libraries: while it names spock the server would
// not start without the link, so that is refused.
func RemoveExtension(_ context.Context, dirs ExtensionDirs, preload string) error {
	for library := range strings.SplitSeq(preload, ",") {
		library = strings.Trim(strings.TrimSpace(library), `"`)
		if name := strings.TrimSuffix(filepath.Base(library), ".so"); name == "spock" || name == "spock_output" {
			return hinted{
				fmt.Sprintf("remove extension files: shared_preload_libraries names %s, without which the server would not start", name),
				"Take it out of the configuration, restart the server, and try again.",
			}
		}
	}
	if err := checkForeignExtension(dirs); err != nil {
		return err
	}
	scripts, err := extensionScripts()
	if err != nil {
		return err
	}
	var names []string
	for name := range scripts {
		names = append(names, filepath.Join(dirs.Share, "extension", name))
	}
	for _, link := range links() {
		names = append(names, filepath.Join(dirs.Lib, link))
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove extension file: %w", err)
		}
	}
	return nil
}

const qExtensionSettings = `
SELECT current_setting('shared_preload_libraries'), coalesce(current_setting('output_plugin_libraries', true), ''),
       current_setting('output_plugin_libraries', true) IS NOT NULL`

// ExtensionSettings is what a server's configuration says about the extension.
type ExtensionSettings struct {
	Preload string // shared_preload_libraries
	// Hint is a statement to run, when the server allows replication slots
	// only the plugins on a list that lacks spock_output.
	Hint string
}

// ExtensionSettings reads what a server's configuration says about the extension.
func (db *DB) ExtensionSettings(ctx context.Context) (ExtensionSettings, error) {
	var s ExtensionSettings
	var plugins string
	var limited bool
	if err := db.conn.QueryRow(ctx, qExtensionSettings).Scan(&s.Preload, &plugins, &limited); err != nil {
		return s, wrap("read the server's settings", err)
	}
	if !limited {
		return s, nil
	}
	var list []string
	for plugin := range strings.SplitSeq(plugins, ",") {
		plugin = strings.TrimSpace(plugin)
		if strings.Trim(plugin, `"`) == "spock_output" {
			return s, nil
		}
		if plugin != "" {
			list = append(list, plugin)
		}
	}
	// A list, not a string: one quoted string is taken as one name.
	s.Hint = "ALTER SYSTEM SET output_plugin_libraries = " + strings.Join(append(list, "spock_output"), ", ")
	return s, nil
}
