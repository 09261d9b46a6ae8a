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

const discoverTTL = 5 * time.Minute // what discover says changes only with this program

const (
	metaServerInfo  = "io.modelcontextprotocol/serverInfo"
	metaUnavailable = "dev.sallyport/unavailable" // names of the apps that a list lacks, or shows as they last were
)

func (h *Hub) modern(ctx context.Context, c caller, m mcpparse.Message, version string) authz.Reply {
	switch {
	case version == "" || m.Version != "" && m.Version != version:
		return fault(http.StatusBadRequest, m.ID, mcpparse.CodeHeaderMismatch, "MCP-Protocol-Version does not match the body")
	case !mcpparse.Served(mcpparse.EraModern, version):
		return unsupportedVersion(m.ID, version)
	case m.Kind == mcpparse.Notification:
		return accepted()
	case m.Kind == mcpparse.Response:
		return fault(http.StatusBadRequest, nil, mcpparse.CodeInvalidRequest, "a client sends no responses in this protocol version")
	case m.Version == "" || !m.HasClientCapabilities:
		return fault(http.StatusBadRequest, m.ID, mcpparse.CodeInvalidParams, "_meta must carry the protocol version and client capabilities")
	case m.Method == "server/discover":
		return h.discover(m)
	case m.Method == "tools/list":
		return h.listModern(ctx, c, m, version)
	}
	return fault(http.StatusNotFound, m.ID, mcpparse.CodeMethodNotFound, "method not found")
}

func (h *Hub) discover(m mcpparse.Message) authz.Reply {
	return result(m.ID, encode(discoverResult{
		ResultType:        "complete",
		SupportedVersions: mcpparse.Versions(),
		Capabilities:      toolsOnly,
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
