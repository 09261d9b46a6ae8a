// Package envoyhttp reads and writes HTTP as Envoy's gRPC filters put it, which ext_proc and ext_authz have in common.
package envoyhttp

import (
	"errors"
	"net"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/authz"
)

// Where Envoy keeps what it is told of a message as dynamic metadata.
const (
	ProcNamespace  = "sallyport" // by ext_proc: the filter's configuration lets the service write here
	AuthzNamespace = "envoy.filters.http.ext_authz"
)

// The facts that Envoy is told of a message as dynamic metadata; RBAC, access log and local replies read them.
const (
	FactID      = "id"      // call id: joins the audit's decision and completion
	FactDecided = "decided" // present only when the verdict forwards: what RBAC demands
	FactRPCID   = "rpc_id"  // the message's JSON-RPC id as written
	FactHub     = "hub"     // it goes on to our own hub, whatever the host calls that
	FactReply   = "imm"     // the reply is ours, not Envoy's
	FactOrigin  = "origin"  // of the page that may read the answer
	FactMetered = "metered" // the app whose calls are counted
	FactMeter   = "meter"   // … and whose call of what it is
	FactNonce   = "nonce"   // DPoP-Nonce of the answer
	FactExpose  = "expose"  // what the page may read of an upstream's answer besides
	FactAgain   = "again"   // … and holds what the upstream answered when it was asked again
)

// ErrPseudo means that a request's pseudo-headers are not one of each kind.
var ErrPseudo = errors.New("request has a repeated or missing pseudo-header")

// Headers splits fields from pseudo-headers. Names are in lower case, as Envoy sends them; who else asks may not hide a
// second field behind another case.
func Headers(m *corev3.HeaderMap) (authz.Header, map[string]string, error) {
	header := make(authz.Header, len(m.GetHeaders()))
	pseudo := make(map[string]string, 4)
	for _, h := range m.GetHeaders() {
		name, value := strings.ToLower(h.GetKey()), string(h.GetRawValue())
		if value == "" {
			value = h.GetValue()
		}
		if !strings.HasPrefix(name, ":") {
			header[name] = append(header[name], value)
			continue
		}
		if _, twice := pseudo[name]; twice {
			return nil, nil, ErrPseudo
		}
		pseudo[name] = value
	}
	return header, pseudo, nil
}

// Request is what Envoy says of a request before its body. It is an error when it has no method or path.
func Request(header authz.Header, pseudo map[string]string, source string) (authz.Request, error) {
	path, query, _ := strings.Cut(pseudo[":path"], "?")
	r := authz.Request{
		Method: pseudo[":method"], Path: path, RawQuery: query, Scheme: pseudo[":scheme"], Host: pseudo[":authority"],
		Header: header, SourceIP: sourceIP(header, source),
	}
	r.ID, _ = header.Get("x-request-id")
	if proto, ok := header.Get("x-forwarded-proto"); ok && (proto == "http" || proto == "https") {
		r.Scheme = proto
	}
	if r.Method == "" || r.Path == "" {
		return authz.Request{}, ErrPseudo
	}
	return r, nil
}

// sourceIP is the peer as Envoy established it, by its address, with or without a port; else the last hop that Envoy
// appended itself.
func sourceIP(h authz.Header, address string) string {
	if address != "" {
		if host, _, err := net.SplitHostPort(address); err == nil {
			return host
		}
		return address
	}
	forwarded, _ := h.Get("x-forwarded-for")
	return strings.TrimSpace(forwarded[strings.LastIndexByte(forwarded, ',')+1:])
}

// Facts are flat: strings and booleans.
type Facts map[string]any

// Of are the facts of a verdict.
func Of(v *authz.Verdict) Facts {
	facts := Facts{FactID: v.ID, FactRPCID: "null"}
	if len(v.RPCID) > 0 {
		facts[FactRPCID] = string(v.RPCID)
	}
	if v.Reply != nil {
		facts[FactReply] = true
		return facts
	}
	facts[FactDecided] = true
	if v.Route == authz.HubRoute {
		facts[FactHub] = true
	}
	if v.Origin != "" {
		facts[FactOrigin] = v.Origin
	}
	if v.Meter != "" {
		facts[FactMetered], facts[FactMeter] = v.Metered, v.Meter
	}
	if v.Nonce != "" {
		facts[FactNonce] = v.Nonce
		if v.Origin != "" {
			facts[FactExpose] = "DPoP-Nonce"
		}
	}
	return facts
}

// Proto returns f as dynamic metadata.
func (f Facts) Proto() *structpb.Struct {
	fields := make(map[string]*structpb.Value, len(f))
	for k, v := range f {
		switch v := v.(type) {
		case string:
			fields[k] = structpb.NewStringValue(v)
		case bool:
			fields[k] = structpb.NewBoolValue(v)
		}
	}
	return &structpb.Struct{Fields: fields}
}
