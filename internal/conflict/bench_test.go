package conflict

import "testing"

func BenchmarkResolve(b *testing.B) {
	change := Change{Action: Update, Stamp: Stamp{20, 2}}
	local := Local{Row: rowAt(0, older)}
	rules := Rules{Self: self}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Resolve(change, local, rules); err != nil {
			b.Fatal(err)
		}
	}
}
