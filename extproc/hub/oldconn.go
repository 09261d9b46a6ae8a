package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// The HTTP+SSE transport of 2024-11-05 towards upstreams. A session is a connection that this process holds.

// oldConns are the open connections, by owner and app.
type oldConns struct {
	mu   sync.Mutex
	open map[[2]string]*oldConn
}

func newOldConns() *oldConns { return &oldConns{open: map[[2]string]*oldConn{}} }

func (o *oldConns) get(owner, app string) *oldConn {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.open[[2]string{owner, app}]
}

func (o *oldConns) put(owner, app string, c *oldConn) {
	o.mu.Lock()
	before := o.open[[2]string{owner, app}]
	o.open[[2]string{owner, app}] = c
	o.mu.Unlock()
	if before != nil {
		before.close()
	}
}

// drop forgets c, unless another has taken its place.
func (o *oldConns) drop(owner, app string, c *oldConn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[[2]string{owner, app}] == c {
		delete(o.open, [2]string{owner, app})
	}
}

// closeID closes the connection with this id, and reports whether there was one.
func (o *oldConns) closeID(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.open {
		if c.id == id {
			c.close()
			return true
		}
	}
	return false
}

// oldConn is one connection: a stream on which everything comes, and an address to which everything is posted.
type oldConn struct {
	id      string
	version string
	offers  offers

	client *client
	leg    leg    // of posts
	path   string // where to post
	close  context.CancelFunc
	other  func(*oldConn, mcpparse.Event, mcpparse.Message) // takes what answers no exchange

	mu        sync.Mutex
	token     string        // that it was last shown
	exchanges []*exchanging // under way, the newest last
	ended     bool
}

// exchanging is one request under way.
type exchanging struct {
	id     []byte
	events chan mcpparse.Event
}

const maxEndpoint = 2048

var errEndpoint = fmt.Errorf("%w: no address of its own origin to post to", errBadAnswer)

// connect opens a connection in the name of an agent and does the handshake. It is kept until the upstream, or its owner,
// ends it.
func (h *Hub) connect(ctx context.Context, u *upstream, owner string, agent session.Session, token string) (*oldConn, error) {
	if c := h.conns.get(owner, u.name); c != nil {
		return c, nil
	}
	life, cancel := context.WithCancel(h.life)
	c := &oldConn{id: session.NewID(), client: h.client, close: cancel, other: h.fromOld(u, owner, agent)}
	c.leg = leg{route: authz.EndpointRoute(u.route), era: mcpparse.EraLegacy}
	ready := make(chan error, 1)
	h.work.Go(func() {
		defer cancel()
		c.read(life, leg{route: u.route, era: mcpparse.EraLegacy, token: token}, u.base, ready)
		h.conns.drop(owner, u.name, c)
	})
	var err error
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errUnreachable, ctx.Err())
	}
	if err == nil {
		err = c.shake(ctx, agent, token)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	h.conns.put(owner, u.name, c)
	if c.over() { // in the meantime: it was dropped before it was there to be
		h.conns.drop(owner, u.name, c)
		return nil, fmt.Errorf("%w: the connection has ended", errUnreachable)
	}
	return c, nil
}

// read reads the stream to its end.
func (c *oldConn) read(ctx context.Context, l leg, base *url.URL, ready chan<- error) {
	defer c.end()
	resp, err := c.client.stream(ctx, l, "")
	if err != nil {
		ready <- err
		return
	}
	defer resp.Body.Close()
	told := false
	err = eachEvent(resp.Body, func(ev mcpparse.Event) error {
		if ev.Type != "endpoint" {
			return c.received(ev)
		}
		if told { // it says so once; later it would lead our messages elsewhere
			return nil
		}
		told = true
		if c.path, err = endpoint(base, string(ev.Data)); err != nil {
			return err
		}
		ready <- nil
		return nil
	})
	if !told || errors.Is(err, errEndpoint) {
		ready <- errEndpoint
	}
}

// endpoint resolves the address that an upstream wants messages posted to. It must be of the same origin.
func endpoint(base *url.URL, text string) (string, error) {
	if len(text) > maxEndpoint {
		return "", errEndpoint
	}
	at, err := base.Parse(text)
	if err != nil || at.Scheme != base.Scheme || at.Host != base.Host || at.User != nil {
		return "", errEndpoint
	}
	return at.RequestURI(), nil
}

func (c *oldConn) shake(ctx context.Context, agent session.Session, token string) error {
	result, err := c.call(ctx, c.client.newID(), "initialize", c.client.hello(agent), token)
	if err != nil {
		return err
	}
	c.version, _ = mcpparse.Text(mcpparse.Member(result, "protocolVersion"))
	if !mcpparse.Served(mcpparse.EraLegacy, c.version) {
		return fmt.Errorf("%w: it agreed on a version that nobody offered", errBadAnswer)
	}
	c.offers = readOffers(result)
	return c.post(ctx, envelope(nil, "notifications/initialized", nil), token)
}

// post sends a message. The answer to it, if any, comes on the stream.
func (c *oldConn) post(ctx context.Context, body []byte, token string) error {
	l := c.leg
	l.token = token
	c.mu.Lock()
	c.token = token
	c.mu.Unlock()
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	resp, err := c.client.sendTo(ctx, c.path, http.MethodPost, l, body, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return statusError(resp.StatusCode)
}

// call sends a request of our own and returns its result.
func (c *oldConn) call(ctx context.Context, id []byte, method string, params []byte, token string) (result []byte, err error) {
	err = c.exchange(ctx, id, envelope(id, method, params), token, func(ev mcpparse.Event) (bool, error) {
		m, err := parseEvent(ev)
		if err != nil || m.Kind != mcpparse.Response {
			return false, err
		}
		result, err = resultOf(m, id)
		return true, err
	})
	return result, err
}

// exchange sends a request and hands over what comes of it, until each says that it was the answer.
func (c *oldConn) exchange(ctx context.Context, id, body []byte, token string, each func(mcpparse.Event) (bool, error)) error {
	x := &exchanging{id: id, events: make(chan mcpparse.Event, 16)}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return fmt.Errorf("%w: the connection has ended", errUnreachable)
	}
	c.exchanges = append(c.exchanges, x)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.exchanges = slices.DeleteFunc(c.exchanges, func(o *exchanging) bool { return o == x })
	}()
	if err := c.post(ctx, body, token); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev, ok := <-x.events:
			if !ok {
				return fmt.Errorf("%w: the connection has ended", errUnreachable)
			}
			if done, err := each(ev); done || err != nil {
				return err
			}
		}
	}
}

// received brings a message to the exchange that it belongs to.
func (c *oldConn) received(ev mcpparse.Event) error {
	m, err := parseEvent(ev)
	if err != nil || m.Kind == 0 {
		return err
	}
	c.mu.Lock()
	var to *exchanging
	for _, x := range slices.Backward(c.exchanges) {
		if m.Kind == mcpparse.Response && mcpparse.SameToken(m.ID, x.id) || m.Method == "notifications/progress" {
			to = x
			break
		}
	}
	c.mu.Unlock()
	if to == nil {
		c.other(c, ev, m)
		return nil
	}
	return c.give(to, ev, m.Kind == mcpparse.Response)
}

// latest hands what belongs to no exchange to the newest one, and reports whether there was one.
func (c *oldConn) latest(ev mcpparse.Event) bool {
	c.mu.Lock()
	n := len(c.exchanges)
	var to *exchanging
	if n > 0 {
		to = c.exchanges[n-1]
	}
	c.mu.Unlock()
	return to != nil && c.give(to, ev, false) == nil
}

func (c *oldConn) give(to *exchanging, ev mcpparse.Event, isAnswer bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended {
		select {
		case to.events <- ev:
			return nil
		default: // nobody reads: what is not taken must not hold up the others
		}
		if !isAnswer {
			return nil
		}
		select {
		case <-to.events: // the answer takes the place of older news
		default:
		}
	}
	return nil
}

func (c *oldConn) lastToken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

func (c *oldConn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// end lets those who wait know that nothing will come any more.
func (c *oldConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, x := range c.exchanges {
		close(x.events)
	}
}

// fromOld takes what an upstream says outside of exchanges: news of its lists to the hub, a request to the call that is
// under way, the rest to the agent's stream, and either there if the other is missing. A request is most likely about that
// call, and a client may not be able to answer before something has come of its call: Python's is not, with a token.
func (h *Hub) fromOld(u *upstream, owner string, agent session.Session) func(*oldConn, mcpparse.Event, mcpparse.Message) {
	return func(c *oldConn, ev mcpparse.Event, m mcpparse.Message) {
		switch i := h.boxes.top(owner); {
		case isListChanged(m):
			h.stale(u)
		case m.Kind == mcpparse.Request && m.Method == "ping":
			h.work.Go(func() {
				ctx, cancel := context.WithTimeout(h.life, passDeadline)
				defer cancel()
				_ = c.post(ctx, mcpparse.ResultBody(m.ID, []byte("{}")), c.lastToken())
			})
		case m.Kind == mcpparse.Request && c.latest(ev):
		case i != nil:
			relay := &session.Relay{Sealer: h.cfg.Sessions, Session: agent, App: u.name, Leg: c.id, Stream: session.StreamEvent}
			_ = i.pass(relay)(ev)
		default:
			c.latest(ev)
		}
	}
}

// exchangeOld is exchange over the 2024-11-05 transport.
func (k *carry) exchangeOld(ctx context.Context, id, body []byte, each func(mcpparse.Event) (bool, error)) error {
	conn := k.h.conns.get(k.owner(), k.app.Name)
	if conn == nil || conn.id != k.ticket.Leg.SessionID {
		return fmt.Errorf("%w: the connection is gone", errLost)
	}
	return conn.exchange(ctx, id, body, k.ticket.Token, each)
}
