package workflow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

type kind int

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindText
	kindArray
	kindObject
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a text", "an array", "an object"}[k]
}

// value is a JSON value and where it stands.
type value struct {
	kind    kind
	at      int
	flag    bool
	text    string // of a text, or the digits of a number
	items   []value
	members []member
}

type member struct {
	key string
	at  int
	value
}

// maxDepth is far beyond what any file of ours nests.
const maxDepth = 64

// parseJSON reads one JSON document.
func parseJSON(src source) (value, error) {
	text := src.text
	if len(bytes.TrimSpace(text)) == 0 {
		return value{}, Errors{{At: src.at(0), Message: "the file is empty"}}
	}
	var all json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		offset := 0
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			// It counts the bytes that were read, the offending one included.
			offset = int(syntax.Offset) - 1
			if strings.HasPrefix(syntax.Error(), "unexpected end") {
				offset++
			}
		}
		return value{}, Errors{{At: src.at(offset), Message: "invalid JSON: " + err.Error()}}
	}
	p := &jsonReader{text: text, decoder: json.NewDecoder(bytes.NewReader(text)), src: src}
	p.decoder.UseNumber()
	return p.value(0)
}

type jsonReader struct {
	text    []byte
	decoder *json.Decoder
	src     source
}

// next is where the next token begins.
func (p *jsonReader) next() int {
	at := int(p.decoder.InputOffset())
	for at < len(p.text) && strings.IndexByte(" \t\r\n,:", p.text[at]) >= 0 {
		at++
	}
	return at
}

func (p *jsonReader) value(depth int) (value, error) {
	v := value{at: p.next()}
	if depth > maxDepth {
		return v, Errors{{At: p.src.at(v.at), Message: fmt.Sprintf("values are nested more than %d deep", maxDepth)}}
	}
	token, err := p.decoder.Token()
	if err != nil {
		return v, Errors{{At: p.src.at(v.at), Message: "invalid JSON: " + err.Error()}}
	}
	switch token := token.(type) {
	case bool:
		v.kind, v.flag = kindBool, token
	case json.Number:
		v.kind, v.text = kindNumber, token.String()
	case string:
		v.kind, v.text = kindText, token
	case json.Delim:
		if token == '[' {
			v.kind = kindArray
			return v, p.array(&v, depth)
		}
		v.kind = kindObject
		return v, p.object(&v, depth)
	}
	return v, nil
}

func (p *jsonReader) array(v *value, depth int) error {
	for p.decoder.More() {
		item, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		v.items = append(v.items, item)
	}
	_, err := p.decoder.Token()
	return err
}

func (p *jsonReader) object(v *value, depth int) error {
	for p.decoder.More() {
		m := member{at: p.next()}
		token, err := p.decoder.Token()
		if err != nil {
			return err
		}
		m.key, _ = token.(string)
		if m.value, err = p.value(depth + 1); err != nil {
			return err
		}
		if _, twice := v.member(m.key); twice {
			return Errors{{At: p.src.at(m.at), Message: fmt.Sprintf("key %q is given twice", m.key)}}
		}
		v.members = append(v.members, m)
	}
	_, err := p.decoder.Token()
	return err
}

// member finds a member of an object; null counts as absent.
func (v value) member(key string) (value, bool) {
	for _, m := range v.members {
		if m.key == key && m.kind != kindNull {
			return m.value, true
		}
	}
	return value{at: v.at}, false
}

// empty reports whether an object says nothing.
func (v value) empty() bool { return len(v.members) == 0 }

// textMember returns a member that has to be a text, "" when it is absent.
func (c *complaints) textMember(v value, key string) (string, value) {
	m, ok := v.member(key)
	if !ok {
		return "", m
	}
	if m.kind != kindText {
		c.errorf(m, "%q must be a text, not %s", key, m.kind)
		return "", m
	}
	return m.text, m
}

// boolMember returns a member that has to be a boolean, false when it is absent.
func (c *complaints) boolMember(v value, key string) bool {
	m, ok := v.member(key)
	if ok && m.kind != kindBool {
		c.errorf(m, "%q must be true or false, not %s", key, m.kind)
	}
	return m.flag
}

// known warns of members that nobody reads.
func (c *complaints) known(v value, keys ...string) {
	for _, m := range v.members {
		found := false
		for _, k := range keys {
			found = found || m.key == k
		}
		if !found {
			c.warnf(value{at: m.at}, "unknown key %q is ignored", m.key)
		}
	}
}
