package doctor

import (
	"net/netip"
	"regexp"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	// What access logs and other settings are made of, so that their text can be read.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/tap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
)

// server examines what belongs to no listener in particular, and what belongs to each.
func (x *exam) server() {
	for _, b := range x.bootstraps {
		x.version(b.GetNode())
		address := b.GetAdmin().GetAddress()
		if host := address.GetSocketAddress().GetAddress(); host != "" && !loopback(host) {
			x.add(Critical, "admin", "admin", "other machines can reach it at "+host+", read headers in flight and stop Envoy", "let it listen on a unix socket or on 127.0.0.1")
		}
		if mode := address.GetPipe().GetMode(); address.GetPipe() != nil && mode&0o007 != 0 {
			x.add(Critical, "admin", "admin", "everybody on this machine can open its socket", "set pipe.mode: 384 (0600)")
		}
		x.logs(b.GetAdmin().GetAccessLog(), "admin")
	}
	for _, l := range x.listeners {
		where := "listener " + l.GetName()
		x.logs(l.GetAccessLog(), where)
		for _, c := range append(l.GetFilterChains(), l.GetDefaultFilterChain()) {
			x.tapped(c.GetTransportSocket(), where)
			if t := as[tlsv3.DownstreamTlsContext](c.GetTransportSocket().GetTypedConfig()); t.GetCommonTlsContext().GetKeyLog() != nil {
				x.add(Critical, "key-log", where, "the keys of its TLS connections are written to a file", "remove key_log")
			}
		}
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// managerLogs examines what a manager writes about requests, and what copies them.
func (x *exam) managerLogs(m *manager) {
	x.logs(m.GetAccessLog(), m.where)
	for _, tag := range m.GetTracing().GetCustomTags() {
		if secretHeader(tag.GetRequestHeader().GetName()) {
			x.add(Critical, "traced-secret", m.where, "traces show the header "+tag.GetRequestHeader().GetName(), "remove the custom tag")
		}
	}
	for _, f := range m.filters {
		if f.kind == filters+"tap.v3.Tap" {
			x.add(Critical, "tap", m.where, "the filter "+f.GetName()+" can copy requests with their tokens", "remove it")
		}
		x.logs(as[routerv3.Router](f.config).GetUpstreamLog(), m.where+", upstream log")
	}
}

var secretHeaders = []string{"authorization", "cookie", "dpop", "mcp-session-id", "x-sallyport-ticket", "x-sallyport-session"}

func secretHeader(name string) bool {
	for _, s := range secretHeaders {
		if strings.EqualFold(s, name) {
			return true
		}
	}
	return false
}

// logged finds the header that a command operator of Envoy's formatter prints.
var logged = regexp.MustCompile(`%(?:REQ|RESP)(?:_WITHOUT_QUERY)?\(([^)%]*)\)`)

// logs: no credential belongs in a log.
func (x *exam) logs(all []*accesslogv3.AccessLog, where string) {
	for _, l := range all {
		if l.GetTypedConfig() == nil {
			continue
		}
		m, err := l.GetTypedConfig().UnmarshalNew()
		if err != nil {
			x.add(Info, "access-log", where, "the access log "+l.GetName()+" cannot be read", "see that it shows no header with a credential")
			continue
		}
		for _, name := range printed(m) {
			if secretHeader(name) {
				x.add(Critical, "logged-secret", where, "the access log "+l.GetName()+" shows the header "+strings.ToLower(name), "remove it from the format")
			}
		}
	}
}

// printed returns the headers that a logger's configuration names.
func printed(m proto.Message) []string {
	var names []string
	if g, ok := m.(*alsv3.HttpGrpcAccessLogConfig); ok {
		names = append(names, g.GetAdditionalRequestHeadersToLog()...)
		names = append(names, g.GetAdditionalResponseHeadersToLog()...)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return names
	}
	for _, match := range logged.FindAllStringSubmatch(string(text), -1) {
		for name := range strings.SplitSeq(match[1], "?") { // the second is used where the first is absent
			names = append(names, name)
		}
	}
	return names
}
