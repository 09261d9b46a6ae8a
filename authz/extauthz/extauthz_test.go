package extauthz

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/authz"
)

func check(body string, fields ...string) *authv3.CheckRequest {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(fields); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: fields[i], RawValue: []byte(fields[i+1])})
	}
	http := &authv3.AttributeContext_HttpRequest{Method: "POST", Path: "/mcp?a=b", Host: "h:1", Scheme: "http", HeaderMap: m, RawBody: []byte(body)}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}}
}

func TestQuestion(t *testing.T) {
	for _, test := range []struct {
		name  string
		m     *authv3.CheckRequest
		fault string
		end   bool
	}{
		{"whole", check("{}", "content-length", "2"), "", false},
		{"in chunks", check("{}", "transfer-encoding", "chunked"), "", false},
		{"no length, no body", check(""), "", true},
		{"length zero", check("", "content-length", "0"), "", true},
		{"announced and not sent", check("", "content-length", "2"), "set with_request_body:", false},
		{"chunked and not sent", check("", "transfer-encoding", "chunked"), "set with_request_body:", false},
		{"said to be partial", check("{", partialHeader, "true"), "allow_partial_message", false},
		{"said to be whole", check("{}", partialHeader, "false"), "", false},
		{"shorter than announced", check("{", "content-length", "2"), "allow_partial_message", false},
	} {
		q, err := decode(test.m)
		if err != nil || !strings.Contains(q.fault, test.fault) || (q.fault == "") != (test.fault == "") || q.request.EndOfStream != test.end {
			t.Errorf("%s: %+v, %v", test.name, q, err)
		}
		if !q.request.KeepsBody || !q.request.HidesAnswer || q.request.Path != "/mcp" || q.request.RawQuery != "a=b" || q.request.Host != "h:1" || len(q.request.Header[partialHeader]) > 0 {
			t.Errorf("%s: %+v", test.name, q.request)
		}
	}
	text := check("", "content-length", "2")
	text.Attributes.Request.Http.Body = "{}"
	if q, err := decode(text); err != nil || !strings.Contains(q.fault, "pack_as_bytes") {
		t.Errorf("%+v, %v", q, err)
	}
	if _, err := decode(check("{}", ":path", "/a", ":path", "/b")); err == nil {
		t.Error("two paths")
	}
	if _, err := decode(&authv3.CheckRequest{}); err == nil {
		t.Error("nothing at all")
	}
	joined := check("{}")
	joined.Attributes.Request.Http.HeaderMap = nil
	joined.Attributes.Request.Http.Headers = map[string]string{":path": "/x", "a": "1,2"}
	if q, err := decode(joined); err != nil || q.request.Path != "/x" || !slices.Equal(q.request.Header["a"], []string{"1,2"}) {
		t.Errorf("%+v, %v", q, err)
	}
}

// Nothing but a verdict that forwards, and that ext_authz can carry out, is a yes.
func TestAnswer(t *testing.T) {
	for _, test := range []struct {
		name    string
		verdict authz.Verdict
		err     bool
		code    codes.Code
	}{
		{"the zero verdict", authz.Verdict{}, true, 0},
		{"a changed body", authz.Verdict{Route: "r", Body: []byte("x")}, true, 0},
		{"a watched answer", authz.Verdict{Route: "r", Watch: true}, true, 0},
		{"a reply", authz.Verdict{Reply: &authz.Reply{Status: 200}}, false, codes.PermissionDenied},
		{"a reply and a route", authz.Verdict{Route: "r", Reply: &authz.Reply{Status: 401}}, false, codes.PermissionDenied},
		{"forward", authz.Verdict{Route: "r", Remove: []string{"authorization", "cookie"},
			Set: [][2]string{{":path", "/mcp"}, {"authorization", "Bearer x"}}}, false, codes.OK},
	} {
		resp, err := encode(&test.verdict)
		if (err != nil) != test.err {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if err == nil && codes.Code(resp.GetStatus().GetCode()) != test.code {
			t.Errorf("%s: %v", test.name, resp)
		}
		if decided := resp.GetDynamicMetadata().GetFields()["decided"].GetBoolValue(); decided != (err == nil && test.code == codes.OK) {
			t.Errorf("%s: decided %v", test.name, decided)
		}
		if ok := resp.GetOkResponse(); ok != nil && (!slices.Equal(ok.HeadersToRemove, []string{"cookie"}) || len(ok.Headers) != 1 || ok.Headers[0].Header.Value != "Bearer x") {
			t.Errorf("%s: %v", test.name, ok)
		}
	}
}

func TestNotReady(t *testing.T) {
	if _, err := NewServer(slog.New(slog.DiscardHandler)).Check(t.Context(), check("{}")); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}
