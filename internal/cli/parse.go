package cli

import (
	"fmt"
	"strconv"
	"strings"
)

// parseBool reads a boolean as PostgreSQL spells it: unique prefixes of true,
// false, yes and no, then on, off, 1 and 0, in any case.
func parseBool(text string) (bool, error) {
	s := strings.ToLower(strings.TrimSpace(text))
	if s != "" {
		for _, word := range []struct {
			name  string
			value bool
			least int
		}{{"true", true, 1}, {"false", false, 1}, {"yes", true, 1}, {"no", false, 1}, {"on", true, 2}, {"off", false, 2}, {"1", true, 1}, {"0", false, 1}} {
			if len(s) >= word.least && strings.HasPrefix(word.name, s) {
				return word.value, nil
			}
		}
	}
	return false, fmt.Errorf("parse boolean %q: expected true or false", text)
}

// parseInt reads a whole decimal number from 0 to high.
func parseInt(text string, high int) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("parse number %q: expected an integer", text)
	}
	if n < 0 || n > high {
		return 0, fmt.Errorf("parse number %q: expected an integer from 0 to %d", text, high)
	}
	return n, nil
}
