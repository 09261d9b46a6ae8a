package envoy

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	minRequestBytes = 1 << 10
	maxRequestBytes = 64 << 20
	maxSocketPath   = 107 // sun_path holds 108 bytes with its NUL, unix(7)
)

var (
	appName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	// RFC 3986 §3.3 without "%": Envoy refuses escaped slashes and rewrites
	// other escapes, so an escaped path would be matched in another form.
	pathPattern = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()*+,;=:@/-]*$`)
)

// check returns everything that is wrong with g, whose defaults are filled in.
func (g Gateway) check() []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("envoy: "+format, args...)) }

	if _, err := parseListen(g.Listen); err != nil {
		fail("listen %q: %w", g.Listen, err)
	}
	if len(g.Paths) == 0 {
		fail("no MCP path")
	}
	seen := map[string]bool{}
	for _, p := range g.Paths {
		if !pathPattern.MatchString(p) {
			fail("path %q must start with / and hold neither escapes nor a query", p)
		}
		if seen[p] {
			fail("path %q given twice", p)
		}
		seen[p] = true
	}
	errs = append(errs, g.checkSockets()...)
	errs = append(errs, g.checkReplicas()...)
	if g.EgressMode != 0o600 && g.EgressMode != 0o660 {
		fail("egress socket mode %#o: want 0600 or 0660", g.EgressMode)
	}
	if g.MaxRequestBytes < minRequestBytes || g.MaxRequestBytes > maxRequestBytes {
		fail("max request bytes %d: want %d to %d", g.MaxRequestBytes, minRequestBytes, maxRequestBytes)
	}
	if g.MessageTimeout < 0 || g.StreamIdle < 0 {
		fail("message timeout %v and stream idle %v must be positive", g.MessageTimeout, g.StreamIdle)
	}
	if r := g.RequestLimit; !r.none() && !r.good() {
		fail("request limit of %d per %v: want at least one in 1s to 24h", r.Calls, r.Per)
	}
	if !utf8.ValidString(g.NodeID) || !utf8.ValidString(g.CAFile) {
		fail("node id %q or CA file %q is not UTF-8", g.NodeID, g.CAFile)
	}
	if t := g.TLS; t != nil {
		if t.CertFile == "" || t.KeyFile == "" {
			fail("TLS needs a certificate and a key")
		}
		errs = append(errs, checkTLS("listener", t.MinVersion, t.CertFile, t.KeyFile, t.ClientCAFile, t.ClientCAs, t.ClientCRLFile)...)
		errs = append(errs, checkIDs("listener", t.ClientSPIFFEIDs)...)
		if t.ClientCAFile != "" && t.ClientCAs != "" {
			fail("client authorities both as a file and as text")
		}
		if !t.Verifies() && (t.ClientCRLFile != "" || len(t.ClientSPIFFEIDs) > 0) {
			fail("rules for client certificates without authorities to check them against")
		}
	}
	if g.ServiceTLS != nil {
		errs = append(errs, g.ServiceTLS.check("service")...)
	}
	if !utf8.ValidString(g.SecretsDir) {
		fail("secrets directory %q is not UTF-8", g.SecretsDir)
	}
	routes := map[string]bool{}
	for _, a := range g.Apps {
		if routes[a.Route] {
			fail("app %q given twice", a.Name)
		}
		routes[a.Route] = true
		errs = append(errs, a.check()...)
	}
	return errs
}

func (g Gateway) checkSockets() []error {
	var errs []error
	seen := map[string]string{}
	for _, s := range [][2]string{
		{"service", g.ServiceSocket}, {"hub", g.HubSocket}, {"egress", g.EgressSocket}, {"admin", g.AdminSocket},
	} {
		name, path := s[0], s[1]
		_, _, isAddress := splitAddress(path)
		switch {
		case path == "" && name == "egress", isAddress && (name == "service" || name == "hub"):
		case path == "" || len(path) > maxSocketPath || !utf8.ValidString(path) || strings.ContainsRune(path, 0):
			errs = append(errs, fmt.Errorf("envoy: %s socket %q: want a path of 1 to %d bytes", name, path, maxSocketPath))
		case seen[path] != "":
			errs = append(errs, fmt.Errorf("envoy: %s and %s socket are both %q", seen[path], name, path))
		}
		seen[path] = name
	}
	return errs
}

func (a App) check() []error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("envoy: app %q: "+format, append([]any{a.Name}, args...)...))
	}
	if !appName.MatchString(a.Name) {
		fail("the name must be 1 to 64 of A-Z a-z 0-9 . _ -")
	}
	if own := AppRoute(a.Name); a.Route != own && !strings.HasPrefix(a.Route, own+"@") {
		fail("the route %q is not the app's", a.Route)
	}
	if _, err := parseUpstream(a.URL); err != nil {
		fail("%w", err)
	}
	if a.DialTimeout < 0 || a.KeepAlive < time.Second || a.KeepAlive > time.Hour {
		fail("dial timeout %v must be positive, keep-alive %v between 1s and 1h", a.DialTimeout, a.KeepAlive)
	}
	if r := a.CallLimit; !r.none() && !r.good() {
		fail("call limit of %d per %v: want at least one in 1s to 24h", r.Calls, r.Per)
	}
	return append(errs, a.TLS.check(fmt.Sprintf("app %q", a.Name))...)
}
