package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/mcpparse"
)

// merged is what one caller may see of all apps' tools.
type merged struct {
	tools       []byte        // a JSON array of the items, in configured and then upstream order
	unavailable []string      // apps whose list is missing or may be out of date
	ttl         time.Duration // how long all of it stays as it is, by the upstreams' word; 0 when one gave none
}

func (h *Hub) listLegacy(ctx context.Context, c caller, m mcpparse.Message, version string) authz.Reply {
	if hasCursor(m) {
		return badCursor(m)
	}
	list := h.merge(ctx, c, version)
	var b bytes.Buffer
	b.WriteString(`{"tools":`)
	b.Write(list.tools)
	if len(list.unavailable) > 0 {
		b.WriteString(`,"_meta":`)
		b.Write(encode(map[string]any{metaUnavailable: list.unavailable}))
	}
	b.WriteByte('}')
	return result(m.ID, b.Bytes())
}

func (h *Hub) listModern(ctx context.Context, c caller, m mcpparse.Message, version string) authz.Reply {
	if hasCursor(m) {
		return badCursor(m)
	}
	list := h.merge(ctx, c, version)
	meta := map[string]any{metaServerInfo: h.client.self}
	if len(list.unavailable) > 0 {
		meta[metaUnavailable] = list.unavailable
	}
	var b bytes.Buffer
	b.WriteString(`{"resultType":"complete","tools":`)
	b.Write(list.tools)
	b.WriteString(`,"ttlMs":` + strconv.FormatInt(list.ttl.Milliseconds(), 10))
	b.WriteString(`,"cacheScope":"private","_meta":`) // it was filtered for this caller
	b.Write(encode(meta))
	b.WriteByte('}')
	return result(m.ID, b.Bytes())
}

// hasCursor: there is one page, so we never gave out a cursor and any is unknown to us. null is none.
func hasCursor(m mcpparse.Message) bool {
	return gjson.GetBytes(m.Params(), "cursor").Type != gjson.Null
}

func badCursor(m mcpparse.Message) authz.Reply {
	return fault(http.StatusOK, m.ID, mcpparse.CodeInvalidParams, "unknown cursor")
}

// merge puts together what c may see. It waits only for lists that were never read, and not beyond their deadline.
func (h *Hub) merge(ctx context.Context, c caller, version string) merged {
	apps := c.gate.Apps()
	h.awaitFirst(ctx, apps)
	now := h.cfg.Now()
	out := merged{ttl: maxListTTL}
	var b bytes.Buffer
	b.WriteByte('[')
	seen := map[string]bool{}
	for _, a := range apps {
		cat, down := h.upstream(a).list()
		shown := 0
		for _, t := range cat.toolsOrNone() {
			if seen[t.listed] || !c.gate.Visible(ctx, a, t.name, c.req, c.id, version) {
				continue
			}
			seen[t.listed] = true
			if b.Len() > 1 {
				b.WriteByte(',')
			}
			b.Write(t.raw)
			shown++
		}
		// An app of which the caller may see nothing is not named either.
		if down && (cat == nil || shown > 0) {
			out.unavailable = append(out.unavailable, a.Name)
		}
		out.ttl = min(out.ttl, cat.remaining(now))
	}
	b.WriteByte(']')
	out.tools = b.Bytes()
	return out
}

// awaitFirst starts what is due and waits for the apps that were never listed.
func (h *Hub) awaitFirst(ctx context.Context, apps []*authz.App) {
	var waits []<-chan singleflight.Result
	for _, a := range apps {
		u := h.upstream(a)
		started := h.refresh(u)
		if cat, _ := u.list(); cat == nil && started != nil {
			waits = append(waits, started)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, listDeadline)
	defer cancel()
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
			return
		}
	}
}

// Lists reports whether app's last good list has tool.
func (h *Hub) Lists(app *authz.App, tool string) bool {
	cat, _ := h.upstream(app).list()
	return slices.ContainsFunc(cat.toolsOrNone(), func(t listedTool) bool { return t.name == tool })
}

// encode is for values of ours, all of which have an encoding.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
