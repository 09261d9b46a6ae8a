// Package config loads the gateway's YAML file.
//
// The comments on the types below are the reference of the file: each field
// says what it means, its unit, its default and what is dangerous about it.
//
// A Maverics `connectors` / `mcpProvider` / `apps` file loads unchanged. A file
// may be put together from several pieces, in one YAML document or in several
// separated by `---`: a list section that appears again is joined to the
// earlier one, an entry that carries the name of an entry of an earlier piece
// replaces it, and a section that is a map may appear once only.
//
// Everything else is strict. An unknown or repeated key, a value of the wrong
// type, a missing file or secret is a Problem with a position and a cure, and
// all of them are reported at once.
//
// Two kinds of reference are replaced in every value, once, at load:
// `{{ env.NAME }}` by an environment variable and `<namespace.key>` by a secret
// of the secret provider. Values in problems are quoted as they are written in
// the file, before replacement, so a secret cannot reach a log through them.
//
// A relative path in the file is relative to the directory of the file.
package config

import (
	"strings"
	"time"
)

// Config is one gateway.
type Config struct {
	// Connectors are the identity providers that the gateway is a client of.
	// Apps refer to them by name in `tokenExchange.idp`.
	Connectors []Connector `yaml:"connectors"`

	// MCPProvider is the door that agents come through: the MCP endpoint, its
	// transports, and whose tokens it accepts. Required.
	MCPProvider MCPProvider `yaml:"mcpProvider"`

	// Apps are the MCP servers behind the gateway. At least one is required.
	Apps []App `yaml:"apps"`

	// HTTP is the listener for agents.
	HTTP HTTP `yaml:"http"`

	// TLS holds named profiles: certificates and trust that other sections
	// refer to by name (`http.tls`, `connectors[].tls`, `upstream.stream.tls`,
	// `upstream.sse.tls`). A name that no profile has is an error.
	TLS map[string]*TLS `yaml:"tls"`

	// Health is the probe on the agents' listener.
	Health Health `yaml:"health"`

	// Admin is the operator's listener.
	Admin Admin `yaml:"admin"`

	// Service is where Envoy reaches the service that decides.
	Service Service `yaml:"service"`

	// Session is how the ids of legacy MCP sessions are sealed, and where
	// knowledge about sessions is kept.
	Session Session `yaml:"session"`

	// Revocation is where `sallyport revoke` keeps what it revokes.
	Revocation Revocation `yaml:"revocation"`

	// Audit is where the record of every message goes.
	Audit Audit `yaml:"audit"`

	// Logger is how much the program says about itself.
	Logger Logger `yaml:"logger"`

	// AuthProvider is the embedded authorization server. Absent: none runs.
	AuthProvider *AuthProvider `yaml:"authProvider"`

	// Telemetry has no effect: metrics are served for Prometheus.
	Telemetry ignored `yaml:"telemetry" note:"metrics are served at /metrics on admin.address"`

	sources sources
}

// HTTP is the listener that agents connect to.
type HTTP struct {
	// Address is host:port of the listener. Default 127.0.0.1:8080. An address
	// that other machines can reach needs TLS, here or in front: agents' tokens
	// travel over it. Without `tls` such an address is warned about.
	Address string `yaml:"address"`

	// TLS is the name of the profile with the listener's certificate. Default
	// none: plain HTTP.
	TLS string `yaml:"tls"`

	// AllowedHosts are further values of the Host header to answer, host or
	// host:port. The listener's own address, loopback names on a loopback
	// listener and the hosts of the expected audiences are allowed already. Any
	// other Host is refused with 403, which is what stops DNS rebinding.
	AllowedHosts []string `yaml:"allowedHosts"`

	// AllowedOrigins are further values of the Origin header to answer, such as
	// https://inspector.example.com. Pages of these origins can call tools with
	// whatever token they hold.
	AllowedOrigins []string `yaml:"allowedOrigins"`

	// MaxRequestBytes bounds the body of one message, in bytes, from 1024 to
	// 67108864. Default 1048576 (1 MiB). A larger body is answered 413. Envoy
	// holds every body in memory while it is judged, so this times the number
	// of concurrent calls is memory that callers can occupy.
	MaxRequestBytes int64 `yaml:"maxRequestBytes"`

	// MaxConnections bounds agents' connections, from 1 to 1000000. Default 50000.
	// More are closed at once.
	MaxConnections int `yaml:"maxConnections"`

	// RequestLimit turns requests away with 429 that come faster, those of all
	// agents together and before anything else looks at them. Default none.
	RequestLimit *Rate `yaml:"requestLimit"`

	// Hosts has no effect: there is one listener.
	Hosts ignored `yaml:"hosts" note:"there is one listener: use http.address, http.tls and http.allowedHosts"`
}

// Rate is a token bucket: so many at once, and as many again in each period.
type Rate struct {
	// Calls is how many, from 1. Required.
	Calls int `yaml:"calls"`

	// Per is the period, from 1s to 24h. Default 1s.
	Per time.Duration `yaml:"per"`
}

// TLS is a named profile, used for a listener (certFile, keyFile, clientAuth,
// clientCAFiles) or for a client (caFile, and certFile with keyFile for mTLS).
type TLS struct {
	// CertFile is the path of a PEM certificate chain, leaf first.
	CertFile string `yaml:"certFile" as:"path"`

	// KeyFile is the path of the PEM private key of CertFile.
	KeyFile string `yaml:"keyFile" as:"path"`

	// CAFile is the path of PEM certificates that a client trusts instead of
	// the system's.
	CAFile string `yaml:"caFile" as:"path"`

	// ClientAuth is what a listener asks of a client's certificate: Go's names,
	// from NoClientCert (the default) to RequireAndVerifyClientCert. The values
	// that do not verify (RequestClientCert, RequireAnyClientCert) prove
	// nothing and are refused.
	ClientAuth string `yaml:"clientAuth"`

	// ClientCAFiles are the paths of PEM files, each with one certificate or
	// several: a client's certificate must chain to one of them. Required when
	// ClientAuth verifies, unused otherwise. An Envoy with static configuration
	// follows the replacement of a file only where there is one.
	ClientCAFiles []string `yaml:"clientCAFiles" as:"path"`

	// SPIFFEIDs are ids such as spiffe://example.org/items, of which the peer's
	// certificate must carry one as a URI name, exactly. A server's is then not held
	// to its host's name, so it needs a caFile; of clients, ClientAuth must verify a
	// certificate. Default none: a server's certificate must name its host, a
	// client's may name anything.
	SPIFFEIDs []string `yaml:"spiffeIDs"`

	// CRLFile is the path of PEM certificate revocation lists (RFC 5280 §5): a peer
	// whose certificate is on one is refused when it connects next. Every authority of
	// caFile and clientCAFiles needs a list, and every intermediate that a peer shows;
	// without one, or with one past its nextUpdate, all that the authority has issued is
	// refused. The file is read again when it is replaced. Default none: nothing is revoked.
	CRLFile string `yaml:"crlFile" as:"path"`

	// MinVersion is the lowest protocol version, "1.2" (the default) or "1.3".
	MinVersion string `yaml:"minVersion" enum:"1.2,1.3"`
}

// Health is the probe for load balancers and orchestrators.
type Health struct {
	// Location is the path on http.address that answers 200 while the gateway
	// can serve. Default /status. It needs no token and says nothing else.
	Location string `yaml:"location"`

	// Heartbeat has no effect.
	Heartbeat ignored `yaml:"heartbeat" note:"probe health.location instead"`
}

// Admin is the listener for the operator: /metrics and /ready.
type Admin struct {
	// Address is host:port. Default 127.0.0.1:9902. It asks for no credential,
	// so an address that other machines can reach is warned about.
	Address string `yaml:"address"`
}

// Service is the gRPC service that Envoy asks for every message.
type Service struct {
	// Address is unix:/absolute/path or host:port. Default: a private unix
	// socket that `run` makes. Whoever can connect here can obtain exchanged
	// tokens for tokens that he holds, so a TCP address that other machines can
	// reach needs TLS and is warned about without it.
	Address string `yaml:"address"`

	// Filter is the Envoy filter that asks, as `run` and `render` write it (which
	// host has which: docs/hosts): extProc (the default: Envoy buffers a body and asks once), extProcDuplex
	// (bodies are streamed to the service and back, FULL_DUPLEX_STREAMED) or
	// extAuthz, as in hosts that have no ext_proc. Over the latter two, calls whose
	// answer has to be changed go through the service's hub instead of straight to
	// the MCP server. The service answers all three, whichever it meets.
	Filter string `yaml:"filter" enum:"extProc,extProcDuplex,extAuthz"`

	// Hub is host:port of the hub, which answers what concerns several MCP servers.
	// Default: a private unix socket beside the service's. For an Envoy on another
	// machine. The hub verifies every token itself and carries out no call that
	// the service has not sealed for it; what travels here are agents' tokens, so
	// an address that other machines can reach is warned about.
	Hub string `yaml:"hub"`

	// TLS is the name of the profile with the certificate that the service and its
	// hub show where they listen on host:port. Its clientAuth must be
	// RequireAndVerifyClientCert: only Envoy may speak to them, so let its
	// clientCAFiles vouch for nobody else, or name Envoy in its spiffeIDs. Default
	// none: plain text, which is warned about where other machines can reach it.
	TLS string `yaml:"tls"`

	// EnvoyTLS is the name of the profile with which Envoy connects to both, as `run`
	// and `render` write it: its caFile is trusted, its certFile and keyFile are shown.
	// Required where one of these writes Envoy's configuration and TLS is set.
	EnvoyTLS string `yaml:"envoyTLS"`

	// Replicas are all services behind one Envoy, this one among them: two to
	// sixteen, the same list for each. `render -for envoy` has Envoy ask any that is
	// ready, and tell all how calls ended (docs/replicas.md). They need
	// `session.store`, `upstreams: direct` and `serve`.
	Replicas []Replica `yaml:"replicas"`

	// Upstreams is how the hub reaches the MCP servers: envoy, the default, through
	// a private listener of Envoy's that `run` and `render -for envoy` write; or
	// direct, by connections of its own, for hosts whose Envoy has no such listener.
	Upstreams string `yaml:"upstreams" enum:"envoy,direct"`

	// Canary is where the service sends, every five seconds, a request without a
	// token through the agents' listener of its own Envoy, which this very service
	// must then refuse: `http://host:port` or `https://host:port`, or off. While it
	// does not come back refused, the service is not ready. Default: `http.address`
	// with `run`, off with `serve`. Not for a listener behind which several
	// replicas of the service answer in turn.
	Canary string `yaml:"canary"`

	// EnvoyConfig is how Envoy gets its listeners, routes, clusters and certificates:
	// static, from a file alone, or ads, from the service (xDS), so that apps and
	// certificates change without a restart. Default: ads with `run`, static with
	// `serve`, where it must be what the Envoy was rendered for. With ads the keys of
	// `tls` profiles travel over a unix socket in Address; where that is host:port
	// Envoy reads the files itself, and follows their replacement. An Envoy and the
	// service that it asks belong together: several replicas need static.
	EnvoyConfig string `yaml:"envoyConfig" enum:"static,ads"`
}

// Dynamic reports whether Envoy asks the service for its resources. own says that the service starts its Envoy itself.
func (s *Service) Dynamic(own bool) bool {
	return s.EnvoyConfig == "ads" || own && s.EnvoyConfig == ""
}

// Replica is where Envoy reaches one of several services.
type Replica struct {
	// Address is unix:/absolute/path or host:port, as Envoy has to write it.
	Address string `yaml:"address"`
	// Hub is host:port of its hub. Default, with a unix socket: hub.sock beside it.
	Hub string `yaml:"hub"`
}

// Session is how legacy MCP session ids (protocol 2025-11-25 and earlier) are
// made, and where knowledge about sessions is kept. An id is sealed to its owner,
// so it is of no use to anybody else.
type Session struct {
	// Key is the secret that session ids are sealed with, at least 32 bytes,
	// best as a reference: <sallyport.sessionKey>. Default: random at start,
	// which ends all sessions on a restart and cannot be shared by replicas.
	// Required with any other Store than memory.
	Key Secret `yaml:"key"`

	// Store is where knowledge about sessions is kept: memory, the default, which
	// is this process's own, or a Redis or Valkey that replicas share:
	// `redis://[user:password@]host:port[/db]`, or `rediss://…` over TLS with the
	// system's trust. Write the password, percent-encoded, or the whole as a
	// reference: <sallyport.sessionStore>. Over redis:// the sessions' ids and the
	// password can be read on the path, which is warned about beyond loopback.
	Store Secret `yaml:"store"`
}

// Redis returns the address of the store when it is a Redis or Valkey.
func (s Session) Redis() (url string, ok bool) {
	url = s.Store.Reveal()
	if strings.HasPrefix(url, "redis://") || strings.HasPrefix(url, "rediss://") {
		return url, true
	}
	return "", false
}

// Revocation is where what `sallyport revoke` revokes is kept, so that it
// outlives a restart. With a Redis or Valkey in `session.store` it is there.
type Revocation struct {
	// File is the path that JSON lines are appended to. Replicas without a
	// common `session.store` may share it. Default: beside the configuration
	// file, with .revocations.jsonl in place of its extension, made when
	// something is revoked. The directory must be writable and must outlive
	// restarts; what is lost with it is accepted again. A file that cannot be
	// read keeps the gateway from starting.
	File string `yaml:"file" as:"path"`
}

// Audit is the record of every message: one decision and one completion.
type Audit struct {
	// File is the path that JSON lines are appended to. Default: standard
	// error, among the logs. A record that cannot be written refuses the
	// message it is about.
	File string `yaml:"file" as:"path"`
}

// Logger is the program's own log: JSON lines on standard error.
type Logger struct {
	// Level is debug, info, warn or error. Default info.
	Level string `yaml:"level" enum:"debug,info,warn,error"`

	// LogSessionID, TimeFormat and FieldOrdering have no effect.
	LogSessionID  ignored `yaml:"logSessionID" note:"audit records carry the session"`
	TimeFormat    ignored `yaml:"timeFormat" note:"times are RFC 3339 with nanoseconds"`
	FieldOrdering ignored `yaml:"fieldOrdering" note:"the order of log fields is fixed"`
}

// ignored accepts any value of a key that published files carry and that has no
// meaning here. The field's `note` tag says what to use instead.
type ignored struct{}

func (h *HTTP) setDefaults() {
	h.Address = "127.0.0.1:8080"
	h.MaxRequestBytes = 1 << 20
	h.MaxConnections = 50_000
}

func (r *Rate) setDefaults() { r.Per = time.Second }

func (t *TLS) setDefaults() {
	t.ClientAuth = "NoClientCert"
	t.MinVersion = "1.2"
}

func (h *Health) setDefaults()  { h.Location = "/status" }
func (a *Admin) setDefaults()   { a.Address = "127.0.0.1:9902" }
func (s *Session) setDefaults() { s.Store = "memory" }
func (s *Service) setDefaults() { s.Filter, s.Upstreams = "extProc", "envoy" }
func (l *Logger) setDefaults()  { l.Level = "info" }
