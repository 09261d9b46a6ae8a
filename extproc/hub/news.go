package hub

import (
	"context"
	"slices"

	"github.com/sallyport/sallyport/mcpparse"
)

// eachChange calls tell for each list of c's that has changed, until ctx ends.
func (h *Hub) eachChange(ctx context.Context, c caller, version string, tell func(kind)) {
	next := h.changes.next()
	before := h.seen(ctx, c, version)
	for {
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
		next = h.changes.next()
		c.gate = h.cfg.Gate()
		after := h.seen(ctx, c, version)
		if ctx.Err() != nil {
			return
		}
		for _, k := range changed(before, after) {
			tell(k)
		}
		before = after
	}
}

const updatedMethod = "notifications/resources/updated"

// readable reports whether the policy in force lets the caller read the resource that a message names.
func (h *Hub) readable(ctx context.Context, c caller, app string, m mcpparse.Message, version string) bool {
	uri, _ := mcpparse.Text(m.Param("uri"))
	g := h.cfg.Gate()
	a := appOf(g, app)
	return a != nil && g.Visible(ctx, a, mcpparse.Resource, uri, c.req, c.who.Identity, version)
}

// update judges the news that a resource has changed: it must be about what was subscribed to, and about what the caller
// may read now. id is the listen request that it answers, nil for a legacy agent.
func (h *Hub) update(ctx context.Context, c caller, app string, uris []string, m mcpparse.Message, version string, id []byte) ([]byte, bool) {
	uri, _ := mcpparse.Text(m.Param("uri"))
	if m.Method != updatedMethod || !slices.Contains(uris, uri) || !h.readable(ctx, c, app, m, version) {
		return nil, false
	}
	return notification(m.Method, map[string]any{"uri": uri}, id), true
}
