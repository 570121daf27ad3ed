// Package pgoutput decodes what PostgreSQL's output plugin of that name sends:
// the logical replication protocol in its versions 1 to 4, with values in text
// or binary form, logical messages, streamed (large, still open) transactions
// and two-phase commit.
//
// The package copies no value. Tuples and the contents of logical messages are
// slices of the input, in the form in which they came, and all messages but
// [Relation] and [Type] belong to the [Decoder] that returned them: they are
// good until its next call, or until the caller overwrites the input. Whoever
// wants to keep a change keeps its bytes and decodes them again, with
// [Decoder.DecodeOne]. That makes the path of rows free of allocations.
//
// No input makes it panic, read past its end or allocate more than a small
// multiple of the input's length. Input that it does not understand to the last
// byte is an error, an unknown message type above all: a receiver that skips
// what it does not know loses data.
//
// It never does I/O, never looks into values, and remembers no relations.
package pgoutput
