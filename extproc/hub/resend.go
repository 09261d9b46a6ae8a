package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// resendDeadline is what Envoy leaves us to answer the headers of a response, less a margin.
const resendDeadline = 8 * time.Second

// Resend sends a call again in a new session, because the upstream knew the one before no more and did nothing. Envoy
// waits for the answer as a whole, so one in which the upstream asks the agent something cannot be had here.
func (h *Hub) Resend(ctx context.Context, app *authz.App, p authz.Peer, lost authz.Leg, call authz.Resent) (*authz.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, resendDeadline)
	defer cancel()
	u := h.upstreamFor(app, p.Caller)
	if err := h.store.RemoveUpstream(ctx, p.Owner, u.name, lost.SessionID); err != nil {
		return nil, err
	}
	s, err := h.openSession(ctx, app, u, p)
	if err != nil {
		return nil, err
	}
	resp, err := h.client.post(ctx, legOf(s, call.Token), "", call.Body, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := statusError(resp.StatusCode); err != nil {
		return nil, err
	}
	body := io.LimitReader(resp.Body, call.Limit)
	contentType := resp.Header.Get("Content-Type")
	if isType(contentType, "text/event-stream") {
		relay := &session.Relay{Sealer: h.cfg.Sessions, Session: p.Session, App: u.name, Leg: s.ID, Stream: session.CallEvent, Wants: call.ID}
		events, err := collect(body, relay)
		return eventReply(events), err
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	m, err := mcpparse.ParseUpstream(text)
	if err != nil || m.Kind != mcpparse.Response || !mcpparse.SameToken(m.ID, call.ID) {
		return nil, fmt.Errorf("%w: not the response to the call", errBadAnswer)
	}
	r := reply(http.StatusOK, text)
	return &r, nil
}

var errAsks = errors.New("the upstream asks the agent something")

// collect reads a stream to its response.
func collect(body io.Reader, relay *session.Relay) ([]byte, error) {
	var out []byte
	for events := mcpparse.NewEventReader(body, session.MaxEventBytes); ; {
		ev, err := events.NextBlock()
		if err != nil {
			return nil, err
		}
		relayed, err := relay.Event(ev)
		switch {
		case err != nil:
			return nil, err
		case relayed.Dropped != "":
			continue
		case relayed.Message.Kind == mcpparse.Request:
			return nil, errAsks
		}
		if out = mcpparse.AppendEvent(out, relayed.Event); relayed.Answers() {
			return out, nil
		}
	}
}

func eventReply(events []byte) *authz.Reply {
	return &authz.Reply{Status: http.StatusOK, Header: eventHeader, Body: events}
}

var eventHeader = [][2]string{{"content-type", "text/event-stream"}, {"cache-control", "no-store"}, {"x-accel-buffering", "no"}}
