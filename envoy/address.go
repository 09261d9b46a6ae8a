package envoy

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// splitAddress takes host:port apart. A path is none.
func splitAddress(s string) (host string, port uint32, ok bool) {
	host, text, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil || n == 0 || host == "" || strings.ContainsRune(s, '/') || !utf8.ValidString(s) {
		return "", 0, false
	}
	return host, uint32(n), true
}

// parseListen resolves the host:port of a listener to an address that Envoy can bind.
func parseListen(hostport string) (netip.AddrPort, error) {
	host, port, found := strings.Cut(hostport, "]:")
	if found {
		host = strings.TrimPrefix(host, "[")
	} else if host, port, found = strings.Cut(hostport, ":"); !found || strings.Contains(port, ":") {
		return netip.AddrPort{}, errors.New("want host:port")
	}
	switch host {
	case "":
		host = "0.0.0.0"
	case "localhost":
		host = "127.0.0.1"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, errors.New("want a port between 0 and 65535")
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return netip.AddrPort{}, errors.New("want an IP address (Envoy resolves no names to listen on)")
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

// upstream is the parsed URL of an app.
type upstream struct {
	host string // without brackets
	ip   bool   // host is an IP address
	port uint32
	tls  bool
	path string // never empty
	// authority is the Host that the upstream gets: the port only where it is
	// not the scheme's own.
	authority string
}

func parseUpstream(raw string) (upstream, error) {
	if !utf8.ValidString(raw) {
		return upstream{}, errors.New("the URL is not UTF-8")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return upstream{}, errors.New("the URL cannot be parsed") // its text may hold a secret
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return upstream{}, errors.New("the URL must be absolute, http or https")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return upstream{}, errors.New("the URL must hold no user, query or fragment")
	}
	up := upstream{host: u.Hostname(), tls: u.Scheme == "https", path: cmp.Or(u.EscapedPath(), "/")}
	own := "80"
	if up.tls {
		own = "443"
	}
	port := cmp.Or(u.Port(), own)
	up.authority = up.host
	if strings.Contains(up.host, ":") {
		up.authority = "[" + up.host + "]"
	}
	if port != own {
		up.authority += ":" + port
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return upstream{}, fmt.Errorf("the URL's port %q is not between 1 and 65535", port)
	}
	up.port = uint32(n)
	addr, err := netip.ParseAddr(up.host)
	up.ip = err == nil
	if up.ip && addr.Zone() != "" {
		return upstream{}, errors.New("the URL's address must have no zone")
	}
	return up, nil
}
