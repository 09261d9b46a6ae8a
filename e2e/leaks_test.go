package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Nothing leaks: whatever a test is about, when it has ended its secrets are looked for in all that its gateway said. The
// secrets of a world are those that it configures, each token that its authorization server gave or that a test forged,
// and the sessions of its upstreams; a test adds its own with hide.

// hidden is a secret, and where it may be seen all the same.
type hidden struct {
	what, value string
	at          []string
}

// leaks is what a world knows of its secrets, and of what was said.
type leaks struct {
	mu      sync.Mutex
	secrets []hidden
	said    map[string]*bytes.Buffer // by place
	open    map[string]string        // places where anything may be seen, and why
}

// hide adds a secret that may be seen at these places only.
func (l *leaks) hide(what, value string, at ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if value != "" {
		l.secrets = append(l.secrets, hidden{what, value, at})
	}
}

// tolerate opens a place to all secrets: what the test is about puts them there.
func (l *leaks) tolerate(place, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[place] = why
}

// maxSaid bounds what is kept of one place, in bytes.
const maxSaid = 64 << 20

func (l *leaks) hear(place string, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said[place] == nil {
		l.said[place] = &bytes.Buffer{}
	}
	if l.said[place].Len()+len(text) <= maxSaid {
		l.said[place].Write(text)
	}
}

// forms are the ways in which a secret can be written: as it is, as one half of HTTP Basic, and, of a token, the part
// without which the rest is worth nothing.
func (h hidden) forms() []string {
	out := []string{h.value}
	if parts := strings.Split(h.value, "."); len(parts) == 3 && len(parts[2]) > 40 {
		return []string{parts[2]}
	}
	// The same text begins at one of three places between the characters of base64.
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), h.value...))
		out = append(out, strings.TrimRight(encoded[4:len(encoded)-4], "="))
	}
	return out
}

// maxSought is how many of the first secrets, and of the last, are looked for. A storm has a hundred thousand.
const maxSought = 1000

// leaked are the places where secrets are that should not be there.
func (l *leaks) leaked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	secrets := l.secrets
	if n := len(secrets); n > 2*maxSought {
		secrets = slices.Concat(secrets[:maxSought], secrets[n-maxSought:])
	}
	var out []string
	for place, text := range l.said {
		if l.open[place] != "" {
			continue
		}
		for _, h := range secrets {
			if slices.Contains(h.at, place) {
				continue
			}
			for _, form := range h.forms() {
				if at := bytes.Index(text.Bytes(), []byte(form)); at >= 0 {
					from, to := max(0, at-200), min(text.Len(), at+len(form)+100)
					out = append(out, fmt.Sprintf("%s is at %s: …%s…", h.what, place, text.Bytes()[from:to]))
				}
			}
		}
	}
	return out
}

// worlds are those whose agents' answers are listened to, by the gateway's host:port.
var worlds sync.Map

// watchLeaks makes w's end the time to look for its secrets.
func (w *world) watchLeaks() {
	w.leaks = &leaks{said: map[string]*bytes.Buffer{}, open: map[string]string{}}
	w.provider.leaks, w.items.leaks, w.open.leaks = w.leaks, w.leaks, w.leaks
	w.items.place, w.open.place = "items", "open"
	w.hide("the client secret", gatewaySecret)
	w.hide("the key of the sessions", sessionKey)
	worlds.Store(w.address, w.leaks)
	w.t.Cleanup(func() {
		worlds.Delete(w.address)
		w.hear("audit", []byte(contentsIfAny(w.path("audit.jsonl"))))
		for _, p := range processesOf(w.t) {
			w.hear("log", []byte(p.output()))
		}
		for _, u := range []*recorder{w.items, w.open} {
			for _, r := range u.all() {
				w.hear(u.place, fmt.Appendf(nil, "%s %s %s %v\n%s\n", r.Method, r.Host, r.Path, r.Header, r.Body))
			}
		}
		for _, leak := range w.leaked() {
			w.t.Error(leak)
		}
	})
}

func contentsIfAny(file string) string {
	content, _ := os.ReadFile(file)
	return string(content)
}

// hearMetrics is called while the gateway still runs.
func (w *world) hearMetrics() {
	for _, path := range []string{"/metrics", "/ready"} {
		if resp, err := client.Get("http://" + w.admin + path); err == nil {
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			w.hear("metrics", body)
		}
	}
}

// eavesdropper is a client's transport that hears the answers of the worlds' gateways.
type eavesdropper struct{ http.RoundTripper }

func (l eavesdropper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if known, ok := worlds.Load(r.URL.Host); ok && err == nil {
		heard := known.(*leaks)
		heard.hear("answers", fmt.Appendf(nil, "%d %v\n", resp.StatusCode, resp.Header))
		resp.Body = &heardBody{resp.Body, heard}
	}
	return resp, err
}

type heardBody struct {
	io.ReadCloser
	by *leaks
}

func (b *heardBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.by.hear("answers", p[:n])
	return n, err
}

// hideIssued hides what an answer of the token endpoint gave. Agents' tokens belong to no place, exchanged ones to the
// upstream that they are for.
func (p *provider) hideIssued(grant, audience string, answer []byte) {
	if p.leaks == nil {
		return
	}
	var out struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	_ = json.Unmarshal(answer, &out)
	p.leaks.hide("a refresh token", out.RefreshToken)
	switch {
	case !strings.HasSuffix(grant, "token-exchange"):
		p.leaks.hide("the token of an agent or of the gateway", out.AccessToken)
	case audience == "https://items.example/", audience == "": // by resource or scope
		p.leaks.hide("the token for items", out.AccessToken, "items")
	default:
		p.leaks.hide("a token of a call", out.AccessToken)
	}
}

// overheard hears what the token endpoint says.
type overheard struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (a *overheard) Write(b []byte) (int, error) {
	a.body.Write(b)
	return a.ResponseWriter.Write(b)
}

func (a *overheard) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

func (a *overheard) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// A check that cannot find anything finds nothing.
func TestLeaksAreFound(t *testing.T) {
	l := &leaks{said: map[string]*bytes.Buffer{}, open: map[string]string{"upstream": "by the test"}}
	signed := "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0." + strings.Repeat("s1gnature", 6)
	l.hide("plain", "a-secret-for-this-test")
	l.hide("token", signed, "items")
	for i, text := range []string{"x a-secret-for-this-test y", strings.Split(signed, ".")[2],
		base64.StdEncoding.EncodeToString([]byte("client:a-secret-for-this-test")),
		base64.StdEncoding.EncodeToString([]byte("client2:a-secret-for-this-test!")),
		base64.RawURLEncoding.EncodeToString([]byte("client34:a-secret-for-this-test"))} {
		l.said = map[string]*bytes.Buffer{}
		l.hear("log", []byte(text))
		l.hear("items", []byte(signed))
		l.hear("upstream", []byte(text))
		if found := l.leaked(); len(found) != 1 || !strings.Contains(found[0], "at log") {
			t.Errorf("%d: %v", i, found)
		}
	}
	l.said = map[string]*bytes.Buffer{}
	l.hear("log", []byte("nothing to see"))
	if found := l.leaked(); len(found) != 0 {
		t.Error(found)
	}
	recorder := httptest.NewRecorder()
	_, _ = (&overheard{ResponseWriter: recorder}).Write([]byte("x"))
	if recorder.Body.String() != "x" {
		t.Error("an answer is not passed on")
	}
}

// offspring are the processes of each test.
var offspring = struct {
	sync.Mutex
	of map[*testing.T][]*process
}{of: map[*testing.T][]*process{}}

func processesOf(t *testing.T) []*process {
	offspring.Lock()
	defer offspring.Unlock()
	return slices.Clone(offspring.of[t])
}

// adopt remembers p until its test has ended.
func (p *process) adopt() {
	offspring.Lock()
	defer offspring.Unlock()
	offspring.of[p.t] = append(offspring.of[p.t], p)
}
