package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// Which eras an upstream speaks is found out by asking.

// speaks returns the eras of u, probing when they are not known. After a failure it fails at once until it is time
// to try again.
func (h *Hub) speaks(ctx context.Context, u *upstream) (eras, error) {
	e, settled := u.speaks(h.cfg.Now())
	switch {
	case e.known():
		return e, nil
	case settled:
		return eras{}, fmt.Errorf("%w: %s failed a moment ago", ErrUnavailable, u.name)
	}
	limit := probeDeadline + handshakeDeadline
	if h.protected(u) {
		limit += tokenDeadline
	}
	return once(ctx, h, u.key("probe"), limit, func(ctx context.Context) (eras, error) {
		if e, _ := u.speaks(h.cfg.Now()); e.known() {
			return e, nil // found while this was waiting its turn
		}
		e, o, err := h.probe(ctx, u)
		u.probed(e, o, err, h.cfg.Now())
		switch {
		case isVague(err):
			return u.either(), nil
		case err != nil:
			return eras{}, fmt.Errorf("%w: probe %s: %w", ErrUnavailable, u.name, err)
		}
		return e, nil
	})
}

// probe asks an upstream for its era, and once more with a token if it wants one that it has not been shown.
func (h *Hub) probe(ctx context.Context, u *upstream) (eras, offers, error) {
	e, o, err := h.probeOnce(ctx, u)
	if !errors.Is(err, errGuarded) {
		return e, o, err
	}
	if !h.protected(u) && !u.old {
		// It shows strangers nothing, and we are no more than that.
		return u.either(), offers{tools: true}, nil
	}
	if h.demand(u) {
		turnedDown := err
		if e, o, err = h.probeOnce(ctx, u); errors.Is(err, errNoToken) {
			err = fmt.Errorf("%w, and there is %w", turnedDown, err)
		}
	}
	return e, o, err
}

// probeOnce asks with discover first, and, for any answer that is not a modern server's, with initialize (versioning,
// "Backward Compatibility").
func (h *Hub) probeOnce(ctx context.Context, u *upstream) (eras, offers, error) {
	token, err := h.credential(ctx, u)
	if err != nil {
		return eras{}, offers{}, err
	}
	if u.old {
		conn, err := h.connect(ctx, u, hubOwner(u), session.Session{}, token)
		if err != nil {
			return eras{}, offers{}, err
		}
		return eras{legacy: true}, conn.offers, nil
	}
	var discoverErr error
	if u.fixed != mcpparse.EraLegacy {
		var e eras
		var o offers
		e, o, discoverErr = h.askVersions(ctx, u, token)
		e.legacy = e.legacy && u.fixed == mcpparse.EraUnknown
		if discoverErr == nil && !e.modern && u.fixed == mcpparse.EraModern {
			discoverErr = fmt.Errorf("%w: it does not speak %s", errRefused, mcpparse.LatestModern)
		}
		if e.modern || u.fixed == mcpparse.EraModern || errors.Is(discoverErr, errUnreachable) {
			return e, o, discoverErr
		}
	}
	s, o, err := h.handshake(ctx, u, session.Session{}, token)
	if err != nil {
		return eras{}, offers{}, err
	}
	u.keepOwn(s)
	return eras{legacy: true}, o, nil
}

// askVersions asks once more when the question's own version is refused, and named among those that are not: to go on with
// initialize would be wrong, as only modern servers know that refusal.
func (h *Hub) askVersions(ctx context.Context, u *upstream, token string) (eras, offers, error) {
	ctx, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	l := leg{route: u.route, era: mcpparse.EraModern, version: mcpparse.LatestModern, token: token}
	a, err := h.client.call(ctx, l, "server/discover", nil)
	var other *otherVersions
	if errors.As(err, &other) && slices.Contains(other.supported, l.version) {
		a, err = h.client.call(ctx, l, "server/discover", nil)
	}
	if err != nil {
		return eras{}, offers{}, err
	}
	var e eras
	for _, v := range texts(gjson.GetBytes(a.result, "supportedVersions")) {
		e.modern = e.modern || v == mcpparse.LatestModern
		e.legacy = e.legacy || slices.Contains(negotiated, v)
	}
	e.legacy = e.legacy || e.modern // TypeScript's and Python's servers leave out what begins with initialize; Leg finds out
	return e, readOffers(a.result), nil
}
