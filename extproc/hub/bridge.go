package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/session"
	"github.com/sallyport/sallyport/mcpparse"
)

// Bridges between the eras (versioning, "Backward Compatibility"). Bytes that neither era's rules touch stay as they are.

// modernToLegacy carries a stateless call into a session. The session is the principal's, so ids and progress tokens,
// which agents choose as they like, are replaced by ours on the way, and put back on the way home. Nothing here could
// answer a server's own requests: the session declared no capabilities, and what is asked anyway is refused.
func (k *carry) modernToLegacy(ctx context.Context) error {
	id := k.h.client.newID()
	edits := append(k.m.DropParams("task", "inputResponses", "requestState"), k.m.SetID(id))
	edits = append(edits, k.m.DropModernMeta()...) // with the capabilities goes what they say of tasks
	edits = k.renamed(edits)
	if k.m.ProgressToken != nil {
		edits = append(edits, k.m.SetProgressToken(id))
	}
	level, _ := mcpparse.Text(k.metaLevel())
	err := k.exchange(ctx, id, k.m.Splice(edits...), nil, func(ev mcpparse.Event) (bool, error) {
		m, err := parseEvent(ev)
		if err != nil || m.Kind == 0 {
			return false, err
		}
		switch {
		case m.Kind == mcpparse.Response && bytes.Equal(m.ID, id):
			k.out.last(mcpparse.Event{HasData: true, Data: k.modernAnswer(m)})
			return true, nil
		case m.Kind == mcpparse.Request:
			k.refuseRequest(ctx, m)
		case m.Method == "notifications/progress" && k.m.ProgressToken != nil && bytes.Equal(m.ProgressToken, id):
			_ = k.out.event(mcpparse.Event{HasData: true, Data: m.Splice(m.SetProgressToken(k.m.ProgressToken))})
		case m.Method == "notifications/message" && atLeast(m, level):
			_ = k.out.event(mcpparse.Event{HasData: true, Data: m.Raw()})
		}
		return false, nil
	})
	if ctx.Err() != nil { // to leave is to cancel (2026-07-28, cancellation)
		k.cancelAt(ctx, id)
	}
	return err
}

// parseEvent reads the message of an event; the zero Message is none.
func parseEvent(ev mcpparse.Event) (mcpparse.Message, error) {
	if len(ev.Data) == 0 || ev.Type != "" && ev.Type != "message" {
		return mcpparse.Message{}, nil
	}
	m, err := mcpparse.ParseUpstream(ev.Data)
	if err != nil {
		return m, fmt.Errorf("%w: %w", session.ErrLie, err)
	}
	return m, nil
}

func (k *carry) metaLevel() []byte {
	return mcpparse.Member(k.m.Param("_meta"), "io.modelcontextprotocol/logLevel")
}

// atLeast reports whether a log message is of a level that the request asked for; without one it asked for none.
func atLeast(m mcpparse.Message, level string) bool {
	have, _ := mcpparse.Text(m.Param("level"))
	at, from := slices.Index(levels, have), slices.Index(levels, level)
	return from >= 0 && at >= from
}

// modernAnswer is a legacy response in the words of 2026-07-28.
func (k *carry) modernAnswer(m mcpparse.Message) []byte {
	if m.Failure != nil {
		return k.modernFailure(m.Failure)
	}
	result := mcpparse.WithMember(m.Result, "resultType", []byte(`"complete"`)) // whatever it says: a legacy one has no other
	if k.m.Method == "resources/read" {
		result = mcpparse.WithMember(result, "ttlMs", []byte("0"))
		result = mcpparse.WithMember(result, "cacheScope", []byte(`"private"`))
	}
	return mcpparse.ResultBody(k.m.ID, result)
}

func (k *carry) modernFailure(failure []byte) []byte {
	switch string(mcpparse.Member(failure, "code")) {
	case "-32002": // resource not found
		failure = mcpparse.WithMember(failure, "code", []byte("-32602"))
	case "-32042": // the user has to open an address first
		return k.urlElicitation(failure)
	}
	return mcpparse.FailureBody(k.m.ID, failure)
}

// urlElicitation turns the error with which a legacy server wants addresses opened into input_required. The agent sends
// the call again when that is done, and the server, which remembers by itself, lets it through.
func (k *carry) urlElicitation(failure []byte) []byte {
	var data struct {
		Elicitations []struct {
			ID      string `json:"elicitationId"`
			URL     string `json:"url"`
			Message string `json:"message"`
		} `json:"elicitations"`
	}
	agent := session.ReadCapabilities(mcpparse.Member(k.m.Param("_meta"), "io.modelcontextprotocol/clientCapabilities"))
	err := json.Unmarshal(mcpparse.Member(failure, "data"), &data)
	if err != nil || len(data.Elicitations) == 0 || !agent.Has(session.ElicitationURL) {
		return mcpparse.ErrorBody(k.m.ID, mcpparse.CodeInternal, "this call needs an address to be opened, which the client did not say it can do", nil)
	}
	requests := map[string]any{}
	for _, e := range data.Elicitations {
		requests[e.ID] = map[string]any{"method": "elicitation/create", "params": map[string]string{
			"mode": "url", "elicitationId": e.ID, "url": e.URL, "message": e.Message}}
	}
	return mcpparse.ResultBody(k.m.ID, encode(map[string]any{"resultType": "input_required", "inputRequests": requests}))
}

// refuseRequest answers what an upstream asked although nobody said that it could be answered; a ping is answered.
func (k *carry) refuseRequest(ctx context.Context, m mcpparse.Message) {
	body := mcpparse.ErrorBody(m.ID, mcpparse.CodeMethodNotFound, "method not found", nil)
	if m.Method == "ping" {
		body = mcpparse.ResultBody(m.ID, []byte("{}"))
	}
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	if err := k.h.say(ctx, k.owner(), k.u, k.session(), k.ticket.Token, body); err != nil {
		k.h.cfg.Log.Debug("an upstream's request could not be refused", "app", k.app.Name, "error", err)
	}
}

// session is the upstream session of a legacy leg.
func (k *carry) session() UpstreamSession {
	return UpstreamSession{App: k.app.Name, Route: k.u.route, ID: k.ticket.Leg.SessionID, Version: k.ticket.Leg.Version}
}

// cancelAt tells a legacy upstream that a request of ours is not wanted any more.
func (k *carry) cancelAt(ctx context.Context, id []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), passDeadline)
	defer cancel()
	body := envelope(nil, "notifications/cancelled", encode(map[string]json.RawMessage{"requestId": id}))
	if err := k.h.say(ctx, k.owner(), k.u, k.session(), k.ticket.Token, body); err != nil {
		k.h.cfg.Log.Debug("an upstream could not be told of a cancellation", "app", k.app.Name, "error", err)
	}
}

const maxRounds = 8 // of questions that an upstream may ask before it answers one call

var errRounds = errors.New("the upstream asks and asks")

// toModern carries a session's call to a stateless upstream. What that wants to know in between (input_required) becomes
// requests to the agent on the call's own stream, and the call is sent again with the answers, judged anew each time.
func (k *carry) toModern(ctx context.Context) error {
	agent := k.h.agentOf(ctx, k.s)
	var added further
	for round := 0; ; round++ {
		id := k.m.ID
		if round > 0 {
			id = k.h.client.newID() // a call that is sent again has another id (2026-07-28, MRTR)
		}
		answer, err := k.round(ctx, agent, id, added)
		if err != nil {
			return err
		}
		if kind, _ := mcpparse.Text(mcpparse.Member(answer.Result, "resultType")); kind != "input_required" {
			k.out.last(mcpparse.Event{HasData: true, Data: k.legacyAnswer(answer)})
			return nil
		}
		if k.m.Method == "completion/complete" { // which may not ask (2026-07-28, MRTR)
			return errQuestions
		}
		if round == maxRounds {
			return errRounds
		}
		if added.responses, err = k.askAgent(ctx, agent, mcpparse.Member(answer.Result, "inputRequests")); err != nil {
			return err
		}
		added.state = mcpparse.Member(answer.Result, "requestState")
		if added.responses == nil && added.state == nil { // it wants nothing
			return errQuestions
		}
		begun := k.h.cfg.Now()
		ticket, refusal := k.c.gate.Again(ctx, k.c.req, k.s, k.m.Raw())
		if refusal != nil {
			k.out.refuse(*refusal)
			k.completed(ticket.Call, begun, audit.Refused)
			return nil
		}
		defer k.completed(ticket.Call, begun, audit.OK)
		if ticket.Route != k.app.Route {
			return errMoved
		}
		k.ticket = ticket
	}
}

// further is what a further round adds to the call.
type further struct{ responses, state []byte }

// round sends the call once, with this id, and returns the response.
func (k *carry) round(ctx context.Context, agent session.Session, id []byte, added further) (answer mcpparse.Message, err error) {
	edits := append(k.m.DropParams("task", "inputResponses", "requestState"), k.m.SetID(id))
	edits = k.renamed(edits)
	for name, value := range map[string][]byte{"inputResponses": added.responses, "requestState": added.state} {
		if value != nil {
			edits = append(edits, k.m.AddParam(name, value))
		}
	}
	edits = append(edits, k.m.AddModernMeta(k.ticket.Leg.Version, agent.Capabilities.JSON())...)
	err = k.exchange(ctx, id, k.m.Splice(edits...), k.mirrors(), func(ev mcpparse.Event) (bool, error) {
		m, err := parseEvent(ev)
		switch {
		case err != nil:
			return false, err
		case m.Kind == mcpparse.Response && mcpparse.SameToken(m.ID, id):
			answer = m
			return true, nil
		case m.Kind == mcpparse.Notification && (m.Method == "notifications/progress" || m.Method == "notifications/message"):
			_ = k.out.event(mcpparse.Event{HasData: true, Data: m.Raw()})
		}
		return false, nil
	})
	return answer, err
}

// mirrors are the headers in which a modern request repeats what its body says.
func (k *carry) mirrors() http.Header {
	header := http.Header{}
	if mcpparse.MirrorsName(k.m.Method) {
		header.Set("Mcp-Name", mcpparse.EncodeHeader(k.ticket.Name))
	}
	if tool, ok := k.u.find(mcpparse.Tool, k.ticket.Name); ok && k.m.Method == "tools/call" {
		for _, p := range tool.params {
			if value, ok := p.Value(k.m.Arguments); ok {
				header[p.Header] = []string{value}
			}
		}
	}
	return header
}

// legacyAnswer is a modern response without the words that are new in it.
func (k *carry) legacyAnswer(m mcpparse.Message) []byte {
	if m.Failure != nil {
		return mcpparse.FailureBody(k.m.ID, m.Failure)
	}
	return mcpparse.ResultBody(k.m.ID, mcpparse.WithoutMembers(m.Result, "resultType", "ttlMs", "cacheScope"))
}

// ownRequest stands, in sealed names, for the upstream session of requests that we send in the name of a modern upstream.
const ownRequest = "asked by the gateway"

const maxQuestions = 32 // at once

var (
	errQuestions = fmt.Errorf("%w: it asks what cannot be asked", errBadAnswer)
	errAgent     = errors.New("the agent could not answer what the upstream wanted to know")
)

// askAgent sends the agent what an upstream wants to know, and waits for all the answers.
func (k *carry) askAgent(ctx context.Context, agent session.Session, requests []byte) ([]byte, error) {
	answers := make(chan json.RawMessage, maxQuestions)
	waiting := map[string]string{} // what the agent answers to: the key of the question
	base := string(k.h.client.newID())
	stop, err := k.h.hear(ctx, k.s.ID, func(n note) {
		if strings.HasPrefix(n.Waiter, base+"/") && n.Answer != nil {
			select {
			case answers <- n.Answer:
			default: // more answers than questions
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	var messages [][]byte
	for key, request := range mcpparse.Members(requests) {
		method, _ := mcpparse.Text(mcpparse.Member(request, "method"))
		params := mcpparse.Member(request, "params")
		if !agent.Capabilities.Allows(method, params) || method == "ping" || len(waiting) == maxQuestions {
			return nil, errQuestions
		}
		waiter := fmt.Sprintf("%s/%d", base, len(waiting))
		waiting[waiter] = key
		id := k.h.cfg.Sessions.SealName(k.s.ID, session.Name{Kind: session.RequestID, App: session.TagOf(k.app.Name),
			Leg: session.TagOf(ownRequest), Raw: []byte(waiter)})
		messages = append(messages, envelope([]byte(`"`+id+`"`), method, params))
	}
	if len(messages) == 0 { // requestState alone: it only wants to be asked again
		return nil, nil
	}
	for _, message := range messages {
		if err := k.out.event(mcpparse.Event{HasData: true, Data: message}); err != nil {
			return nil, err
		}
	}
	return k.collectAnswers(ctx, waiting, answers)
}

func (k *carry) collectAnswers(ctx context.Context, waiting map[string]string, answers <-chan json.RawMessage) ([]byte, error) {
	responses := []byte("{}")
	for len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case body := <-answers:
			m, err := mcpparse.Parse(body)
			if err != nil || m.Result == nil {
				return nil, errAgent
			}
			text, _ := mcpparse.Text(m.ID)
			name, err := k.h.cfg.Sessions.OpenName(k.s.ID, session.RequestID, text)
			if key, ours := waiting[string(name.Raw)]; err == nil && ours {
				delete(waiting, string(name.Raw))
				responses = mcpparse.WithMember(responses, key, m.Result)
			}
		}
	}
	return responses, nil
}
