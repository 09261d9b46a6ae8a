// Package envoy turns the description of one gateway into the Envoy
// configuration that runs it: listeners, routes and clusters as Envoy's own
// API types, and the static bootstrap file made of them. One generator serves
// the file that `sallyport run` and `sallyport render` write and, piece by
// piece, an xDS server.
//
// The package knows nothing about policies or tokens. What it promises is that
// nothing reaches an upstream unless the service said so, and that it still
// holds when the service misbehaves. Envoy lets a request continue when an
// external processor ends its stream early, whatever failure_mode_allow says;
// so four locks sit on the one door. The first two hold together, the third and
// the fourth each alone:
//
//  1. No default route. Every route to a cluster demands [RouteHeader]; the
//     rest is a direct 503 (routes.go).
//  2. The header cannot come from outside: every x-sallyport-* header is
//     removed before the first route is matched (listener.go).
//  3. An RBAC filter behind the processor demands dynamic metadata
//     ([DecidedKey]) that only the final verdict sets (filters.go).
//  4. The service's stream handler cannot end with an answer outstanding.
//     That lock is the service's own.
//
// Everything the agent sees from Envoy itself is JSON-RPC with the caller's id
// where it is known, and names neither Envoy nor the upstream (replies.go).
package envoy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"time"
)

// The contract between this configuration and the service that it asks.
const (
	// RouteHeader selects the cluster: [HubRoute] or [AppRoute]. The service sets it.
	RouteHeader = "x-sallyport-route"
	// SourceHeader carries the agent's address to the hub. The service sets it.
	SourceHeader = "x-sallyport-source"
	// CertHeader carries the digest of the agent's certificate to the hub. The service sets it.
	CertHeader = "x-sallyport-cert"
	// TicketHeader and SessionHeader carry what the service tells its hub.
	TicketHeader  = "x-sallyport-ticket"
	SessionHeader = "x-sallyport-session"
	// InternalPrefix begins every header that no client may send.
	InternalPrefix = "x-sallyport-"
	// HubRoute is the value of RouteHeader for the hub.
	HubRoute = "hub"

	// MetadataNamespace is the only dynamic metadata namespace that the service
	// may write over ext_proc; over ext_authz it is [AuthzNamespace].
	MetadataNamespace = "sallyport"
	// AuthzNamespace is where Envoy keeps what an ext_authz service says.
	AuthzNamespace = extAuthzName
	// DecidedKey is present once the final verdict is in, and only then: set it
	// in the headers reply of a request without a body, else in the body reply.
	DecidedKey = "decided"
	// IDKey holds the raw JSON token of the request's id, checked, quotes
	// included. Envoy's own error replies quote it.
	IDKey = "rpc_id"
	// OriginKey holds the origin of the page in a browser that may read the
	// answer; absent when no page asked.
	OriginKey = "origin"
	// NonceKey holds the DPoP-Nonce of the answer, and ExposeKey what a page may
	// read of an upstream's answer besides. Both are absent when there is nothing.
	NonceKey  = "nonce"
	ExposeKey = "expose"
	// MeteredAppKey and MeterKey name the app whose calls are counted, and whose
	// call of what this is; absent where nothing is counted.
	MeteredAppKey = "metered"
	MeterKey      = "meter"
	// ImmediateKey is true in every message that carries an ImmediateResponse:
	// its body is then left as it is.
	ImmediateKey = "imm"

	// AccessLogName is the log_name of the gRPC access log stream.
	AccessLogName = "sallyport"
	// ServiceCluster is the name of the cluster of the service's gRPC socket.
	ServiceCluster = "service"
)

// AppRoute returns the value of [RouteHeader] for an app, which is also the
// name of its cluster.
func AppRoute(name string) string { return "app/" + name }

// VersionedRoute returns a route for an app that is another one when anything
// about the app is. What Envoy has at such a route never changes: a changed app
// gets a route beside the one before, which goes when nobody needs it any more.
func VersionedRoute(a App) string {
	a = a.withDefaults()
	a.Route = ""
	text, err := json.Marshal(a)
	if err != nil {
		panic(err) // a plain struct
	}
	sum := sha256.Sum256(text)
	return AppRoute(a.Name) + "@" + hex.EncodeToString(sum[:5])
}

// EndpointRoute returns the value of [RouteHeader] under which the hub posts
// to an app with EndpointEvents, whose own route is given.
func EndpointRoute(route string) string { return "endpoint/" + strings.TrimPrefix(route, "app/") }

// Filter is the Envoy filter that asks the service.
type Filter uint8

// The filters. Over ext_authz the service can change no body and sees no
// answer; calls that need either go through its hub.
const (
	FilterExtProc Filter = iota
	FilterExtAuthz
	// FilterExtProcDuplex sends bodies to the service as they come, and waits to
	// get them back.
	FilterExtProcDuplex
)

// Gateway describes one gateway. The zero value of a field means the default
// that its comment gives; a field without one is required.
type Gateway struct {
	// NodeID names this Envoy to an xDS server and in the access log. Default "sallyport".
	NodeID string

	// Listen is the host:port that agents reach. The host is an IP address or
	// "localhost" (127.0.0.1); an empty host means every IPv4 address, "::"
	// every address of both families.
	Listen string
	// TLS ends TLS on Listen. Nil serves plain HTTP, HTTP/1.1 and HTTP/2 alike.
	TLS *ListenerTLS
	// Paths are the MCP endpoints: the stream path, and with the 2024-11-05
	// transport the SSE and message paths. Every other path (metadata, health,
	// unknown ones) is asked of the service too, but has no route: the service
	// answers it or nobody does.
	Paths []string

	// ServiceSocket is where the service's gRPC server is, which decides every
	// message and receives the access log: the path of a unix socket, or
	// host:port.
	ServiceSocket string
	// HubSocket is where the hub's HTTP/2 server is: likewise.
	HubSocket string
	// ServiceTLS has Envoy speak TLS to both where they are host:port. Nil: plain text.
	ServiceTLS *UpstreamTLS

	// Replicas are all services that Envoy may ask, when there are several; it has
	// no use then for ServiceSocket and HubSocket.
	Replicas []Replica
	// EgressSocket is the unix socket on which Envoy listens for the hub. Who
	// can connect to it can send anything to every upstream. Empty: the hub
	// reaches the upstreams by itself.
	EgressSocket string
	// EgressMode is the mode of EgressSocket: 0600 (default) where Envoy and
	// the service run as one user, 0660 where they share a group only.
	EgressMode fs.FileMode
	// AdminSocket is the unix socket of Envoy's admin interface. Who can
	// connect to it can read every header in flight and stop Envoy.
	AdminSocket string

	// Dynamic has Envoy ask the service for everything but the way to it (ADS, see
	// [Server]). What changes then is routes, clusters and certificates, never a
	// listener.
	Dynamic bool

	// SecretsDir is where Envoy finds what [SecretFiles] returns. With it Envoy
	// follows the replacement, by renaming, of the certificates that it does not get
	// from the service; without, it has what the files held when it started.
	SecretsDir string

	// Filter asks the service about every message. Default FilterExtProc.
	Filter Filter

	// Apps are the upstream MCP servers, in the order of the configuration.
	Apps []App

	// MaxRequestBytes bounds a request body; Envoy answers 413 to more. The
	// edge is soft (Envoy's limit is a watermark), so the service checks the
	// length as well. 1 KiB to 64 MiB, default 1 MiB.
	MaxRequestBytes uint32
	// RequestLimit turns away requests of all callers together that come faster.
	// Zero: no limit.
	RequestLimit Rate
	// MaxConnections bounds the agents' connections; more are closed at once.
	// Default 50,000.
	MaxConnections uint32
	// MessageTimeout bounds one answer of the service, a token exchange
	// included; 504 after it. Keep it above the exchange's own timeout.
	// Default 10s.
	MessageTimeout time.Duration
	// StreamIdle ends a stream on which no byte went either way for so long.
	// Keep it above the keep-alive interval of event streams. Default 15m.
	StreamIdle time.Duration
	// CAFile is the PEM bundle that https upstreams without a CAFile of their
	// own are checked against. Default /etc/ssl/certs/ca-certificates.crt.
	CAFile string
}

// ListenerTLS is how agents' TLS connections are ended. Files are PEM.
type ListenerTLS struct {
	CertFile, KeyFile string
	// ClientCAFile demands a client certificate issued by one of these
	// authorities. Empty, with ClientCAs, asks for none.
	ClientCAFile string
	// ClientCAs are such authorities as PEM text, for those in several files:
	// Envoy reads one. What becomes of the files does not reach a static Envoy.
	ClientCAs string
	// ClientCRLFile refuses what its lists revoke. There must be one of each
	// authority of a chain, or Envoy refuses the chain.
	ClientCRLFile string
	// ClientSPIFFEIDs are the URI names of which a client's certificate must
	// carry one, exactly. Empty: any name will do.
	ClientSPIFFEIDs []string
	// ClientCertOptional lets in clients that show no certificate. One that is
	// shown must still be good.
	ClientCertOptional bool
	// MinVersion is "1.2" (default) or "1.3".
	MinVersion string
}

// App is one upstream MCP server.
type App struct {
	// Name is 1 to 64 of letters, digits, dot, underscore and hyphen.
	Name string
	// Route is unique: the value of [RouteHeader], and the name of the cluster.
	// Default [AppRoute], else [VersionedRoute].
	Route string
	// URL is the MCP endpoint: absolute http or https, without user, query or
	// fragment. The agent's path and query never reach the upstream's.
	URL string
	// EndpointEvents says that URL is the event stream of the 2024-11-05
	// transport, whose server names the address to post to: the hub, and it
	// alone, may then choose the path. See [EndpointRoute].
	EndpointEvents bool
	// TLS adjusts the connection of an https URL. Nil uses the defaults.
	TLS *UpstreamTLS
	// CallLimit bounds the calls of one caller to one tool. Zero: no limit.
	CallLimit Rate
	// MaxRequests bounds the requests that are open at the upstream at a time,
	// event streams included; more are answered 503. Default 100,000.
	MaxRequests uint32
	// DialTimeout bounds connecting, the TLS handshake included. Default 5s.
	DialTimeout time.Duration
	// KeepAlive is the interval of TCP and HTTP/2 probes in whole
	// seconds, 1s to 1h. Default 30s.
	KeepAlive time.Duration
}

// UpstreamTLS adjusts the TLS connection to an upstream. Files are PEM. The
// certificate must name the URL's host, or one of SPIFFEIDs where there are any:
// there is no way to switch that off.
type UpstreamTLS struct {
	// SPIFFEIDs are the URI names of which the certificate must carry one,
	// exactly, in place of the host's name.
	SPIFFEIDs []string
	// CAFile replaces Gateway.CAFile for this upstream.
	CAFile string
	// CRLFile refuses what its lists revoke: see ListenerTLS.ClientCRLFile.
	CRLFile string
	// CertFile and KeyFile are the client certificate. Both or neither.
	CertFile, KeyFile string
	// MinVersion is "1.2" (default) or "1.3".
	MinVersion string
}

// withDefaults returns g with every default filled in, or all that is wrong with it.
func (g Gateway) withDefaults() (Gateway, error) {
	g.NodeID = cmp.Or(g.NodeID, "sallyport")
	g.EgressMode = cmp.Or(g.EgressMode, 0o600)
	g.MaxConnections = cmp.Or(g.MaxConnections, 50_000)
	g.MaxRequestBytes = cmp.Or(g.MaxRequestBytes, 1<<20)
	g.MessageTimeout = cmp.Or(g.MessageTimeout, 10*time.Second)
	g.StreamIdle = cmp.Or(g.StreamIdle, 15*time.Minute)
	g.CAFile = cmp.Or(g.CAFile, "/etc/ssl/certs/ca-certificates.crt")
	g.Apps = append([]App(nil), g.Apps...)
	for i := range g.Apps {
		g.Apps[i] = g.Apps[i].withDefaults()
	}
	if g.ServiceTLS != nil {
		t := *g.ServiceTLS
		t.MinVersion = cmp.Or(t.MinVersion, "1.2")
		g.ServiceTLS = &t
	}
	if g.TLS != nil {
		t := *g.TLS
		t.MinVersion = cmp.Or(t.MinVersion, "1.2")
		g.TLS = &t
	}
	return g, errors.Join(g.check()...)
}

func (g Gateway) filterName() string {
	if g.Filter == FilterExtAuthz {
		return extAuthzName
	}
	return extProcName
}

// namespace is where Envoy keeps what the service says of a message.
func (g Gateway) namespace() string {
	if g.Filter == FilterExtAuthz {
		return AuthzNamespace
	}
	return MetadataNamespace
}

func (a App) withDefaults() App {
	a.MaxRequests = cmp.Or(a.MaxRequests, manyStreams)
	a.Route = cmp.Or(a.Route, AppRoute(a.Name))
	a.DialTimeout = cmp.Or(a.DialTimeout, 5*time.Second)
	a.KeepAlive = cmp.Or(a.KeepAlive, 30*time.Second)
	t := UpstreamTLS{}
	if a.TLS != nil {
		t = *a.TLS
	}
	t.MinVersion = cmp.Or(t.MinVersion, "1.2")
	a.TLS = &t
	return a
}
