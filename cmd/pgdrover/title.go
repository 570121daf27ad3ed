package main

import (
	"os"
	"regexp"
	"strings"
	"unsafe"
)

// arguments are copies of the command line, so that hide can take words out of
// the original, which every user of this host can read.
func arguments() []string {
	args := make([]string, len(os.Args))
	for i, arg := range os.Args {
		args[i] = strings.Clone(arg)
	}
	return args
}

// inConnInfo finds the passwords in connection strings.
func inConnInfo() *regexp.Regexp {
	return regexp.MustCompile(`://[^/@:?]*:([^@/?]+)@|password=('(?:[^'\\]|\\.)*'|[^\s&']+)`)
}

// hideConnInfo takes the passwords of connection strings out of the process's title.
func hideConnInfo(args []string) {
	pattern := inConnInfo()
	for _, arg := range args {
		for _, match := range pattern.FindAllStringSubmatch(arg, -1) {
			hide(match[1] + match[2])
		}
	}
}

// hide takes a secret out of the process's title. The strings of os.Args are the
// kernel's copy of the command line; nothing of ours uses them any more.
func hide(secret string) {
	if secret == "" {
		return
	}
	for _, arg := range os.Args[1:] {
		if at := strings.Index(arg, secret); at >= 0 {
			text := unsafe.Slice(unsafe.StringData(arg), len(arg)) //nolint:gosec // see above
			for i := at; i < at+len(secret); i++ {
				text[i] = '*'
			}
		}
	}
}
