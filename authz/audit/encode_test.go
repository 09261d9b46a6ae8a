package audit

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// shape is a decision as a reader decodes it.
type shape struct {
	Kind, Time, ID, Outcome, Method, Tool, Subject, Message string
	Actors                                                  []string
	Exchanged                                               *struct{ Scopes []string }
	Seq                                                     uint64
	Prev, Hash                                              string
}

// kept is what a reader finds of s.
func kept(s string, limit int) string {
	suffix := ""
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s, suffix = s[:limit], "…"
	}
	return string([]rune(s)) + suffix
}

func FuzzEncode(f *testing.F) {
	for _, s := range []string{"", "plain", "\n", "\r\n{\"kind\":\"decision\"}", "\u2028\u0085\x00\x7f", "\xff\xfe", "\"\\", "😀\U000E0001", `","hash":"0"}`, strings.Repeat("é", 3000)} {
		f.Add(s, s, int64(0))
	}
	f.Fuzz(func(t *testing.T, a, b string, at int64) {
		d := Decision{
			Time: time.Unix(at%1e10, 0), ID: a, Outcome: Outcome(b), Method: a, Tool: b, Subject: a, Message: b,
			Actors: []string{a, b}, Exchanged: &Exchanged{Scopes: []string{b}},
		}
		record := d.encode(nil)
		hash := record.end(7, genesis)
		if bytes.Count(record, []byte{'\n'}) != 1 || record[len(record)-1] != '\n' || len(record) > maxLine {
			t.Fatalf("not one line: %q", record)
		}
		for _, r := range string(record[:len(record)-1]) {
			if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
				t.Fatalf("%U in %q", r, record)
			}
		}
		var got shape
		if err := json.Unmarshal(record, &got); err != nil {
			t.Fatalf("%v: %q", err, record)
		}
		want := shape{
			Kind: "decision", Time: d.Time.UTC().Format(time.RFC3339Nano), ID: kept(a, maxString), Outcome: kept(b, maxString), Method: kept(a, maxString),
			Tool: kept(b, maxString), Subject: kept(a, maxString), Message: kept(b, maxMessage), Actors: []string{kept(a, maxString), kept(b, maxString)},
			Exchanged: &struct{ Scopes []string }{[]string{kept(b, maxString)}}, Seq: 7, Prev: genesis, Hash: hash,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestWorstCaseFitsALine(t *testing.T) {
	s := strings.Repeat("\x01", 1<<20)
	list := make([]string, 1000)
	for i := range list {
		list[i] = s[:maxList/maxItems]
	}
	list[0] = s
	d := Decision{ID: s, Outcome: Outcome(s), Method: s, App: s, Tool: s, Prompt: s, Resource: s, Subject: s, ClientID: s, Actors: list, Issuer: s, JTI: s, Binding: s,
		ArgumentsSHA256: s, Policy: s, PolicyDigest: s, Message: s, Exchanged: &Exchanged{Audience: list, Scopes: list, JTI: s},
		SourceIP: s, ProtocolVersion: s, Session: s, Exchange: s}
	record := d.encode(nil)
	record.end(1<<63, genesis)
	if len(record) > maxLine || !json.Valid(record) {
		t.Errorf("%d bytes", len(record))
	}
}

func TestListsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for name, tt := range map[string]struct{ in, want []string }{
		"short":     {[]string{"a", "", "b"}, []string{"a", "", "b"}},
		"many":      {make([]string, 100), append(make([]string, maxItems), "…")},
		"much":      {[]string{long, long[:1000], long, long, long, "a"}, []string{long[:1024] + "…", long[:1000], long[:1024] + "…", long[:1024] + "…", long[:24] + "…", "…"}},
		"just full": {[]string{long[:1024], long[:1024], long[:1024], long[:1024]}, []string{long[:1024], long[:1024], long[:1024], long[:1024]}},
	} {
		d := Decision{Actors: tt.in}
		record := d.encode(nil)
		record.end(1, genesis)
		var got shape
		if err := json.Unmarshal(record, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got.Actors); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
