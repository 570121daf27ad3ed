package cli

import (
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

// sslChoice is what an operator chose of SSL.
type sslChoice struct {
	active, selfSigned      bool
	mode                    string
	caFile, crlFile         string
	certFile, keyFile       string
	made                    bool // a choice was made at all
	noSSL, files, modeGiven bool
}

func sslFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolP("ssl-self-signed", "s", false, "setup network encryption using self signed certificates (does NOT protect against MITM)")
	f.String("ssl-mode", "", "use that sslmode in connection strings: disable, allow, prefer, require, verify-ca or verify-full; the `mode`")
	f.String("ssl-ca-file", "", "set the Postgres ssl_ca_file to that `file`")
	f.String("ssl-crl-file", "", "set the Postgres ssl_crl_file to that `file`")
	f.BoolP("no-ssl", "N", false, "don't enable network encryption (NOT recommended, prefer --ssl-self-signed)")
	f.String("server-key", "", "set the Postgres ssl_key_file to that `file`")
	f.String("server-cert", "", "set the Postgres ssl_cert_file to that `file`")
}

// sslModes are libpq's, weakest first.
func sslModes() []string {
	return []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
}

// readSSL reads the SSL options. Without a choice it answers one that is not
// made, which only an existing configuration can stand in for.
func readSSL(env *Env, cmd *cobra.Command) (sslChoice, error) {
	c := sslChoice{
		noSSL: on(cmd, "no-ssl"), selfSigned: on(cmd, "ssl-self-signed"), mode: text(cmd, "ssl-mode"),
		caFile: text(cmd, "ssl-ca-file"), crlFile: text(cmd, "ssl-crl-file"),
		certFile: text(cmd, "server-cert"), keyFile: text(cmd, "server-key"),
	}
	c.files = c.caFile != "" || c.crlFile != "" || c.certFile != "" || c.keyFile != ""
	c.modeGiven = c.mode != ""
	if !c.noSSL && !c.selfSigned && !c.files {
		if value, ok := env.lookupenv("PG_AUTOCTL_SSL_SELF_SIGNED"); ok && value != "" {
			on, err := parseBool(value)
			if err != nil {
				return c, fatal(exitBadArgs, "environment variable PG_AUTOCTL_SSL_SELF_SIGNED: %w", err)
			}
			c.selfSigned = on
		}
	}
	return c, c.check()
}

// check refuses contradictions and completes the choice.
func (c *sslChoice) check() error {
	if c.modeGiven && !slices.Contains(sslModes(), c.mode) {
		return fatal(exitBadArgs, "--ssl-mode %q is not a mode of libpq", c.mode).
			withHint("the modes are disable, allow, prefer, require, verify-ca and verify-full")
	}
	switch {
	case c.noSSL && (c.selfSigned || c.files), c.selfSigned && c.files:
		return fail(exitBadArgs, "Options --no-ssl, --ssl-self-signed and those that name certificate files exclude each other")
	case c.noSSL:
		c.made = true
		c.mode = orDefault(c.mode, "prefer")
	case c.selfSigned:
		c.made, c.active = true, true
		c.mode = orDefault(c.mode, "require")
		if c.strict() {
			return fail(exitBadArgs, "--ssl-mode %q needs a certificate authority, which --ssl-self-signed does not have", c.mode).
				withHint("use --ssl-ca-file, --server-cert and --server-key")
		}
	case c.files:
		c.made, c.active = true, true
		c.mode = orDefault(c.mode, "verify-full")
		return c.checkFiles()
	}
	return nil
}

func (c *sslChoice) strict() bool { return c.mode == "verify-ca" || c.mode == "verify-full" }

// checkFiles has every certificate file exist, and know it by its real path.
func (c *sslChoice) checkFiles() error {
	if c.certFile == "" || c.keyFile == "" {
		return fail(exitBadArgs, "Options --server-cert and --server-key are both needed to use your own certificates")
	}
	if c.caFile == "" && c.strict() {
		return fail(exitBadArgs, "--ssl-mode %q needs --ssl-ca-file", c.mode)
	}
	for _, file := range []struct {
		option string
		path   *string
	}{
		{"--ssl-ca-file", &c.caFile},
		{"--ssl-crl-file", &c.crlFile},
		{"--server-cert", &c.certFile},
		{"--server-key", &c.keyFile},
	} {
		if *file.path == "" {
			continue
		}
		if !isFile(*file.path) {
			return fail(exitBadArgs, "%s file %q does not exist", file.option, *file.path)
		}
		target, err := filepath.EvalSymlinks(*file.path)
		if err != nil {
			return withCode(exitBadArgs, err)
		}
		if *file.path, err = absolute(target); err != nil {
			return err
		}
	}
	return nil
}

// required refuses a creation that chose nothing.
func (c sslChoice) required() error {
	if c.made {
		return nil
	}
	return fatal(exitBadArgs, "Explicit SSL choice is required: please use either --ssl-self-signed or provide your certificates using --ssl-ca-file, --ssl-crl-file, --server-key, and --server-cert (or use --no-ssl if you are very sure that you do not want encryption)")
}
