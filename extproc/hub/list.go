package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/token"
	"github.com/sallyport/sallyport/mcpparse"
)

// merged is what one caller may see of all apps' lists of one kind.
type merged struct {
	items       []byte            // a JSON array, in configured and then upstream order
	sum         [sha256.Size]byte // of items
	unavailable []string          // apps whose lists are missing or may be out of date
	ttl         time.Duration     // how long all of it stays as it is, by the upstreams' word; 0 when one gave none
}

// listFrame is about what a list's answer holds besides its items, in bytes.
const listFrame = 512

// listOf returns which list a method asks for.
func listOf(method string) (kind, bool) {
	for k := range kinds {
		if lists[k].method == method {
			return k, true
		}
	}
	return 0, false
}

func (h *Hub) listLegacy(ctx context.Context, c caller, m mcpparse.Message, k kind, version string) authz.Reply {
	if hasCursor(m) {
		return badCursor(m)
	}
	list := h.merge(ctx, c, k, version)
	var b bytes.Buffer
	b.Grow(len(list.items) + listFrame)
	b.WriteString(`{"` + lists[k].member + `":`)
	b.Write(list.items)
	if len(list.unavailable) > 0 {
		b.WriteString(`,"_meta":`)
		b.Write(encode(map[string]any{metaUnavailable: list.unavailable}))
	}
	b.WriteByte('}')
	return result(m.ID, b.Bytes())
}

func (h *Hub) listModern(ctx context.Context, c caller, m mcpparse.Message, k kind, version string) authz.Reply {
	if hasCursor(m) {
		return badCursor(m)
	}
	list := h.merge(ctx, c, k, version)
	meta := map[string]any{metaServerInfo: h.client.self}
	if len(list.unavailable) > 0 {
		meta[metaUnavailable] = list.unavailable
	}
	var b bytes.Buffer
	b.Grow(len(list.items) + listFrame)
	b.WriteString(`{"resultType":"complete","` + lists[k].member + `":`)
	b.Write(list.items)
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
func (h *Hub) merge(ctx context.Context, c caller, k kind, version string) merged {
	apps := c.gate.Apps()
	h.awaitLists(ctx, c)
	now := h.cfg.Now()
	out := merged{ttl: maxListTTL}
	cats, down := make([]*catalogue, len(apps)), make([]bool, len(apps))
	var visible []bool
	for n, a := range apps {
		cats[n], down[n] = h.upstreamFor(a, c.who).shown(now)
		visible = append(visible, h.visible(ctx, c, a, cats[n], k, version)...)
		out.ttl = min(out.ttl, cats[n].remaining(now))
	}
	j := h.joins.of(k, cats, visible)
	out.items, out.sum = j.items, j.sum
	for n, a := range apps {
		// An app of which the caller may see nothing is not named either.
		if down[n] && (cats[n] == nil || j.shown[n] > 0) {
			out.unavailable = append(out.unavailable, a.Name)
		}
	}
	return out
}

// view is what the visibility of a list depends on, besides the request: the gate in force, by its app, is part of it.
type view struct {
	who     *token.Identity
	app     *authz.App
	cat     *catalogue
	kind    kind
	version string
}

const maxViews = 4096

// visible says of each item whether c may see it. It is remembered where the policy looks at nothing of the request.
func (h *Hub) visible(ctx context.Context, c caller, a *authz.App, cat *catalogue, k kind, version string) []bool {
	v := view{c.who.Identity, a, cat, k, version}
	varies := a.Policy != nil && a.Policy.ReadsHTTP()
	if !varies {
		h.viewsMu.Lock()
		known, ok := h.views.get(v)
		h.viewsMu.Unlock()
		if ok {
			return known
		}
	}
	items := cat.items(k)
	out := make([]bool, len(items))
	begun := h.cfg.Now()
	for n, i := range items {
		out[n] = c.gate.Visible(ctx, a, lists[k].target, i.name, c.req, c.who.Identity, version)
	}
	// A policy that ran late hides what it would have shown. That is one list's misfortune, and not the next one's.
	if !varies && ctx.Err() == nil && h.cfg.Now().Sub(begun) < policy.Deadline {
		h.viewsMu.Lock()
		h.views.put(v, out)
		h.viewsMu.Unlock()
	}
	return out
}

// seen sums up what a caller sees of each list, to tell whether a change is one to him.
func (h *Hub) seen(ctx context.Context, c caller, version string) (sums [kinds][sha256.Size]byte) {
	for k := range kinds {
		sums[k] = h.merge(ctx, c, k, version).sum
	}
	return sums
}

// changed names the notifications that are due between two sums.
func changed(before, after [kinds][sha256.Size]byte) []kind {
	var out []kind
	for k := range kinds {
		if before[k] != after[k] && (k != templates || before[resources] == after[resources]) {
			out = append(out, k)
		}
	}
	return out
}

// awaitLists starts what is due and waits for the lists that c has not been shown before, or no longer may be.
func (h *Hub) awaitLists(ctx context.Context, c caller) {
	h.await(ctx, c, listDeadline, func(u *upstream) bool {
		cat, _ := u.shown(h.cfg.Now())
		return cat == nil
	})
}

// awaitFirst waits, not for long, for the upstreams that have never been asked what they have.
func (h *Hub) awaitFirst(ctx context.Context, c caller) {
	h.await(ctx, c, firstPatience, func(u *upstream) bool { return !u.attempted() })
}

func (h *Hub) await(ctx context.Context, c caller, limit time.Duration, missing func(*upstream) bool) {
	var waits []<-chan singleflight.Result
	for _, a := range c.gate.Apps() {
		u := h.upstreamFor(a, c.who)
		needed := missing(u)
		if started := h.refresh(u); needed && started != nil {
			waits = append(waits, started)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
			return
		}
	}
}

// encode is for values of ours, all of which have an encoding.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
