package hub

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// The stateful revisions, 2024-11-05 to 2025-11-25.

// negotiated are the versions that initialize may agree on. 2025-03-26 is not one of them: it obliges a server to
// take batches, and a batch is not one decision.
var negotiated = []string{"2024-11-05", "2025-06-18", mcpparse.LatestLegacy}

// negotiate answers a version we do not serve with one that we do (lifecycle, "Version Negotiation").
func negotiate(requested string) string {
	switch {
	case slices.Contains(negotiated, requested):
		return requested
	case requested == "2025-03-26":
		return "2025-06-18" // the nearest: the same transport without batches
	}
	return mcpparse.LatestLegacy
}

func (h *Hub) legacy(ctx context.Context, c caller, m mcpparse.Message, version string) authz.Reply {
	if version != "" && !mcpparse.Served(mcpparse.EraLegacy, version) {
		return unsupportedVersion(m.ID, version)
	}
	if m.Kind == mcpparse.Request && m.Method == "initialize" {
		return h.initialize(c, m)
	}
	s, refusal := h.session(c, m.ID)
	if refusal != nil {
		return *refusal
	}
	if s.Version != "" {
		version = s.Version
	}
	switch {
	case m.Kind == mcpparse.Notification:
		return accepted()
	case m.Kind == mcpparse.Response:
		return fault(http.StatusBadRequest, nil, mcpparse.CodeInvalidRequest, "no request of ours is waiting for this response")
	case m.Method == "ping":
		return result(m.ID, []byte("{}"))
	case m.Method == "tools/list":
		return h.listLegacy(ctx, c, m, version)
	}
	return fault(http.StatusOK, m.ID, mcpparse.CodeMethodNotFound, "method not found")
}

// initialize opens a session. An id that the client brought along is not looked at: ids are ours to choose.
func (h *Hub) initialize(c caller, m mcpparse.Message) authz.Reply {
	version := negotiate(m.InitializeVersion)
	body := encode(initializeResult{
		ProtocolVersion: version,
		Capabilities:    toolsOnly,
		ServerInfo:      h.client.self,
	})
	if h.cfg.SessionHeader == "" {
		return result(m.ID, body)
	}
	s := session.Session{ID: session.NewID(), Version: version, Issued: h.cfg.Now()}
	id, err := h.cfg.Sessions.Seal(c.owner(), s)
	if err != nil {
		return fault(http.StatusInternalServerError, m.ID, mcpparse.CodeInternal, "internal error")
	}
	if !h.agents.begin(s.ID, c.id.Principal(), h.cfg.Now()) {
		return fault(http.StatusTooManyRequests, m.ID, mcpparse.CodeInternal, "too many open sessions; end some", [2]string{"retry-after", "60"})
	}
	return result(m.ID, body, [2]string{h.cfg.SessionHeader, id})
}

type initializeResult struct {
	ProtocolVersion string          `json:"protocolVersion"`
	Capabilities    json.RawMessage `json:"capabilities"`
	ServerInfo      implementation  `json:"serverInfo"`
}

type implementation struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// toolsOnly is all that the hub can do. It does not promise list changes: it has no stream to send them on.
var toolsOnly = json.RawMessage(`{"tools":{}}`)

// session finds the session a message belongs to; it is zero when sessions are off. Ids of other principals, of
// other paths, altered or ended ones all get the same answer, which tells a client to initialize again.
func (h *Hub) session(c caller, id []byte) (session.Session, *authz.Reply) {
	if h.cfg.SessionHeader == "" {
		return session.Session{}, nil
	}
	sealed, ok := c.req.Header.Get(h.cfg.SessionHeader)
	if !ok {
		r := fault(http.StatusBadRequest, id, mcpparse.CodeInvalidRequest, "a session is required; send initialize first")
		return session.Session{}, &r
	}
	s, err := h.cfg.Sessions.Open(sealed, c.owner())
	if err != nil || !h.Touch(s) {
		r := fault(http.StatusNotFound, id, mcpparse.CodeInvalidRequest, "session not found; send initialize again")
		return session.Session{}, &r
	}
	return s, nil
}

// endSession answers DELETE.
func (h *Hub) endSession(c caller) authz.Reply {
	if h.cfg.SessionHeader == "" || !h.cfg.ClientMayEnd {
		return h.methodNotAllowed()
	}
	s, refusal := h.session(c, nil)
	if refusal != nil {
		return *refusal
	}
	h.End(s.ID)
	return authz.Reply{Status: http.StatusNoContent}
}

// owner is who a session id of this caller is sealed to.
func (c caller) owner() session.Owner {
	return session.Owner{Issuer: c.id.Issuer, Subject: c.id.Subject, ClientID: c.id.ClientID, Route: c.req.Path}
}

func unsupportedVersion(id []byte, requested string) authz.Reply {
	data := map[string]any{"supported": mcpparse.Versions(), "requested": requested[:min(len(requested), 64)]}
	body := mcpparse.ErrorBody(id, mcpparse.CodeUnsupportedVersion, "unsupported protocol version", data)
	return reply(http.StatusBadRequest, body)
}
