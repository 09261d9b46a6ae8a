package hub

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

const (
	listDeadline  = 5 * time.Second  // for one page, and for a caller who waits for a first list
	firstPatience = 2 * time.Second  // of initialize with lists that have never been read
	drainDeadline = 10 * time.Second // for all pages of all lists
	maxPages      = 100
	maxItems      = 5000
	maxListBytes  = 8 << 20

	defaultListTTL = time.Minute
	minListTTL     = 5 * time.Second
	maxListTTL     = 5 * time.Minute
	minRefresh     = time.Second // between two readings, however often an upstream says that its lists changed
)

// kind is one of the lists that a server has.
type kind uint8

const (
	tools kind = iota
	prompts
	resources
	templates
	kinds
)

// lists says, for each kind, how it is asked for and what its items are to policies.
var lists = [kinds]struct {
	method, member string
	target         mcpparse.Target
	changed        string // the notification that it has changed
	filter         string // what subscribes to that notification
}{
	tools:     {"tools/list", "tools", mcpparse.Tool, "notifications/tools/list_changed", "toolsListChanged"},
	prompts:   {"prompts/list", "prompts", mcpparse.Prompt, "notifications/prompts/list_changed", "promptsListChanged"},
	resources: {"resources/list", "resources", mcpparse.Resource, "notifications/resources/list_changed", "resourcesListChanged"},
	templates: {"resources/templates/list", "resourceTemplates", mcpparse.Resource, "notifications/resources/list_changed", "resourcesListChanged"},
}

// has reports whether an upstream has lists of kind k.
func (o offers) has(k kind) bool {
	return [kinds]bool{tools: o.tools, prompts: o.prompts, resources: o.resources, templates: o.resources}[k]
}

// catalogue is the good lists of one upstream. It is immutable.
type catalogue struct {
	lists   [kinds][]item
	dropped string // names that were no good, for the log
	left    int    // how many
	hinted  bool   // the upstream said how long its lists are good for
	expires time.Time
}

// item is one entry of a list.
type item struct {
	name    string                 // as the upstream knows it: a name, a URI or a URI template
	listed  string                 // as agents know it
	raw     []byte                 // as agents see it: the upstream's bytes but for the name
	matches *regexp.Regexp         // of a template: the URIs that it makes; nil when it cannot be told
	params  []mcpparse.ParamHeader // of a tool: the arguments that a modern request mirrors in headers
}

func (c *catalogue) items(k kind) []item {
	if c == nil {
		return nil
	}
	return c.lists[k]
}

// remaining is how long an agent may rely on the lists.
func (c *catalogue) remaining(now time.Time) time.Duration {
	if c == nil || !c.hinted {
		return 0
	}
	return max(c.expires.Sub(now), 0)
}

// same reports whether two catalogues show agents the same.
func (c *catalogue) same(other *catalogue) bool {
	if c == nil || other == nil {
		return c == other
	}
	for k := range kinds {
		if !slices.EqualFunc(c.lists[k], other.lists[k], func(a, b item) bool { return string(a.raw) == string(b.raw) }) {
			return false
		}
	}
	return true
}

// list returns the last good lists, nil when there are none, and whether the upstream failed since.
func (u *upstream) list() (c *catalogue, down bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.catalogue, u.down || u.catalogue == nil
}

// shown is list for showing: what was read in a caller's name is shown no longer than the token was good that it was read
// with.
func (u *upstream) shown(now time.Time) (c *catalogue, down bool) {
	c, down = u.list()
	if c != nil && u.principal != "" && !now.Before(c.expires) {
		return nil, true
	}
	return c, down
}

func (u *upstream) attempted() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tried
}

func (u *upstream) due(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !now.Before(u.next)
}

// stale has u's lists read again, but not within minRefresh of the last reading.
func (h *Hub) stale(u *upstream) {
	now := h.cfg.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.missed = u.reading // what is being read may be older than the news
	due := now
	if at := u.read.Add(minRefresh); at.After(due) {
		due = at
	}
	if u.next.After(due) {
		u.next = due
		time.AfterFunc(due.Sub(now), func() {
			if u.principal != "" { // no tick does it
				h.refresh(u)
				return
			}
			h.wake()
		})
	}
}

// listed keeps the outcome of an attempt, c being nil for a failure. It returns what was known before.
func (u *upstream) listed(c *catalogue, now time.Time) (before *catalogue, wasDown bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before, wasDown = u.catalogue, u.down
	u.tried, u.down, u.read, u.reading = true, c == nil, now, false
	if c == nil {
		u.lists.fail(now)
		u.next = u.lists.until
		return before, wasDown
	}
	u.catalogue, u.lists, u.next = c, backoff{}, c.expires
	if u.missed {
		u.next = now.Add(minRefresh)
	}
	return before, wasDown
}

// begin notes that the lists are being read.
func (u *upstream) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reading, u.missed = true, false
}

func (h *Hub) refreshDue() {
	for _, a := range h.cfg.Gate().Apps() {
		if a.DiscoversAsAgent() {
			continue
		}
		u := h.upstream(a)
		h.refresh(u)
		h.watch(u)
	}
}

// refresh starts to read u's lists, or joins whoever does, when they are due; otherwise it returns nil.
func (h *Hub) refresh(u *upstream) <-chan singleflight.Result {
	if !u.due(h.cfg.Now()) {
		return nil
	}
	return start(h, u.key("list"), drainDeadline, func(ctx context.Context) (struct{}, error) {
		if u.due(h.cfg.Now()) {
			h.readLists(ctx, u)
		}
		return struct{}{}, nil
	})
}

// readLists reads u's lists and keeps them. A failure keeps the last good ones.
func (h *Hub) readLists(ctx context.Context, u *upstream) {
	u.begin()
	c, err := h.fetch(ctx, u)
	if err != nil {
		c = nil
	}
	before, wasDown := u.listed(c, h.cfg.Now())
	h.cfg.Metrics.read(u, c, unauthorized(err))
	log := h.cfg.Log.With("app", u.name)
	switch {
	case err != nil && !wasDown && u.principal != "":
		log.Info("lists not available to a caller", "error", err)
	case err != nil && !wasDown:
		log.Warn("lists not available", "error", err)
	case err == nil && wasDown:
		log.Info("lists available again", "tools", len(c.lists[tools]))
	}
	if c == nil {
		return
	}
	if c.dropped != "" && (before == nil || before.dropped != c.dropped) {
		log.Warn("items dropped from the lists: bad, repeated or too long names, or bad x-mcp-header", "names", c.dropped)
	}
	if u.principal != "" {
		h.trim()
	}
	// Lists of one caller's that were never shown are no change to anybody.
	if !c.same(before) && (before != nil || u.principal == "") {
		h.changes.announce()
	}
}

// fetch reads the lists in the era that the upstream speaks. When it is refused, the session may be lost or the server
// replaced: it tries once more from the start.
func (h *Hub) fetch(ctx context.Context, u *upstream) (*catalogue, error) {
	c, err := h.fetchOnce(ctx, u)
	if errors.Is(err, errRefused) {
		u.doubt() // the probe opens a session
		c, err = h.fetchOnce(ctx, u)
	}
	if errors.Is(err, errGuarded) && u.isBarred() == nil && h.demand(u) { // it says what it speaks to anybody, and the rest to few
		u.doubt()
		c, err = h.fetchOnce(ctx, u)
	}
	return c, err
}

// asker sends a request of the hub's own to one upstream.
type asker func(ctx context.Context, method string, params []byte) ([]byte, error)

// asker returns how the hub itself asks u, in the era that u speaks.
func (h *Hub) asker(ctx context.Context, u *upstream) (asker, error) {
	e, err := h.speaks(ctx, u)
	if err == nil {
		err = u.isBarred()
	}
	if err != nil {
		return nil, err
	}
	if e.modern {
		return func(ctx context.Context, method string, params []byte) ([]byte, error) {
			token, err := h.credential(ctx, u)
			if err != nil {
				return nil, err
			}
			l := leg{route: u.route, era: mcpparse.EraModern, version: mcpparse.LatestModern, token: token}
			a, err := h.client.call(ctx, l, method, params)
			return a.result, err
		}, nil
	}
	s, err := h.ownSession(ctx, u)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, method string, params []byte) ([]byte, error) {
		token, err := h.credential(ctx, u)
		if err != nil {
			return nil, err
		}
		return h.ask(ctx, u, hubOwner(u), s, token, method, params)
	}, nil
}

// hubOwner owns the hub's own connections. No agent's or principal's key looks like it.
func hubOwner(u *upstream) string { return "hub at " + u.name + u.principal }

// ownSession returns the hub's own session at a legacy upstream.
func (h *Hub) ownSession(ctx context.Context, u *upstream) (UpstreamSession, error) {
	u.mu.Lock()
	s := u.own
	u.mu.Unlock()
	if s.Version != "" {
		return s, nil
	}
	token, err := h.credential(ctx, u)
	if err != nil {
		return UpstreamSession{}, err
	}
	if u.old {
		conn, err := h.connect(ctx, u, hubOwner(u), session.Session{}, token)
		if err != nil {
			return UpstreamSession{}, err
		}
		return UpstreamSession{App: u.name, Route: u.route, ID: conn.id, Version: conn.version}, nil
	}
	s, _, err = h.handshake(ctx, u, session.Session{}, token)
	if err == nil {
		u.keepOwn(s)
	}
	return s, err
}

func (h *Hub) fetchOnce(ctx context.Context, u *upstream) (*catalogue, error) {
	ask, err := h.asker(ctx, u)
	if err != nil {
		return nil, err
	}
	c := &catalogue{expires: h.cfg.Now().Add(defaultListTTL)}
	var dropped []string
	_, offers := u.offering()
	for k := range kinds {
		if !offers.has(k) {
			continue
		}
		b := &listBuilder{kind: k, prefix: u.prefix, seen: map[string]bool{}}
		err := h.drain(ctx, ask, c, b)
		if k != tools && errors.Is(err, errRefused) && !errors.Is(err, errLost) {
			h.cfg.Log.Debug("the upstream offers a list that it refuses", "app", u.name, "list", lists[k].method)
			continue
		}
		if err != nil {
			return nil, err
		}
		c.lists[k] = b.items
		dropped = append(dropped, b.dropped...)
		c.left += b.left
	}
	c.dropped = strings.Join(dropped, ", ")
	if end := u.readUntil(); !end.IsZero() && end.Before(c.expires) {
		c.expires = end
	}
	return c, nil
}

// drain reads all pages. A list beyond the bounds is no list: half of one would look like the whole.
func (h *Hub) drain(ctx context.Context, ask asker, c *catalogue, b *listBuilder) error {
	method := lists[b.kind].method
	params, size := []byte(nil), 0
	for page := range maxPages {
		result, err := h.page(ctx, ask, method, params)
		if err != nil {
			return err
		}
		if size += len(result); size > maxListBytes {
			return fmt.Errorf("%w: %s over %d bytes", errBadAnswer, method, maxListBytes)
		}
		items, next, more, err := mcpparse.List(method, result)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", errBadAnswer, method, err)
		}
		if page == 0 {
			c.hint(result, h.cfg.Now())
		}
		if b.add(items); len(b.items) > maxItems {
			return fmt.Errorf("%w: %s over %d items", errBadAnswer, method, maxItems)
		}
		if !more {
			return nil
		}
		params = encode(map[string]string{"cursor": next})
	}
	return fmt.Errorf("%w: %s over %d pages", errBadAnswer, method, maxPages)
}

func (h *Hub) page(ctx context.Context, ask asker, method string, params []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, listDeadline)
	defer cancel()
	return ask(ctx, method, params)
}

// hint takes over the upstream's ttlMs, within bounds. The shortest of its lists counts.
func (c *catalogue) hint(result []byte, now time.Time) {
	ttl := gjson.GetBytes(result, "ttlMs")
	if ttl.Type != gjson.Number || ttl.Num < 0 {
		return
	}
	// In this order, so that no number overflows a Duration.
	ms := min(ttl.Num, float64(maxListTTL.Milliseconds()))
	expires := now.Add(max(time.Duration(ms)*time.Millisecond, minListTTL))
	if !c.hinted || expires.Before(c.expires) {
		c.expires = expires
	}
	c.hinted = ms > 0
}
