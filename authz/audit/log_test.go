package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("", 3600))

func clock() time.Time { return noon }

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(Config{Path: path, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// put appends decisions with the given ids.
func put(t *testing.T, l *Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Decision(Decision{ID: id, Outcome: Allowed, Method: "ping"}); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func verified(t *testing.T, text string, want int) {
	t.Helper()
	if n, err := Verify(strings.NewReader(text)); err != nil || n != want {
		t.Errorf("verified %d of %d records: %v in\n%s", n, want, err, text)
	}
}

func TestRecords(t *testing.T) {
	var out bytes.Buffer
	l, err := Open(Config{Writer: &out, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	full := Decision{
		ID: "c1", Outcome: Allowed, Method: "tools/call", App: "wiki", Tool: "read", Subject: "ann", ClientID: "agent",
		Actors: []string{"agent", "hub"}, Issuer: "https://as.example", JTI: "j1", Binding: "dpop", ArgumentsSHA256: "44136f", Policy: "p", PolicyDigest: "d",
		Message: "fine", Exchanged: &Exchanged{Audience: []string{"https://up.example/"}, Scopes: []string{"a", "b"}, JTI: "j2", ExpiresIn: 5900 * time.Millisecond},
		SourceIP: "192.0.2.1", ProtocolVersion: "2025-06-18", Session: "s",
	}
	for _, err := range []error{
		l.Decision(full),
		l.Decision(Decision{}),
		l.Decision(Decision{ID: "c3", Outcome: Denied, Method: "ping", Exchanged: &Exchanged{}}),
		l.Decision(Decision{ID: "c4", Outcome: Allowed, Method: "prompts/get", App: "wiki", Prompt: "greet", Subject: "ann"}),
		l.Decision(Decision{ID: "c5", Outcome: Allowed, Method: "resources/read", App: "wiki", Resource: "file:///a", Subject: "ann"}),
		l.Completion(Completion{Time: noon.Add(time.Second), ID: "c1", Outcome: UpstreamError, Status: 502, BytesIn: 1, BytesOut: 2, Duration: 1234567 * time.Nanosecond}),
		l.Completion(Completion{ID: "c2", Outcome: Aborted}),
		l.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	const at = `"time":"2026-03-01T11:00:00.123456789Z"`
	want := []string{
		`{"kind":"decision",` + at + `,"id":"c1","outcome":"allowed","method":"tools/call","app":"wiki","tool":"read","subject":"ann","client_id":"agent","actors":["agent","hub"],"issuer":"https://as.example","jti":"j1","binding":"dpop","arguments_sha256":"44136f","policy":"p","policy_digest":"d","message":"fine","exchanged":{"audience":["https://up.example/"],"scopes":["a","b"],"jti":"j2","expires_in":5},"source_ip":"192.0.2.1","protocol_version":"2025-06-18","session":"s","seq":1,"prev":"` + genesis + `"`,
		`{"kind":"decision",` + at + `,"id":"","outcome":"","method":"","seq":2`,
		`{"kind":"decision",` + at + `,"id":"c3","outcome":"denied","method":"ping","exchanged":{"expires_in":0},"seq":3`,
		`{"kind":"decision",` + at + `,"id":"c4","outcome":"allowed","method":"prompts/get","app":"wiki","prompt":"greet","subject":"ann","seq":4`,
		`{"kind":"decision",` + at + `,"id":"c5","outcome":"allowed","method":"resources/read","app":"wiki","resource":"file:///a","subject":"ann","seq":5`,
		`{"kind":"completion","time":"2026-03-01T11:00:01.123456789Z","id":"c1","outcome":"upstream_error","status":502,"bytes_in":1,"bytes_out":2,"duration_ms":1.234,"seq":6`,
		`{"kind":"completion",` + at + `,"id":"c2","outcome":"aborted","status":0,"bytes_in":0,"bytes_out":0,"duration_ms":0,"seq":7`,
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, want[i]) {
			t.Errorf("got  %s\nwant %s", line, want[i])
		}
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	verified(t, out.String(), len(want))
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(dir, "foreign")
	for _, text := range []string{"root:x:0:0\n", "root:x:0:0", "{}\n", `{"kind":"decision"}` + "\n", strings.Repeat("x", 5*maxLine)} {
		if err := os.WriteFile(foreign, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Path: foreign}); err == nil {
			t.Errorf("continued %.40q", text)
		}
		if read(t, foreign) != text {
			t.Errorf("changed %.40q", text)
		}
	}
	for _, c := range []Config{{}, {Path: foreign, Writer: os.Stderr}, {Path: filepath.Join(dir, "none", "f")}, {Path: dir}} {
		if _, err := Open(c); err == nil {
			t.Errorf("opened %+v", c)
		}
	}
	path := filepath.Join(dir, "audit")
	open(t, path)
	if _, err := Open(Config{Path: path}); err == nil {
		t.Error("two writers on one file")
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	open(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestClosed(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit"))
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if err := l.Decision(Decision{}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := l.Completion(Completion{}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestChainGoesOnAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	for i := range 3 {
		l := open(t, path)
		put(t, l, fmt.Sprint(i), "x")
		l.Close()
	}
	verified(t, read(t, path), 6)
	if strings.Contains(read(t, path), `"gap"`) {
		t.Error("gap without a loss")
	}
}

// A crash may leave any prefix of the last write. Every one of them must be survived, and none hidden.
func TestCrashInTheMiddleOfALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path)
	put(t, l, "1", "2")
	l.Close()
	text := read(t, path)
	for _, from := range []int{strings.Index(text, "\n") + 1, 0} { // torn second record, torn first record
		whole := strings.Index(text[from:], "\n") + from
		for cut := from + 1; cut <= whole; cut++ {
			if err := os.WriteFile(path, []byte(text[:cut]), 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, path)
			put(t, l, "3")
			l.Close()
			got := read(t, path)
			if !strings.HasPrefix(got, text[:cut]) {
				t.Fatalf("cut at %d: bytes were lost", cut)
			}
			want := 2 + strings.Count(text[:from], "\n") // the records before, and the gap or the whole last one, and the new one
			verified(t, got, want)
			if gaps := strings.Count(got, `{"kind":"gap"`); (gaps == 1) != (cut < whole) {
				t.Fatalf("cut at %d of %d: %d gaps", cut, whole, gaps)
			}
		}
	}
}

func TestGapOfACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path)
	put(t, l, "1", "2")
	l.Close()
	text := read(t, path)
	if err := os.WriteFile(path, []byte(text[:len(text)-20]), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path).Close()
	lines := strings.Split(read(t, path), "\n")
	if want := `{"kind":"gap","time":"2026-03-01T11:00:00.123456789Z","lost":1,"torn":1,"seq":2,`; !strings.HasPrefix(lines[2], want) {
		t.Errorf("got %s", lines[2])
	}
}

// disk takes a limited number of bytes.
type disk struct {
	bytes.Buffer
	room int
}

var errFull = errors.New("disk full")

func (d *disk) Write(b []byte) (int, error) {
	n := min(len(b), d.room)
	d.room -= n
	d.Buffer.Write(b[:n])
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

// Wherever a disk runs full, records are refused, and after it has room again the chain verifies and says what is gone.
func TestFullDisk(t *testing.T) {
	const plenty = 1 << 20
	measure := &disk{room: plenty}
	l, _ := Open(Config{Writer: measure, Now: clock})
	put(t, l, "1")
	size := measure.Len()
	for room := range 2 * size {
		for second := range 3 { // bytes that come free in the middle
			d := &disk{room: room}
			l, err := Open(Config{Writer: d, Now: clock})
			if err != nil {
				t.Fatal(err)
			}
			sent, refused := 0, 0
			try := func(n int) {
				for range n {
					sent++
					if err := l.Decision(Decision{ID: fmt.Sprint(sent), Outcome: Allowed, Method: "ping"}); err != nil {
						if !errors.Is(err, errFull) {
							t.Fatal(err)
						}
						refused++
					}
				}
			}
			try(3)
			d.room += second
			try(2)
			d.room += plenty
			try(1)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			accountFor(t, d.String(), sent, refused)
		}
	}
}

// accountFor checks that every record sent is in the chain or counted as lost, and that what was not refused is there.
func accountFor(t *testing.T, text string, sent, refused int) {
	t.Helper()
	if _, err := Verify(strings.NewReader(text)); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	there, lost := 0, 0
	for line := range strings.Lines(text) {
		var r struct {
			Kind string
			Lost int
		}
		if _, err := parse([]byte(strings.TrimSuffix(line, "\n"))); err != nil {
			continue
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		lost += r.Lost
		if r.Kind == "decision" {
			there++
		}
	}
	if there+lost != sent || there < sent-refused {
		t.Fatalf("%d there and %d lost of %d sent and %d refused in\n%s", there, lost, sent, refused, text)
	}
}

func TestGapSaysSinceWhen(t *testing.T) {
	d, now := &disk{}, noon
	l, err := Open(Config{Writer: d, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Completion(Completion{}); !errors.Is(err, errFull) {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	d.room = 1 << 20
	put(t, l, "1")
	first, _, _ := strings.Cut(d.String(), `,"seq"`)
	if diff := cmp.Diff(`{"kind":"gap","time":"2026-03-01T11:03:00.123456789Z","lost":3,"torn":0,"since":"2026-03-01T11:00:00.123456789Z"`, first); diff != "" {
		t.Error(diff)
	}
	verified(t, d.String(), 2)
}

func TestConcurrentWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				id := NewID()
				if err := errors.Join(l.Decision(Decision{ID: id}), l.Completion(Completion{ID: id})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	verified(t, read(t, path), 800)
}

func TestNewID(t *testing.T) {
	a, b := NewID(), NewID()
	if a == b || len(a) != 26 {
		t.Errorf("%s %s", a, b)
	}
}

func BenchmarkDecision(b *testing.B) {
	l, err := Open(Config{Path: filepath.Join(b.TempDir(), "audit")})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	d := Decision{
		ID: NewID(), Outcome: Allowed, Method: "tools/call", App: "wiki", Tool: "read", Subject: "ann", ClientID: "agent", Actors: []string{"agent"},
		Issuer: "https://as.example", JTI: NewID(), ArgumentsSHA256: genesis, Policy: "wiki", PolicyDigest: genesis, SourceIP: "192.0.2.1",
		ProtocolVersion: "2026-07-28", Exchanged: &Exchanged{Audience: []string{"https://up.example/"}, Scopes: []string{"a"}, JTI: NewID(), ExpiresIn: 5 * time.Second},
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Decision(d); err != nil {
			b.Fatal(err)
		}
	}
}
