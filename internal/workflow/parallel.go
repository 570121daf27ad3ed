package workflow

import (
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Parallelize lets consecutive steps of a file run at the same time where they
// cannot meet: they run on different nodes, none of them is about a node on which
// another one runs, and none reads what another one sets. What is about an
// unknown node stands alone, and so does what jumps or is jumped to.
func Parallelize(steps []Step, cfg *Config) []Step {
	p := &parallelizer{cfg: cfg, providers: map[string]string{}}
	steps = slices.Clone(steps)
	var group []int
	var reach []footing
	number := 0
	end := func() {
		if len(group) > 1 {
			number++
			for _, i := range group {
				steps[i].Parallel = number
			}
		}
		group, reach = nil, nil
	}
	for i, s := range steps {
		f := p.footing(s, steps)
		if slices.ContainsFunc(reach, f.meets) {
			end()
		}
		group, reach = append(group, i), append(reach, f)
	}
	end()
	return steps
}

// footing is what a step stands on.
type footing struct {
	node   string   // on which it runs
	others []string // that it is about as well
	alone  bool
}

func (f footing) meets(g footing) bool {
	return f.alone || g.alone || f.node == g.node || slices.Contains(f.others, g.node) || slices.Contains(g.others, f.node)
}

type parallelizer struct {
	cfg *Config
	// providers are the nodes to which subscriptions of this file lead, by
	// subscriber and name.
	providers map[string]string
}

func (p *parallelizer) isNode(name string) bool { _, ok := p.cfg.Node(name); return ok }

func (p *parallelizer) footing(s Step, all []Step) footing {
	jumps := s.OnSuccess != nil || s.OnFailure != nil || s.Name != "" && slices.ContainsFunc(all, func(x Step) bool {
		return x.OnSuccess != nil && x.OnSuccess.Goto == s.Name || x.OnFailure != nil && x.OnFailure.Goto == s.Name
	})
	f := footing{node: s.Node, alone: jumps || s.Type == TypeShell}
	for _, r := range s.Reads(p.isNode) {
		if r.Node != s.Node {
			f.others = append(f.others, r.Node)
		}
	}
	if s.Type == TypeSQL {
		f.others = append(f.others, p.named(s.SQL, s.Node)...)
		return f
	}
	if s.Command == nil {
		return f
	}
	var provider string
	subscription := s.Node + "." + s.Object()
	switch s.Command.Name {
	case CreateSubscription:
		provider = p.at(s.Options["provider_dsn"])
		p.providers[subscription] = provider
	case DropSubscription, EnableSubscription, DisableSubscription:
		provider = p.providers[subscription]
	default:
		return f
	}
	f.others, f.alone = append(f.others, provider), f.alone || provider == ""
	return f
}

// named are the other nodes whose names stand in a text as words.
func (p *parallelizer) named(text, self string) []string {
	var found []string
	for _, n := range p.cfg.Nodes {
		if n.Name != self && containsWord(text, n.Name) {
			found = append(found, n.Name)
		}
	}
	return found
}

func containsWord(text, name string) bool {
	for i := 0; i+len(name) <= len(text); i++ {
		if text[i:i+len(name)] != name {
			continue
		}
		before, after := i == 0 || !isWordRune(rune(text[i-1])), i+len(name) == len(text) || !isWordRune(rune(text[i+len(name)]))
		if before && after {
			return true
		}
	}
	return false
}

// at is the one node of the configuration that a connection string leads to,
// empty when nobody can tell.
func (p *parallelizer) at(dsn string) string {
	info, err := pg.ParseConnInfo(dsn)
	if err != nil {
		return ""
	}
	found := ""
	for _, n := range p.cfg.Nodes {
		if n.ConnInfo.Get("host") != info.Get("host") || n.ConnInfo.Get("port") != info.Get("port") {
			continue
		}
		if found != "" {
			return ""
		}
		found = n.Name
	}
	return found
}
