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

// subscriptions/listen of 2026-07-28: one long answer to one request.

const (
	metaSubscription = "io.modelcontextprotocol/subscriptionId"
	maxListenURIs    = 200
)

// notification makes a notification of ours. With id, the raw id of a listen request, it says what it belongs to.
func notification(method string, params map[string]any, id []byte) []byte {
	if id != nil {
		params["_meta"] = map[string]json.RawMessage{metaSubscription: id}
	}
	return envelope(nil, method, encode(params))
}

// wanted is what an agent asks to be told of, and what it will be.
type wanted struct {
	kinds [kinds]bool
	uris  map[string][]string // by app
}

// listen answers subscriptions/listen. The first message says what of the wishes is granted; the last one, when the
// token expires or the gateway ends, is the result.
func (h *Hub) listen(w http.ResponseWriter, r *http.Request, c caller, m mcpparse.Message, version string) {
	if refusal := h.unfit(m, version); refusal != nil {
		write(w, *refusal)
		return
	}
	ctx, cancel := h.streamContext(r, c, session.Session{})
	defer cancel()
	want, granted, ok := h.grant(ctx, c, m, version)
	if !ok {
		write(w, fault(http.StatusBadRequest, m.ID, mcpparse.CodeInvalidParams, "params.notifications must be an object of wishes, with 200 resources at the most"))
		return
	}
	stream := newAgentStream(w)
	if stream.notify(notification("notifications/subscriptions/acknowledged", map[string]any{"notifications": granted}, m.ID)) != nil {
		return
	}
	defer h.cfg.Metrics.stream("listen")()
	defer stream.keepAlive(h.cfg.KeepAlive)()
	work := group{log: h.cfg.Log}
	defer work.Wait()
	defer cancel() // first
	for app, uris := range want.uris {
		u, token := h.toward(c, app)
		work.Go(func() {
			h.listenStream(ctx, u.route, token, map[string]any{"resourceSubscriptions": uris}, func() {}, func(n mcpparse.Message) {
				if body, ok := h.update(ctx, c, app, uris, n, version, m.ID); ok {
					_ = stream.notify(body)
				}
			})
		})
	}
	h.eachChange(ctx, c, version, func(k kind) {
		if want.kinds[k] {
			_ = stream.notify(notification(lists[k].changed, map[string]any{}, m.ID))
		}
	})
	work.Wait()
	if r.Context().Err() == nil {
		_ = stream.notify(mcpparse.ResultBody(m.ID, encode(map[string]any{
			"resultType": "complete", "_meta": map[string]json.RawMessage{metaSubscription: m.ID}})))
	}
}

// grant compares wishes with what there is. What nobody serves, or this caller may not see, is left out.
func (h *Hub) grant(ctx context.Context, c caller, m mcpparse.Message, version string) (wanted, map[string]any, bool) {
	want, granted := wanted{uris: map[string][]string{}}, map[string]any{}
	wishes := m.Param("notifications")
	if len(wishes) == 0 || wishes[0] != '{' {
		return want, nil, false
	}
	offered := h.offered(c.gate.Apps(), mcpparse.EraModern, c.who)
	for k := range kinds {
		if string(mcpparse.Member(wishes, lists[k].filter)) == "true" && offered.has(k) {
			want.kinds[k], granted[lists[k].filter] = true, true
		}
	}
	var uris []string
	if list := mcpparse.Member(wishes, "resourceSubscriptions"); list != nil && json.Unmarshal(list, &uris) != nil || len(uris) > maxListenURIs {
		return want, nil, false
	}
	agreed := []string{}
	for _, uri := range uris {
		a := appOf(c.gate, h.Resource(uri, c.who))
		if a == nil || slices.Contains(agreed, uri) || !h.tells(ctx, c, a, uri, version) {
			continue
		}
		want.uris[a.Name] = append(want.uris[a.Name], uri)
		agreed = append(agreed, uri)
	}
	if len(agreed) > 0 {
		granted["resourceSubscriptions"] = agreed
	}
	return want, granted, true
}

// tells reports whether an app's server can tell a modern agent of changes to a resource that the caller may read.
func (h *Hub) tells(ctx context.Context, c caller, a *authz.App, uri, version string) bool {
	e, o := h.upstreamFor(a, c.who).offering()
	return e.modern && o.subscribe && c.gate.Visible(ctx, a, mcpparse.Resource, uri, c.req, c.who.Identity, version)
}
