package watch

import "charm.land/bubbles/v2/key"

// keyMap are the keys of the dashboard: arrows, vi's and readline's.
type keyMap struct {
	quit, up, down, left, right, pageUp, pageDown, home, end, clear key.Binding
}

func keys() keyMap {
	bind := func(show, does string, names ...string) key.Binding {
		return key.NewBinding(key.WithKeys(names...), key.WithHelp(show, does))
	}
	return keyMap{
		quit:     bind("q", "quit", "q", "f1", "ctrl+c"),
		up:       bind("↑↓", "select", "up", "k", "ctrl+p"),
		down:     bind("", "", "down", "j", "ctrl+n"),
		left:     bind("←→", "scroll", "left", "h", "ctrl+b"),
		right:    bind("", "", "right", "l", "ctrl+f"),
		pageUp:   bind("PgUp/PgDn", "page", "pgup", "ctrl+u"),
		pageDown: bind("", "", "pgdown", "ctrl+d"),
		home:     bind("", "", "home", "0", "ctrl+a"),
		end:      bind("", "", "end", "$", "ctrl+e"),
		clear:    bind("Del", "deselect", "delete", "esc"),
	}
}

// shown are the bindings that the last line of a frame names.
func (k keyMap) shown() []key.Binding {
	return []key.Binding{k.quit, k.up, k.left, k.pageUp, k.clear}
}
