package exchange

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// reuseMargin is how long before its expiry a token stops being given out, so
// that it does not expire on the way; for short ones, half of what is left.
const reuseMargin = 5 * time.Second

// Reusable describes a token that is kept for reuse, to [Client.Drop].
type Reusable struct {
	Subject, Agent string // of the Request
	// JTI and SubjectToken are the SHA-256 of the agent's token's jti, as the
	// Request gave it, and of that token itself.
	JTI, SubjectToken [sha256.Size]byte
}

// cache keeps tokens that may be given out again. The nil cache keeps none.
type cache struct {
	longest time.Duration
	most    int
	flight  singleflight.Group

	mu      sync.Mutex
	entries map[cacheKey]*list.Element // of *cached
	order   *list.List                 // the most recently used first
	// drops counts the calls of drop: what was asked for before one must neither be
	// kept after it nor be waited for.
	drops uint64
}

type cacheKey [sha256.Size]byte

type cached struct {
	key   cacheKey
	of    Reusable
	token *Token
	until time.Time
}

func newCache(longest time.Duration, most int) *cache {
	if longest == 0 {
		return nil
	}
	return &cache{longest: longest, most: most, entries: map[cacheKey]*list.Element{}, order: list.New()}
}

func (c *cache) get(key cacheKey, now time.Time) (token *Token, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return nil, c.drops
	}
	if !now.Before(e.Value.(*cached).until) {
		c.remove(e)
		return nil, c.drops
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).token, c.drops
}

func (c *cache) put(entry *cached, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if drops != c.drops {
		return
	}
	if old := c.entries[entry.key]; old != nil {
		c.remove(old)
	}
	c.entries[entry.key] = c.order.PushFront(entry)
	if c.order.Len() > c.most {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(e *list.Element) {
	delete(c.entries, e.Value.(*cached).key)
	c.order.Remove(e)
}

func (c *cache) size() int {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

func (c *cache) drop(match func(Reusable) bool) (dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	for e := c.order.Front(); e != nil; {
		next := e.Next()
		if match(e.Value.(*cached).of) {
			c.remove(e)
			dropped++
		}
		e = next
	}
	return dropped
}

// Drop ends the reuse of every token that match says yes to, and of all whose
// exchange is still under way, and returns how many of the former there were. It
// is for when a subject, an agent or a token of an agent's is revoked: what was
// made of it must not be given out any more. match must not call the client.
func (c *Client) Drop(match func(Reusable) bool) int {
	if c.cache == nil {
		return 0
	}
	return c.cache.drop(match)
}

// reuse answers from what is kept, or asks once for all that want the same. A
// caller that gives up does not take the answer from the others.
func (c *Client) reuse(ctx context.Context, md *metadata, r Request) (*Token, *Error) {
	key := r.key(md)
	token, drops := c.cache.get(key, c.cfg.Now())
	if token != nil {
		return c.again(token), nil
	}
	r.Scopes, r.Act = slices.Clone(r.Scopes), slices.Clone(r.Act) // they outlive the caller
	asked := c.cache.flight.DoChan(fmt.Sprintf("%d %s", drops, key[:]), func() (any, error) {
		if token, _ := c.cache.get(key, c.cfg.Now()); token != nil { // of a flight that has just ended
			return c.again(token), nil
		}
		token, err := c.ask(context.WithoutCancel(ctx), md, r)
		if err != nil {
			return err, nil
		}
		c.keep(key, r, token, drops)
		return token, nil
	})
	select {
	case <-ctx.Done():
		return nil, &Error{Kind: Unavailable, Err: ctx.Err()}
	case answer := <-asked:
		if err, failed := answer.Val.(*Error); failed {
			return nil, err
		}
		token := *answer.Val.(*Token)
		token.Reused = token.Reused || answer.Shared
		return &token, nil
	}
}

func (c *Client) again(token *Token) *Token {
	c.count.reused.Add(1)
	t := *token
	t.Reused = true
	return &t
}

func (c *Client) keep(key cacheKey, r Request, token *Token, drops uint64) {
	now := c.cfg.Now()
	left := token.Expiry.Sub(now)
	until := token.Expiry.Add(-min(reuseMargin, left/2))
	if longest := now.Add(c.cfg.Reuse); longest.Before(until) {
		until = longest
	}
	if end := r.SubjectExpiry; !end.IsZero() && end.Before(until) {
		until = end
	}
	if token.Expiry.IsZero() || !now.Before(until) {
		return
	}
	c.cache.put(&cached{
		key: key, token: token, until: until,
		of: Reusable{
			Subject: r.Subject, Agent: r.Agent,
			JTI: sha256.Sum256([]byte(r.SubjectJTI)), SubjectToken: sha256.Sum256([]byte(r.SubjectToken)),
		},
	}, drops)
}

// key is a digest of everything that shapes a token and the checks that it passed.
func (r Request) key(md *metadata) cacheKey {
	h := sha256.New()
	var size [8]byte
	add := func(text string) {
		binary.BigEndian.PutUint64(size[:], uint64(len(text)))
		h.Write(size[:])
		h.Write([]byte(text))
	}
	for _, text := range []string{
		md.issuer, md.tokenEndpoint, r.SubjectToken, r.Subject, r.SubjectClaim, r.Agent, string(r.Act), r.Binding,
		r.Audience, r.Resource, r.TokenAudience, r.Lifetime.String(),
		fmt.Sprint(r.AllowNarrower, r.AcceptLonger, r.Delegation, r.ActorToken, r.RequireAct, r.RequireATJWT, r.AllowOpaque),
	} {
		add(text)
	}
	scopes := slices.Clone(r.Scopes)
	slices.Sort(scopes)
	for _, s := range slices.Compact(scopes) {
		add(s)
	}
	return cacheKey(h.Sum(nil))
}
