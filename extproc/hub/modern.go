package hub

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// The stateless revision, 2026-07-28.

const discoverTTL = time.Minute // what discover says changes with the upstreams

const (
	metaServerInfo  = "io.modelcontextprotocol/serverInfo"
	metaUnavailable = "dev.sallyport/unavailable" // names of the apps that a list lacks, or shows as they last were
)

func (h *Hub) modern(ctx context.Context, c caller, m mcpparse.Message, version string) authz.Reply {
	if refusal := h.unfit(m, version); refusal != nil {
		return *refusal
	}
	switch {
	case m.Kind == mcpparse.Notification:
		return accepted()
	case m.Method == "server/discover":
		return h.discover(ctx, c, m)
	}
	if k, ok := listOf(m.Method); ok && h.offered(c.gate.Apps(), mcpparse.EraModern, c.who).has(k) {
		return h.listModern(ctx, c, m, k, version)
	}
	return fault(http.StatusNotFound, m.ID, mcpparse.CodeMethodNotFound, "method not found")
}

// unfit refuses what is no message of this protocol version.
func (h *Hub) unfit(m mcpparse.Message, version string) *authz.Reply {
	var r authz.Reply
	switch {
	case version == "" || m.Version != "" && m.Version != version:
		r = fault(http.StatusBadRequest, m.ID, mcpparse.CodeHeaderMismatch, "MCP-Protocol-Version does not match the body")
	case !mcpparse.Served(mcpparse.EraModern, version):
		r = unsupportedVersion(m.ID, version)
	case m.Kind == mcpparse.Response:
		r = fault(http.StatusBadRequest, nil, mcpparse.CodeInvalidRequest, "a client sends no responses in this protocol version")
	case m.Kind == mcpparse.Request && (m.Version == "" || !m.HasClientCapabilities):
		r = fault(http.StatusBadRequest, m.ID, mcpparse.CodeInvalidParams, "_meta must carry the protocol version and client capabilities")
	default:
		return nil
	}
	return &r
}

func (h *Hub) discover(ctx context.Context, c caller, m mcpparse.Message) authz.Reply {
	h.awaitFirst(ctx, c)
	return result(m.ID, encode(discoverResult{
		ResultType:        "complete",
		SupportedVersions: mcpparse.Versions(),
		Capabilities:      h.offered(c.gate.Apps(), mcpparse.EraModern, c.who).capabilities(true),
		TTL:               discoverTTL.Milliseconds(),
		CacheScope:        "private",
		Meta:              map[string]any{metaServerInfo: h.client.self},
	}))
}

type discoverResult struct {
	ResultType        string          `json:"resultType"`
	SupportedVersions []string        `json:"supportedVersions"`
	Capabilities      json.RawMessage `json:"capabilities"`
	TTL               int64           `json:"ttlMs"`
	CacheScope        string          `json:"cacheScope"`
	Meta              map[string]any  `json:"_meta"`
}
