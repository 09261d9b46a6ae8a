package extproc

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/authz"
)

// phase is what a stream waits for.
type phase uint8

const (
	wantHeaders  phase = iota // the request's headers, always the first message
	wantBody                  // the whole body, or a response that Envoy made itself (413)
	wantResponse              // the response's headers, asked for by Verdict.Watch
	wantChunk                 // a chunk of the response's body, asked for by Answer
	done                      // the last answer has been given
)

// What a stream may be told.
type (
	headersEvent struct {
		request authz.Request
		mode    mode
	}
	bodyEvent struct {
		body []byte // the whole, or, when the host sends it as it comes, the next part
		end  bool   // the last part
	}
	trailersEvent struct{} // after the last part
	responseEvent struct {
		status int
		header authz.Header
		end    bool // there is no body
	}
	chunkEvent struct {
		chunk []byte
		end   bool
	}
	unknownEvent struct{} // trailers, or a message that Envoy learnt after us
)

// mode is how the host's filter is configured, as its first message says.
type mode uint8

const (
	modeUnknown  mode = iota
	modeBuffered      // the whole body in one message, and our answer decides
	modeDuplex        // the body as it comes; nothing goes on before we give it back
	modeIgnored       // observability mode: our answer is thrown away
	modeUnsafe        // a part of the body, or none, or a decision that comes too late
)

// action is the answer to one event. Exactly one of its parts is set.
type action struct {
	proceed bool           // the headers may wait for the body; nothing is decided
	silent  bool           // nothing is said yet
	verdict *authz.Verdict // final word on the request, said in answer to the headers or to the body
	pass    bool           // the response goes on as it is
	relay   bool           // the response's headers go on, and its body comes here chunk by chunk
	chunk   []byte         // what the agent gets of the response's body in place of a chunk
	reply   *authz.Reply   // the response is replaced
	again   bool           // … by the upstream's own answer to the same call

	body     []byte // in modeDuplex: what goes on in place of the body that came
	duplex   bool   // … where it has to be given back
	trailers bool   // … and trailers after it

	answers phase  // which message this answers: the phase in which it came
	callID  string // for the access log, before the verdict carries it
	last    bool   // nothing is answered after this
}

var (
	errOrder   = errors.New("ext_proc message out of order")
	errIgnored = errors.New("ext_proc filter is in observability_mode: verdicts would be ignored; remove observability_mode")
	errVerdict = errors.New("the gate gave no verdict")
)

// gate is what the machine asks; *authz.Gate in earnest.
type gate interface {
	Begin(ctx context.Context, r authz.Request) (*authz.Call, authz.Verdict)
}

// machine is the life of one stream: one event in, one action out, in one legal order. After an error it answers
// nothing more, and the stream must end with that error.
type machine struct {
	gate   gate
	phase  phase
	call   *authz.Call
	duplex bool
	body   []byte   // in modeDuplex: as much as has come
	answer rewriter // of the response's body
}

// rewriter turns the chunks of a response's body into what the agent gets. After an error the stream is cut.
type rewriter interface {
	rewrite(chunk []byte, end bool) ([]byte, error)
}

// step answers one event.
func (m *machine) step(ctx context.Context, ev any) (action, error) {
	a, err := m.next(ctx, ev)
	if err == nil && a.verdict != nil && a.verdict.Reply == nil && !a.verdict.Forwards() {
		err = errVerdict
	}
	if err != nil {
		m.abort(err.Error())
		return action{}, err
	}
	if a.last {
		m.phase = done
	}
	return a, nil
}

func (m *machine) next(ctx context.Context, ev any) (action, error) {
	switch ev := ev.(type) {
	case headersEvent:
		if m.phase == wantHeaders {
			return m.headers(ctx, ev)
		}
	case bodyEvent:
		if m.phase == wantBody {
			return m.received(ctx, ev), nil
		}
	case trailersEvent:
		if m.phase == wantBody && m.duplex {
			a := m.judge(ctx, m.body)
			a.trailers = true
			return a, nil
		}
	case responseEvent:
		switch m.phase {
		case wantHeaders, wantBody: // Envoy answered by itself, an upgrade or a body over its limit: the request is over
			if m.call != nil {
				m.call.Answered(ev.status)
				m.call = nil
			}
			return action{pass: true, answers: wantResponse, last: true}, nil
		case wantResponse:
			return m.response(ctx, ev), nil
		}
	case chunkEvent:
		if m.phase == wantChunk {
			return m.chunk(ev)
		}
	}
	return action{}, errOrder
}

func (m *machine) headers(ctx context.Context, ev headersEvent) (action, error) {
	switch ev.mode {
	case modeBuffered:
	case modeDuplex: // overrides of the mode are ignored, so no answer can be rewritten
		m.duplex, ev.request.HidesAnswer = true, true
	case modeIgnored:
		return action{}, errIgnored
	default:
		return action{verdict: &unsafe, answers: wantHeaders, last: true}, nil
	}
	call, verdict := m.gate.Begin(ctx, ev.request)
	if call == nil {
		return action{verdict: &verdict, answers: wantHeaders, last: true}, nil
	}
	m.call, m.phase = call, wantBody
	if m.duplex {
		return action{silent: true}, nil
	}
	return action{proceed: true, answers: wantHeaders, callID: verdict.ID}, nil
}

// received judges a body that is there, or longer than any that could be allowed.
func (m *machine) received(ctx context.Context, ev bodyEvent) action {
	if !m.duplex {
		return m.judge(ctx, ev.body)
	}
	m.body = append(m.body, ev.body...)
	if !ev.end && int64(len(m.body)) <= m.call.MaxBody() {
		return action{silent: true}
	}
	return m.judge(ctx, m.body)
}

func (m *machine) judge(ctx context.Context, body []byte) action {
	call := m.call
	m.call = nil // from here on the call has its record
	verdict := call.Finish(ctx, body)
	a := action{verdict: &verdict, answers: wantBody, last: true}
	if m.duplex {
		a.duplex, a.body = true, body
		if verdict.Body != nil {
			a.body = verdict.Body
		}
		return a
	}
	if verdict.Forwards() && verdict.Watch {
		m.call, m.phase, a.last = call, wantResponse, false
	}
	return a
}

func (m *machine) response(ctx context.Context, ev responseEvent) action {
	switch answer := m.call.Response(ctx, ev.status, ev.header, ev.end); {
	case answer.Reply != nil:
		return action{answers: wantResponse, last: true, reply: answer.Reply, again: answer.Again}
	case answer.Relay != nil:
		m.answer, m.phase = newRelay(m.call, answer.Relay), wantChunk
	case answer.Private:
		m.answer, m.phase = newPrivate(answer.Events), wantChunk
	default:
		return action{answers: wantResponse, last: true, pass: true}
	}
	return action{answers: wantResponse, relay: true}
}
func (m *machine) chunk(ev chunkEvent) (action, error) {
	out, err := m.answer.rewrite(ev.chunk, ev.end)
	return action{answers: wantChunk, chunk: out, last: ev.end}, err
}

// abort ends a stream that will get no verdict any more, and lets the audit know.
func (m *machine) abort(reason string) {
	if m.phase == wantBody && m.call != nil {
		m.call.Abort(reason)
	}
	m.call, m.phase = nil, done
}

// unsafe answers a filter whose settings would let a request pass unjudged.
var unsafe = authz.Verdict{Reply: &authz.Reply{
	Status: 503,
	Header: [][2]string{{"content-type", "application/json"}, {"cache-control", "no-store"}},
	Body:   []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the gateway's Envoy filter is not configured safely"}}`),
}}
