package hub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

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

// Facts that a store keeps of a session.
const (
	factLevel      = "level" // its log level
	factSubscribed = "sub:"  // … and a URI: the app that has it
	factAgent      = "agent" // what initialize said, on the 2024-11-05 transport, whose id comes before it
)

func (h *Hub) legacy(ctx context.Context, c caller, m mcpparse.Message, version string) authz.Reply {
	if version != "" && !mcpparse.Served(mcpparse.EraLegacy, version) {
		return unsupportedVersion(m.ID, version)
	}
	if m.Kind == mcpparse.Request && m.Method == "initialize" {
		return h.initialize(ctx, c, m)
	}
	s, refusal := h.session(ctx, c, m.ID)
	if refusal != nil {
		return *refusal
	}
	return h.inSession(ctx, c, s, m, version)
}

// inSession answers what is said in a session, of either transport.
func (h *Hub) inSession(ctx context.Context, c caller, s session.Session, m mcpparse.Message, version string) authz.Reply {
	if s.Version != "" {
		version = s.Version
	}
	switch m.Kind {
	case mcpparse.Notification:
		h.notified(ctx, c, s, m)
		return accepted()
	case mcpparse.Response:
		return h.answered(ctx, c, s, m)
	}
	offered := h.offered(c.gate.Apps(), mcpparse.EraLegacy, c.who)
	k, isList := listOf(m.Method)
	switch {
	case m.Method == "ping":
		return result(m.ID, []byte("{}"))
	case isList && offered.has(k):
		return h.listLegacy(ctx, c, m, k, version)
	case m.Method == "logging/setLevel" && offered.logging:
		return h.setLevel(ctx, c, s, m)
	}
	return fault(http.StatusOK, m.ID, mcpparse.CodeMethodNotFound, "method not found")
}

// initialize opens a session. An id that the client brought along is not looked at: ids are ours to choose.
func (h *Hub) initialize(ctx context.Context, c caller, m mcpparse.Message) authz.Reply {
	s, body := h.hello(ctx, c, m)
	if h.cfg.SessionHeader == "" {
		return result(m.ID, body)
	}
	id, refusal := h.begin(ctx, c, s)
	if refusal != nil {
		refusal.Body = mcpparse.ErrorBody(m.ID, mcpparse.CodeInternal, refusalText(refusal.Status), nil)
		return *refusal
	}
	return result(m.ID, body, [2]string{h.cfg.SessionHeader, id})
}

// hello reads initialize, and says what there is.
func (h *Hub) hello(ctx context.Context, c caller, m mcpparse.Message) (session.Session, []byte) {
	h.awaitFirst(ctx, c)
	s := session.Session{ID: session.NewID(), Version: negotiate(m.InitializeVersion), Issued: h.cfg.Now(),
		Capabilities: session.ReadCapabilities(m.Param("capabilities"))}
	info := m.Param("clientInfo")
	s.ClientName, _ = mcpparse.Text(mcpparse.Member(info, "name"))
	s.ClientVer, _ = mcpparse.Text(mcpparse.Member(info, "version"))
	return s, encode(initializeResult{
		ProtocolVersion: s.Version,
		Capabilities:    h.offered(c.gate.Apps(), mcpparse.EraLegacy, c.who).capabilities(h.cfg.SessionHeader != "" || c.req.Path != h.cfg.Paths.MCP),
		ServerInfo:      h.client.self,
	})
}

// begin registers a session and returns its id as the agent gets it.
func (h *Hub) begin(ctx context.Context, c caller, s session.Session) (string, *authz.Reply) {
	id, err := h.cfg.Sessions.Seal(c.owner(), s)
	if err != nil {
		r := fault(http.StatusInternalServerError, nil, mcpparse.CodeInternal, refusalText(http.StatusInternalServerError))
		return "", &r
	}
	ok, err := h.store.Begin(ctx, s.ID, c.who.Identity.Principal())
	switch {
	case err != nil:
		r := h.storeFailed(nil, err)
		return "", &r
	case !ok:
		r := fault(http.StatusTooManyRequests, nil, mcpparse.CodeInternal, refusalText(http.StatusTooManyRequests), [2]string{"retry-after", "60"})
		return "", &r
	}
	h.holdings.saw(c.who.Identity, s)
	return id, nil
}

func refusalText(status int) string {
	switch status {
	case http.StatusTooManyRequests:
		return "too many open sessions; end some"
	case http.StatusServiceUnavailable:
		return "sessions cannot be looked up at the moment"
	}
	return "internal error"
}

func (h *Hub) storeFailed(id []byte, err error) authz.Reply {
	h.cfg.Log.Error("the session store does not answer", "error", err)
	return fault(http.StatusServiceUnavailable, id, mcpparse.CodeInternal, refusalText(http.StatusServiceUnavailable), [2]string{"retry-after", "1"})
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

// session finds the session a message belongs to; it is zero when sessions are off. Ids of other principals, of
// other paths, altered or ended ones all get the same answer, which tells a client to initialize again.
func (h *Hub) session(ctx context.Context, c caller, id []byte) (session.Session, *authz.Reply) {
	sealed := c.sealed
	if c.req.Path != h.cfg.Paths.Message || sealed == "" {
		if h.cfg.SessionHeader == "" {
			return session.Session{}, nil
		}
		var ok bool
		if sealed, ok = c.req.Header.Get(h.cfg.SessionHeader); !ok {
			r := fault(http.StatusBadRequest, id, mcpparse.CodeInvalidRequest, "a session is required; send initialize first")
			return session.Session{}, &r
		}
	}
	s, err := h.cfg.Sessions.Open(sealed, c.owner())
	live := false
	if err == nil && !h.cfg.Revocations.Ended(c.who.Identity, s) {
		if live, err = h.store.Touch(ctx, s.ID); err != nil {
			r := h.storeFailed(id, err)
			return session.Session{}, &r
		}
	}
	if !live {
		r := fault(http.StatusNotFound, id, mcpparse.CodeInvalidRequest, "session not found; send initialize again")
		return session.Session{}, &r
	}
	h.holdings.saw(c.who.Identity, s)
	return s, nil
}

// agentOf is a session with what its client said that it can do. On the 2024-11-05 transport the id is older than that,
// and the store has it.
func (h *Hub) agentOf(ctx context.Context, s session.Session) session.Session {
	if s.ID == "" || s.Version != "" {
		return s
	}
	facts, err := h.store.Facts(ctx, s.ID)
	var agent session.Session
	if err != nil || json.Unmarshal([]byte(facts[factAgent]), &agent) != nil {
		return s
	}
	agent.ID = s.ID
	return agent
}

// endSession answers DELETE.
func (h *Hub) endSession(ctx context.Context, c caller) authz.Reply {
	if h.cfg.SessionHeader == "" || !h.cfg.ClientMayEnd || c.req.Path != h.cfg.Paths.MCP {
		return h.methodNotAllowed()
	}
	s, refusal := h.session(ctx, c, nil)
	if refusal != nil {
		return *refusal
	}
	if err := h.end(ctx, s.ID, h.tokens(c)); err != nil {
		return h.storeFailed(nil, err)
	}
	return authz.Reply{Status: http.StatusNoContent}
}

// levels are those of logging/setLevel (RFC 5424).
var levels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// setLevel is passed on to every session that has levels, and remembered for those to come.
func (h *Hub) setLevel(ctx context.Context, c caller, s session.Session, m mcpparse.Message) authz.Reply {
	level, _ := mcpparse.Text(m.Param("level"))
	if !slices.Contains(levels, level) {
		return fault(http.StatusOK, m.ID, mcpparse.CodeInvalidParams, "level must be one of RFC 5424's")
	}
	if s.ID == "" {
		return result(m.ID, []byte("{}"))
	}
	if err := h.store.Remember(ctx, s.ID, factLevel, level); err != nil {
		return h.storeFailed(m.ID, err)
	}
	h.everywhere(ctx, c, s, func(ctx context.Context, u *upstream, at UpstreamSession, token string) error {
		if !at.Logging {
			return nil
		}
		_, err := h.ask(ctx, u, s.ID, at, token, "logging/setLevel", encode(map[string]string{"level": level}))
		return err
	})
	return result(m.ID, []byte("{}"))
}

const passDeadline = 3 * time.Second

// everywhere does something at each upstream where the agent has a session, all at once, and waits for it.
func (h *Hub) everywhere(ctx context.Context, c caller, s session.Session, do func(context.Context, *upstream, UpstreamSession, string) error) {
	open, err := h.store.Upstreams(ctx, s.ID)
	if err != nil {
		h.cfg.Log.Error("the session store does not answer", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	work := group{log: h.cfg.Log}
	for _, at := range open {
		work.Go(func() {
			if err := h.at(ctx, c, at, do); err != nil {
				h.cfg.Log.Info("an upstream could not be told what the agent said", "app", at.App, "error", err)
			}
		})
	}
	work.Wait()
}

// at does something in one upstream session, with the token that goes with such things.
func (h *Hub) at(ctx context.Context, c caller, s UpstreamSession, do func(context.Context, *upstream, UpstreamSession, string) error) error {
	a := appOf(c.gate, s.App)
	if a == nil || a.Route != s.Route {
		return errors.New("the app is gone")
	}
	token, err := h.tokens(c)(ctx, s)
	if err != nil {
		return err
	}
	return do(ctx, h.upstreamFor(a, c.who), s, token)
}

// notified passes a notification on to whom it concerns.
func (h *Hub) notified(ctx context.Context, c caller, s session.Session, m mcpparse.Message) {
	switch {
	case s.ID == "":
	case m.Method == "notifications/cancelled" && m.RequestID != nil:
		// A call that we carry ends here. One that went straight to its upstream ends there: the request id is the
		// agent's own in each of its sessions, and an upstream that does not know it ignores it.
		h.tell(ctx, s.ID, note{Cancelled: m.RequestID})
		h.passOn(ctx, c, s, m.Raw())
	case m.Method == "notifications/roots/list_changed" && h.agentOf(ctx, s).Capabilities.Has(session.RootsListChanged):
		h.passOn(ctx, c, s, m.Raw())
	case m.Method == "notifications/progress":
		text, _ := mcpparse.Text(m.ProgressToken)
		name, err := h.cfg.Sessions.OpenName(s.ID, session.ProgressToken, text)
		if err == nil {
			h.everywhere(ctx, c, s, h.only(s.ID, name, m.Splice(m.SetProgressToken(name.Raw))))
		}
	}
}

func (h *Hub) passOn(ctx context.Context, c caller, s session.Session, body []byte) {
	h.everywhere(ctx, c, s, func(ctx context.Context, u *upstream, at UpstreamSession, token string) error {
		return h.say(ctx, s.ID, u, at, token, body)
	})
}

// say sends a message to which no answer comes, whichever transport the session has.
func (h *Hub) say(ctx context.Context, owner string, u *upstream, at UpstreamSession, token string, body []byte) error {
	if conn := h.conns.get(owner, u.name); u.old {
		if conn == nil {
			return ErrUnavailable
		}
		return conn.post(ctx, body, token)
	}
	return h.client.deliver(ctx, legOf(at, token), body)
}

// only sends a message to the one upstream session that a name came from.
func (h *Hub) only(owner string, name session.Name, body []byte) func(context.Context, *upstream, UpstreamSession, string) error {
	return func(ctx context.Context, u *upstream, at UpstreamSession, token string) error {
		if session.TagOf(at.App) != name.App || session.TagOf(at.ID) != name.Leg {
			return nil
		}
		return h.say(ctx, owner, u, at, token, body)
	}
}

// answered takes the agent's answer to a request of an upstream's back to where that came from. A request is answered
// once.
func (h *Hub) answered(ctx context.Context, c caller, s session.Session, m mcpparse.Message) authz.Reply {
	unasked := fault(http.StatusBadRequest, nil, mcpparse.CodeInvalidRequest, "no request of ours is waiting for this response")
	text, _ := mcpparse.Text(m.ID)
	name, err := h.cfg.Sessions.OpenName(s.ID, session.RequestID, text)
	if err != nil || s.ID == "" {
		return unasked
	}
	first, err := h.store.Once(ctx, s.ID, text)
	switch {
	case err != nil:
		return h.storeFailed(nil, err)
	case !first:
		return unasked
	}
	if name.Leg == session.TagOf(ownRequest) { // we asked, in the name of a modern upstream
		h.tell(ctx, s.ID, note{Answer: m.Raw(), Waiter: string(name.Raw)})
		return accepted()
	}
	open, err := h.store.Upstreams(ctx, s.ID)
	if err != nil {
		return h.storeFailed(nil, err)
	}
	for _, at := range open {
		if session.TagOf(at.App) != name.App || session.TagOf(at.ID) != name.Leg {
			continue
		}
		body := m.Splice(m.SetID(name.Raw))
		err := h.at(ctx, c, at, func(ctx context.Context, u *upstream, at UpstreamSession, token string) error {
			return h.say(ctx, s.ID, u, at, token, body)
		})
		if err != nil {
			h.cfg.Log.Info("an answer could not be brought to its upstream", "app", at.App, "error", err)
			return fault(http.StatusBadGateway, nil, mcpparse.CodeInternal, "the upstream is not reachable")
		}
		return accepted()
	}
	return unasked // its session is gone, and the request with it
}

// owner is who a session id of this caller is sealed to.
func (c caller) owner() session.Owner { return c.gate.Owner(c.who.Identity, c.req.Path) }

func unsupportedVersion(id []byte, requested string) authz.Reply {
	data := map[string]any{"supported": mcpparse.Versions(), "requested": requested[:min(len(requested), 64)]}
	body := mcpparse.ErrorBody(id, mcpparse.CodeUnsupportedVersion, "unsupported protocol version", data)
	return reply(http.StatusBadRequest, body)
}
