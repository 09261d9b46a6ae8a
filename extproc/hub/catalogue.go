package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"

	"github.com/sallyport/sallyport/mcpparse"
)

const (
	listDeadline  = 5 * time.Second  // for one page, and for a caller who waits for a first list
	drainDeadline = 10 * time.Second // for all pages
	maxPages      = 100
	maxTools      = 5000
	maxListBytes  = 8 << 20

	defaultListTTL = time.Minute
	minListTTL     = 5 * time.Second
	maxListTTL     = 5 * time.Minute

	// catalogueOwner owns the hub's own upstream sessions. No agent's or principal's key looks like it.
	catalogueOwner = "hub's catalogue"
)

// catalogue is one good tool list. It is immutable.
type catalogue struct {
	tools   []listedTool
	dropped string // names that were no good, for the log
	hinted  bool   // the upstream said how long the list is good for
	expires time.Time
}

type listedTool struct {
	name   string // as the upstream knows it
	listed string // as agents know it
	raw    []byte // the item as agents see it: the upstream's bytes but for the name
}

func (c *catalogue) toolsOrNone() []listedTool {
	if c == nil {
		return nil
	}
	return c.tools
}

// remaining is how long an agent may rely on the list.
func (c *catalogue) remaining(now time.Time) time.Duration {
	if c == nil || !c.hinted {
		return 0
	}
	return max(c.expires.Sub(now), 0)
}

// list returns the last good list, nil when there is none, and whether the upstream failed since.
func (u *upstream) list() (c *catalogue, down bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.catalogue, u.down || u.catalogue == nil
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

// listed keeps the outcome of an attempt, c being nil for a failure. It returns what was known before.
func (u *upstream) listed(c *catalogue, now time.Time) (before *catalogue, wasDown bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before, wasDown = u.catalogue, u.down
	u.tried, u.down = true, c == nil
	if c == nil {
		u.lists.fail(now)
		u.next = u.lists.until
		return before, wasDown
	}
	u.catalogue, u.lists, u.next = c, backoff{}, c.expires
	return before, wasDown
}

func (h *Hub) refreshDue() {
	for _, a := range h.cfg.Gate().Apps() {
		h.refresh(h.upstream(a))
	}
}

// refresh starts to read u's list, or joins whoever does, when it is due; otherwise it returns nil.
func (h *Hub) refresh(u *upstream) <-chan singleflight.Result {
	if !u.due(h.cfg.Now()) {
		return nil
	}
	return start(h, u.key("list"), drainDeadline, func(ctx context.Context) (struct{}, error) {
		if u.due(h.cfg.Now()) {
			h.readList(ctx, u)
		}
		return struct{}{}, nil
	})
}

// readList reads u's list, with no token, and keeps it. A failure keeps the last good list.
func (h *Hub) readList(ctx context.Context, u *upstream) {
	c, err := h.fetch(ctx, u)
	if err != nil {
		c = nil
	}
	before, wasDown := u.listed(c, h.cfg.Now())
	log := h.cfg.Log.With("app", u.name)
	switch {
	case err != nil && !wasDown:
		log.Warn("tool list not available", "error", err)
	case err == nil && wasDown:
		log.Info("tool list available again", "tools", len(c.tools))
	}
	if c != nil && c.dropped != "" && (before == nil || before.dropped != c.dropped) {
		log.Warn("tools dropped from the list: bad, repeated or too long names", "names", c.dropped)
	}
}

// fetch reads the list in the era that the upstream speaks. When it is refused, the session may be lost or the
// server replaced: it tries once more from the start.
func (h *Hub) fetch(ctx context.Context, u *upstream) (*catalogue, error) {
	c, err := h.fetchOnce(ctx, u)
	if errors.Is(err, errRefused) {
		u.doubt() // the probe opens a session
		c, err = h.fetchOnce(ctx, u)
	}
	return c, err
}

func (h *Hub) fetchOnce(ctx context.Context, u *upstream) (*catalogue, error) {
	e, err := h.speaks(ctx, u)
	if err != nil {
		return nil, err
	}
	l := leg{route: u.route, era: mcpparse.EraModern, version: mcpparse.LatestModern}
	if !e.modern {
		s, err := h.openSession(ctx, u, catalogueOwner)
		if err != nil {
			return nil, err
		}
		l = leg{route: u.route, era: mcpparse.EraLegacy, version: s.version, session: s.id}
	}
	return h.drain(ctx, u, l)
}

// drain reads all pages. A list beyond the bounds is no list: half of one would look like the whole.
func (h *Hub) drain(ctx context.Context, u *upstream, l leg) (*catalogue, error) {
	c := &catalogue{expires: h.cfg.Now().Add(defaultListTTL)}
	b := listBuilder{prefix: u.prefix, seen: map[string]bool{}}
	cursor, size := []byte(nil), 0
	for page := range maxPages {
		result, err := h.page(ctx, l, cursor)
		if err != nil {
			return nil, err
		}
		if size += len(result); size > maxListBytes {
			return nil, fmt.Errorf("%w: list over %d bytes", errBadAnswer, maxListBytes)
		}
		items, next, more, err := mcpparse.ToolList(result)
		if err != nil {
			return nil, fmt.Errorf("%w: tools/list: %w", errBadAnswer, err)
		}
		if page == 0 {
			c.hint(result, h.cfg.Now())
		}
		if b.add(items); len(b.tools) > maxTools {
			return nil, fmt.Errorf("%w: list over %d tools", errBadAnswer, maxTools)
		}
		if !more {
			c.tools, c.dropped = b.tools, strings.Join(b.dropped, ", ")
			return c, nil
		}
		cursor = encode(map[string]string{"cursor": next})
	}
	return nil, fmt.Errorf("%w: list over %d pages", errBadAnswer, maxPages)
}

func (h *Hub) page(ctx context.Context, l leg, params []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, listDeadline)
	defer cancel()
	a, err := h.client.call(ctx, l, "tools/list", params)
	return a.result, err
}

// hint takes over the upstream's ttlMs, within bounds.
func (c *catalogue) hint(result []byte, now time.Time) {
	ttl := gjson.GetBytes(result, "ttlMs")
	if ttl.Type != gjson.Number || ttl.Num < 0 {
		return
	}
	// In this order, so that no number overflows a Duration.
	ms := min(ttl.Num, float64(maxListTTL.Milliseconds()))
	c.hinted = ms > 0
	c.expires = now.Add(max(time.Duration(ms)*time.Millisecond, minListTTL))
}

// listBuilder collects the good items of a list.
type listBuilder struct {
	prefix  string
	seen    map[string]bool
	tools   []listedTool
	dropped []string
}

const maxDroppedNamed = 20

func (b *listBuilder) add(items []mcpparse.ListItem) {
	for _, item := range items {
		if b.seen[item.Name] || !mcpparse.ValidToolName(item.Name) ||
			len(b.prefix)+len(item.Name) > mcpparse.MaxToolNameBytes {
			if len(b.dropped) < maxDroppedNamed {
				b.dropped = append(b.dropped, item.Name[:min(len(item.Name), mcpparse.MaxToolNameBytes)])
			}
			continue
		}
		b.seen[item.Name] = true
		t := listedTool{name: item.Name, listed: b.prefix + item.Name, raw: item.Raw}
		if b.prefix != "" {
			t.raw = item.Renamed(t.listed)
		}
		b.tools = append(b.tools, t)
	}
}
