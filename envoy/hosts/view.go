package hosts

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/envoy"
)

// text is a value of the configuration. It can be printed in one way only: in
// double quotes and in ASCII. Go's escapes are YAML's as well (YAML 1.2 §5.7).
type text string

func (t text) String() string { return strconv.QuoteToASCII(string(t)) }

// view is what the templates see: texts, numbers and choices.
type view struct {
	Namespace, Gateway text
	Self               service // sallyport's own
	Port, HubPort      uint16

	Duplex, Authz bool // the filter, when it is not ext_proc with BUFFERED

	// The Gateway API's hosts: how a Backend is referred to, and who refers to Services beside the routes.
	BackendGroup text
	BackendPort  bool
	Referrers    []referrer
	// ReadsMetadata: the values of headers may name dynamic metadata.
	ReadsMetadata bool
	HostFilters   bool // the host takes Host from HostHeader, and so with its port

	RouteHeader   text
	Hub           text
	Metadata      text // the namespace of what verdicts say
	Decided       text
	Private       []text // headers that no client may send
	PrivatePrefix text
	NotOnward     []text // headers that no upstream gets
	Withheld      []text // response headers of upstreams that no agent gets
	MaxBytes      uint32
	Timeout, Idle duration

	Paths []text
	Apps  []app

	Patches patches // for istio
}

// Weighty are the withheld headers that fit in one Gateway API filter, which
// holds 16 (HTTPHeaderFilter.remove).
func (v view) Weighty() []text { return v.Withheld[:16] }

// Lesser are the others.
func (v view) Lesser() []text { return v.Withheld[16:] }

// DecidedCEL is true of what a final verdict has marked.
func (v view) DecidedCEL() text {
	return "'" + v.Decided + "' in metadata.filter_metadata['" + v.Metadata + "']"
}

// Origin is the page in a browser that may read an answer, as Envoy knows it; empty where no page asked.
func (v view) Origin() text {
	return "%DYNAMIC_METADATA(" + v.Metadata + ":" + envoy.OriginKey + ")%"
}

// HostHeader names a header that a route sets and the host makes Host of.
func (v view) HostHeader() text { return v.PrivatePrefix + "host" }

// Refusal is what an agent gets in place of an answer that must not reach it.
func (v view) Refusal() text {
	return `{"jsonrpc":"2.0","id":%DYNAMIC_METADATA(` + v.Metadata + `:` + envoy.IDKey + `)%,"error":{"code":-32603,"message":"the upstream server gave no usable answer"}}`
}

// OtherTypes matches content types that are no answer to a message, as far as one expression without negation can.
func (view) OtherTypes() text {
	return `(?i)\s*((text/([^e]|e[^v])|image/|audio/|video/|font/|multipart/).*|application/([^j]|j[^s]|js[^o]|jso[^n]|json[^ ;]).*)`
}

// Example is a host name to be changed.
func (v view) Example() text { return v.Gateway + ".example.com" }

// referrer is a kind of object.
type referrer struct{ Group, Kind text }

// service is a Kubernetes Service.
type service struct {
	Name, Namespace text
	Foreign         bool // not in the namespace of the routes
}

// FQDN is its name in DNS.
func (s service) FQDN() text { return s.Name + "." + s.Namespace + ".svc.cluster.local" }

// app is one route to one upstream.
type app struct {
	Object    text // a name for its Kubernetes objects
	Route     text // value of the route header
	Service   service
	External  bool // no Service: Host and Port are all there is
	TLS       bool
	Trust     text // ConfigMap or Secret with the authorities that it is checked against; "" for the system's
	Host      text // of the URL, without port
	IP        bool // Host is an address
	Port      uint16
	Authority text
	Path      text
	Rewrites  []text // the agents' paths that are not its own
}

// Destination is the upstream's name in a mesh.
func (a app) Destination() text {
	switch {
	case !a.External:
		return a.Service.FQDN()
	case a.IP:
		return a.Object + ".internal"
	}
	return a.Host
}

// duration is written as the Gateway API has it (GEP-2257).
type duration time.Duration

func (d duration) String() string {
	s := time.Duration(d).Round(time.Millisecond)
	if s%time.Second == 0 {
		return text(strconv.FormatInt(int64(s/time.Second), 10) + "s").String()
	}
	return text(strconv.FormatInt(s.Milliseconds(), 10) + "ms").String()
}

var (
	label     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	unlabelly = regexp.MustCompile(`[^a-z0-9]+`)
)

func isLabel(s string) bool { return label.MatchString(s) }

func viewOf(c Config, h host) (view, error) {
	g := c.Gateway
	name, namespace, qualified := strings.Cut(c.Service, ".")
	if !qualified {
		namespace = c.Namespace
	}
	v := view{
		Namespace: text(c.Namespace), Gateway: text(c.Name),
		Self: service{Name: text(name), Namespace: text(namespace), Foreign: namespace != c.Namespace},
		Port: portOf(g.ServiceSocket), HubPort: portOf(g.HubSocket),
		Duplex: g.Filter == envoy.FilterExtProcDuplex, Authz: g.Filter == envoy.FilterExtAuthz,
		BackendGroup: h.backends, BackendPort: h.backendPort, Referrers: h.referrers, HostFilters: h.hostFilters, ReadsMetadata: h.readsMetadata,
		RouteHeader: envoy.RouteHeader, Hub: envoy.HubRoute, Metadata: envoy.MetadataNamespace, Decided: envoy.DecidedKey,
		Private:       texts([]string{envoy.RouteHeader, envoy.SourceHeader, envoy.TicketHeader, envoy.SessionHeader}),
		PrivatePrefix: envoy.InternalPrefix,
		NotOnward:     texts([]string{envoy.RouteHeader, envoy.SourceHeader, envoy.TicketHeader, envoy.SessionHeader}),
		Withheld:      texts(envoy.WithheldHeaders()),
		MaxBytes:      g.MaxRequestBytes, Timeout: duration(g.MessageTimeout), Idle: duration(cmp.Or(g.StreamIdle, 15*time.Minute)),
		Paths: texts(g.Paths),
	}
	if v.Authz {
		v.Metadata = envoy.AuthzNamespace
	}
	names := map[string]bool{"sallyport-hub": true, "sallyport-none": true}
	for _, a := range g.Apps {
		if a.EndpointEvents {
			continue // only the hub goes there, by itself
		}
		seen, err := appOf(a, c, names)
		if err != nil {
			return view{}, err
		}
		v.Apps = append(v.Apps, seen)
	}
	return v, nil
}

func appOf(a envoy.App, c Config, names map[string]bool) (app, error) {
	u, err := url.Parse(a.URL)
	if err != nil {
		return app{}, fmt.Errorf("app %q: the URL cannot be parsed", a.Name)
	}
	out := app{Object: text(objectName(a.Name, names)), Route: text(envoy.AppRoute(a.Name)), TLS: u.Scheme == "https",
		Host: text(u.Hostname()), Port: portOf(u.Host), Authority: text(u.Host), Path: text(cmp.Or(u.EscapedPath(), "/"))}
	if out.Port == 0 {
		out.Port = 80
		if out.TLS {
			out.Port = 443
		}
	}
	_, err = netip.ParseAddr(u.Hostname())
	out.IP = err == nil
	if a.TLS != nil && a.TLS.CAFile != "" {
		out.Trust = out.Object + "-ca"
	}
	for _, p := range c.Gateway.Paths {
		if text(p) != out.Path {
			out.Rewrites = append(out.Rewrites, text(p))
		}
	}
	name, namespace := serviceOf(a.URL)
	out.External = name == ""
	out.Service = service{Name: text(name), Namespace: text(namespace), Foreign: namespace != c.Namespace}
	return out, nil
}

// serviceOf returns the Kubernetes Service that a URL names (name.namespace.svc, or that and cluster.local), or nothing.
func serviceOf(raw string) (name, namespace string) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", ""
	}
	host, _ := strings.CutSuffix(u.Hostname(), ".cluster.local")
	parts := strings.Split(host, ".")
	if len(parts) != 3 || parts[2] != "svc" || !isLabel(parts[0]) || !isLabel(parts[1]) {
		return "", ""
	}
	return parts[0], parts[1]
}

// objectName makes a Kubernetes name of an app's, which may hold capitals, dots and underscores.
func objectName(name string, taken map[string]bool) string {
	base := strings.Trim(unlabelly.ReplaceAllString(strings.ToLower(name), "-"), "-")
	base = "sallyport-" + cmp.Or(strings.TrimRight(base[:min(len(base), 40)], "-"), "app")
	out := base
	for n := 2; taken[out]; n++ {
		out = base + "-" + strconv.Itoa(n)
	}
	taken[out] = true
	return out
}

func portOf(hostport string) uint16 {
	_, port, err := net.SplitHostPort(hostport)
	n, _ := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// Foreign are the namespaces, other than the routes', of the Services that the
// routes lead to, with those Services. Each has to allow that (ReferenceGrant).
func (v view) Foreign() []grant {
	var grants []grant
	add := func(s service) {
		at := slices.IndexFunc(grants, func(g grant) bool { return g.Namespace == s.Namespace })
		if at < 0 {
			at, grants = len(grants), append(grants, grant{Namespace: s.Namespace})
		}
		if !slices.Contains(grants[at].Services, s.Name) {
			grants[at].Services = append(grants[at].Services, s.Name)
		}
	}
	if v.Self.Foreign {
		add(v.Self)
	}
	for _, a := range v.Apps {
		if !a.External && a.Service.Foreign {
			add(a.Service)
		}
	}
	return grants
}

type grant struct {
	Namespace text
	Services  []text
}

func texts(in []string) []text {
	out := make([]text, len(in))
	for i, s := range in {
		out[i] = text(s)
	}
	return out
}
