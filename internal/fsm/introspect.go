package fsm

// RuleDoc is a rule of the monitor's table with the sentence that explains it.
type RuleDoc struct {
	RuleID
	Text string
}

// RuleDocs lists the rules of the monitor's table in the order of evaluation, for people to read.
func RuleDocs() []RuleDoc {
	table := rules()
	docs := make([]RuleDoc, len(table))
	for i, r := range table {
		docs[i] = RuleDoc{RuleID: r.id, Text: r.doc}
	}
	return docs
}

// Orders lists what the monitor may ask of a keeper: from a reported state to
// a goal, without the steps, which are the keeper's business.
func Orders() []Edge {
	var edges []Edge
	for _, o := range orders() {
		for _, from := range o.from {
			if from != o.goal {
				edges = append(edges, Edge{From: from, To: o.goal})
			}
		}
	}
	return edges
}
