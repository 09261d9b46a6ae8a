// Package doctor reads what a running Envoy says of its own configuration (the admin interface's
// /config_dump?include_eds) and names each difference that would let a message past the service, would lead a credential
// astray, or would break calls. It judges any Envoy: one that sallyport has rendered, one that somebody wrote, the proxy of
// a mesh.
//
// A rule is a function of a part of the configuration; rules are listed where that part is visited (manager.go, judge.go,
// route.go, cluster.go, server.go). What it cannot read is named, and never taken for good.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity says what a finding means.
type Severity string

// The severities, worst first.
const (
	// Critical: a message can pass unjudged, or a credential gets where it must not.
	Critical Severity = "critical"
	// Warning: a guard is missing that another one still covers, or calls will fail.
	Warning Severity = "warning"
	// Info is what could not be examined. It is no fault.
	Info Severity = "info"
)

var rank = map[Severity]int{Critical: 0, Warning: 1, Info: 2}

// Finding is one difference.
type Finding struct {
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"` // stable name of the rule
	Where    string   `json:"where"`
	What     string   `json:"what"`
	Cure     string   `json:"cure"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s  %s: %s; %s", f.Severity, f.Where, f.What, f.Cure)
}

// Options are what the dump does not say.
type Options struct {
	// Service is the name of the cluster (or the gRPC target) of the sallyport service. Empty: the filter is ours that
	// writes our metadata, else the only one that asks a service at all.
	Service string
	// MaxRequestBytes is http.maxRequestBytes of the service. 0: unknown, and limits are not compared with it.
	MaxRequestBytes uint32
}

// Examine returns the findings of a dump, worst first, or an error when it is no dump.
func Examine(dump []byte, o Options) ([]Finding, error) {
	c, err := read(dump)
	if err != nil {
		return nil, err
	}
	x := &exam{Options: o, config: c, seen: map[Finding]bool{}}
	x.server()
	x.managers()
	x.examineClusters()
	x.unread()
	slices.SortFunc(x.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.What, b.What))
	})
	return x.findings, nil
}

// Dangerous reports whether any finding is worse than Info.
func Dangerous(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity != Info })
}

// exam is one examination.
type exam struct {
	Options
	*config
	upstreams map[string]bool // clusters of MCP servers, and of the hub
	service   string          // the cluster that our filter asks
	findings  []Finding
	seen      map[Finding]bool
}

// add names a difference once: routes often share it.
func (x *exam) add(s Severity, rule, where, what, cure string) {
	f := Finding{s, rule, where, what, cure}
	if !x.seen[f] {
		x.seen[f] = true
		x.findings = append(x.findings, f)
	}
}

func (x *exam) unread() {
	for _, kind := range x.unknown {
		x.add(Info, "unknown-type", "dump", "type "+kind+" is not known here", "look at it yourself")
	}
}
