package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageSuffix is what follows the command's name in its usage line.
func usageSuffix(cmd *cobra.Command) string {
	_, suffix, _ := strings.Cut(cmd.Use, " ")
	if suffix != "" {
		return suffix
	}
	switch {
	case cmd.RunE == nil:
		return "<command>"
	case cmd.HasSubCommands():
		return "[ options | <command> ]"
	}
	return "[ options ]"
}

// printUsage writes the usage text of a command: what it does, how to call
// it, its options, and for a command set what it holds.
func printUsage(w io.Writer, breadcrumb string, cmd *cobra.Command) {
	var b strings.Builder
	if cmd.Short != "" {
		fmt.Fprintf(&b, "%s: %s\n", breadcrumb, cmd.Short)
	}
	fmt.Fprintf(&b, "usage: %s %s\n\n", breadcrumb, usageSuffix(cmd))
	if cmd.RunE != nil {
		b.WriteString(optionLines(cmd) + "\n")
	}
	if cmd.HasSubCommands() {
		listing(&b, breadcrumb, cmd)
	}
	_, _ = io.WriteString(w, b.String())
}

// optionLines renders one indented line for each option.
func optionLines(cmd *cobra.Command) string {
	width := 0
	var names, texts []string
	for _, f := range options(cmd) {
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		} else {
			name = "    " + name
		}
		arg, text := pflag.UnquoteUsage(f)
		if f.NoOptDefVal == "" && arg != "" {
			name += " <" + arg + ">"
		}
		width = max(width, len(name))
		names, texts = append(names, name), append(texts, text)
	}
	var b strings.Builder
	for i := range names {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, names[i], texts[i])
	}
	return b.String()
}

// options are the options that help shows, those of every command last.
func options(cmd *cobra.Command) []*pflag.Flag {
	var own, common []*pflag.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		switch {
		case f.Hidden:
		case isCommon(f.Name):
			common = append(common, f)
		default:
			own = append(own, f)
		}
	})
	return append(own, common...)
}

// printListing writes the commands that a command set holds.
func printListing(w io.Writer, breadcrumb string, cmd *cobra.Command) {
	var b strings.Builder
	listing(&b, breadcrumb, cmd)
	_, _ = io.WriteString(w, b.String())
}

func listing(b *strings.Builder, breadcrumb string, cmd *cobra.Command) {
	b.WriteString("Available commands:\n")
	commandLines(b, breadcrumb, cmd)
}

func commandLines(b *strings.Builder, breadcrumb string, cmd *cobra.Command) {
	width := 0
	for _, c := range visible(cmd) {
		width = max(width, len(c.Name()))
	}
	fmt.Fprintf(b, "  %s\n", breadcrumb)
	for _, c := range visible(cmd) {
		mark := " "
		if c.HasSubCommands() {
			mark = "+"
		}
		fmt.Fprintf(b, "  %s %-*s  %s\n", mark, width, c.Name(), c.Short)
	}
	b.WriteByte('\n')
}

// commandTree renders the listing of a command set and of all those below it.
func commandTree(b *strings.Builder, breadcrumb string, cmd *cobra.Command) {
	commandLines(b, breadcrumb, cmd)
	for _, c := range visible(cmd) {
		if c.HasSubCommands() {
			commandTree(b, breadcrumb+" "+c.Name(), c)
		}
	}
}

// visible are the commands of a set that help shows, in the order of the
// manual rather than of the alphabet.
func visible(cmd *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b *cobra.Command) int {
		return cmp.Compare(a.Annotations[position], b.Annotations[position])
	})
	return out
}
