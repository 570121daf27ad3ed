package workflow

import "strings"

const hidden = "***"

// Mask hides the passwords of connection strings anywhere in a text. In doubt
// it hides too much.
func Mask(text string) string {
	return maskAddresses(maskPairs(text))
}

// maskPairs hides what follows "password =".
func maskPairs(text string) string {
	var b strings.Builder
	for {
		at := indexFold(text, "password")
		if at < 0 {
			return b.String() + text
		}
		end := at + len("password")
		rest := strings.TrimLeft(strings.TrimPrefix(text[end:], `"`), " ")
		if !strings.HasPrefix(rest, "=") && !strings.HasPrefix(rest, ": ") {
			b.WriteString(text[:end])
			text = text[end:]
			continue
		}
		rest = strings.TrimLeft(rest[1:], " ")
		b.WriteString(text[:len(text)-len(rest)])
		b.WriteString(hidden)
		text = rest[secretLength(rest):]
	}
}

func indexFold(text, word string) int {
	for i := 0; i+len(word) <= len(text); i++ {
		if strings.EqualFold(text[i:i+len(word)], word) {
			return i
		}
	}
	return -1
}

// secretLength is how many bytes of text belong to a password that begins there.
func secretLength(text string) int {
	quote := ""
	for _, q := range []string{"''", "'", `\"`, `"`} {
		if strings.HasPrefix(text, q) {
			quote = q
			break
		}
	}
	for i := len(quote); i < len(text); i++ {
		switch {
		case quote != "" && strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		case text[i] == '\\' && quote != `\"`:
			i++
		case quote == "" && strings.IndexByte(" \t\r\n'\"&,)", text[i]) >= 0:
			return i
		}
	}
	return len(text)
}

// maskAddresses hides the password of postgres://user:password@host.
func maskAddresses(text string) string {
	var b strings.Builder
	for {
		at := strings.Index(text, "://")
		if at < 0 {
			return b.String() + text
		}
		at += len("://")
		b.WriteString(text[:at])
		text = text[at:]
		end := strings.IndexAny(text, "/? \t\r\n'\"")
		if end < 0 {
			end = len(text)
		}
		userinfo := strings.LastIndexByte(text[:end], '@')
		if userinfo < 0 {
			continue
		}
		if user, _, ok := strings.Cut(text[:userinfo], ":"); ok {
			b.WriteString(user + ":" + hidden)
			text = text[userinfo:]
		}
	}
}
