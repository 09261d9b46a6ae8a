package session

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	alice = Owner{Issuer: "https://as.example", Subject: "alice", ClientID: "agent", Route: "/mcp"}
	key   = bytes.Repeat([]byte("k3y."), 8)
)

func sealer(t testing.TB, key []byte) *Sealer {
	t.Helper()
	s, err := NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sample() Session {
	return Session{ID: NewID(), Version: "2025-11-25", Issued: time.Unix(1_790_000_000, 0).UTC()}
}

func seal(t testing.TB, s *Sealer, o Owner, sess Session) string {
	t.Helper()
	id, err := s.Seal(o, sess)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []Session{
		sample(),
		{ID: NewID(), Issued: time.Unix(0, 0).UTC()},
		{ID: NewID(), Version: strings.Repeat("v", maxVersion), Issued: time.Unix(-1, 0).UTC()},
		{ID: NewID(), Version: "2025-11-25", Issued: time.Unix(1, 0).UTC(), Capabilities: 1<<16 - 1,
			ClientName: strings.Repeat("n", maxClient), ClientVer: strings.Repeat("v", maxClient)},
	} {
		id := seal(t, sealer(t, key), alice, want)
		// A second sealer is a restarted process.
		got, err := sealer(t, key).Open(id, alice)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		for _, c := range id {
			if c < 0x21 || c > 0x7e {
				t.Errorf("id holds %q, which is not visible ASCII", c)
			}
		}
	}
}

func TestOpenRefusesOtherOwners(t *testing.T) {
	s := sealer(t, key)
	id := seal(t, s, alice, sample())
	for name, o := range map[string]Owner{
		"issuer":        {"https://other.example", "alice", "agent", "/mcp"},
		"subject":       {"https://as.example", "bob", "agent", "/mcp"},
		"client":        {"https://as.example", "alice", "other", "/mcp"},
		"route":         {"https://as.example", "alice", "agent", "/other"},
		"nobody":        {},
		"shifted field": {"https://as.examplea", "lice", "agent", "/mcp"},
		"shifted route": {"https://as.example", "alice", "agent/", "mcp"},
	} {
		if _, err := s.Open(id, o); err != ErrInvalid {
			t.Errorf("%s: %v, want exactly ErrInvalid", name, err)
		}
	}
}

func TestOpenRefusesChangedIDs(t *testing.T) {
	s := sealer(t, key)
	id := seal(t, s, alice, sample())
	for n := range len(id) {
		if _, err := s.Open(id[:n], alice); err != ErrInvalid {
			t.Errorf("first %d characters: %v", n, err)
		}
		for _, c := range "A_z\n=" {
			changed := id[:n] + string(c) + id[n+1:]
			if changed == id {
				continue
			}
			if _, err := s.Open(changed, alice); err != ErrInvalid {
				t.Errorf("character %d changed to %q: %v", n, c, err)
			}
		}
	}
	for name, other := range map[string]string{
		"line break":   id[:8] + "\n" + id[8:],
		"final break":  id + "\r\n",
		"padded":       id + "=",
		"appended":     id + "AAAA",
		"long":         strings.Repeat("A", 1<<20),
		"twice":        id + id,
		"std alphabet": strings.Repeat("+/", 40),
	} {
		if _, err := s.Open(other, alice); err != ErrInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenRefusesOtherKey(t *testing.T) {
	id := seal(t, sealer(t, key), alice, sample())
	other := bytes.Clone(key)
	other[len(other)-1] ^= 1
	if _, err := sealer(t, other).Open(id, alice); err != ErrInvalid {
		t.Error(err)
	}
}

// A record that was sealed properly but is too short to be a session must not be sliced.
func TestOpenRefusesShortRecord(t *testing.T) {
	s := sealer(t, key)
	short := base64.RawURLEncoding.EncodeToString(s.ids.Seal(nil, nil, []byte("short"), alice.label()))
	if _, err := s.Open(short, alice); err != ErrInvalid {
		t.Error(err)
	}
}

func TestNewSealerRefusesShortKeys(t *testing.T) {
	for n := range MinKeyBytes {
		if _, err := NewSealer(make([]byte, n)); !errors.Is(err, ErrShortKey) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	sealer(t, make([]byte, MinKeyBytes))
	sealer(t, make([]byte, 1024))
}

func TestSealRefuses(t *testing.T) {
	s := sealer(t, key)
	for name, sess := range map[string]Session{
		"no id":        {},
		"short id":     {ID: "abcd"},
		"long id":      {ID: NewID() + "00"},
		"not hex":      {ID: strings.Repeat("x", 32)},
		"long version": {ID: NewID(), Version: strings.Repeat("v", maxVersion+1)},
	} {
		if id, err := s.Seal(alice, sess); err == nil {
			t.Errorf("%s: sealed as %s", name, id)
		}
	}
}

// Sealing the same session twice gives two ids: the nonce is fresh, and both open to the same session.
func TestIDsAreUnique(t *testing.T) {
	const n = 100_000
	s := sealer(t, key)
	seen := make(map[string]bool, 2*n)
	fixed := sample()
	for range n {
		for _, v := range []string{NewID(), seal(t, s, alice, fixed)} {
			if seen[v] {
				t.Fatalf("%s appeared twice", v)
			}
			seen[v] = true
		}
	}
}

// sealedOnce was sealed to alice under key. It is written down because the processes of a fuzz run must agree on it,
// and because an id must still open after an upgrade.
const sealedOnce = "tcGWymuANMMseupgZcp89RidORShWkqXj4-usMXgHnVF43aWjBd01JwEwV7gqkk6pWPP-krYHGNPuQniH2-pF2KyCSKIgavpjoLV"

func TestOpenKeepsOpeningOldIDs(t *testing.T) {
	want := Session{ID: "000102030405060708090a0b0c0d0e0f", Version: "2025-11-25", Issued: sample().Issued,
		Capabilities: Sampling | ElicitationForm | Roots, ClientName: "agent", ClientVer: "1.0"}
	got, err := sealer(t, key).Open(sealedOnce, alice)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The first format said nothing of the client, so its ids have ended: they are not read as something that they do not say.
func TestOpenRefusesTheFirstFormat(t *testing.T) {
	const id = "LaCEtNpxLRQd3ZmakRYt_6AkyhCRQOxoVM1N1nd0ehtNBnUDadne5hxaTj0HmV1_VYITSjqHfdsKA4Vaw04"
	if got, err := sealer(t, key).Open(id, alice); err != ErrInvalid {
		t.Errorf("%+v, %v", got, err)
	}
}

// Whatever is done to an id, it opens only when it is, byte for byte, the one that was sealed.
func FuzzOpen(f *testing.F) {
	s := sealer(f, key)
	const id = sealedOnce
	f.Add(id, 0, byte(1), "alice")
	f.Add(id[:len(id)-1], 3, byte(0), "alice")
	f.Add(id+"\n", 3, byte(0), "alice")
	f.Add("", 0, byte(0), "bob")
	f.Fuzz(func(t *testing.T, in string, at int, flip byte, subject string) {
		b := []byte(in)
		if at >= 0 && at < len(b) {
			b[at] ^= flip
		}
		o := alice
		o.Subject = subject
		got, err := s.Open(string(b), o)
		if err == nil && (string(b) != id || o != alice) {
			t.Fatalf("%q opened for %q as %v", b, subject, got)
		}
		if err != nil && err != ErrInvalid {
			t.Fatalf("error tells more than invalid: %v", err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s, sess := sealer(b, key), sample()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Seal(alice, sess); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := sealer(b, key)
	id := seal(b, s, alice, sample())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(id, alice); err != nil {
			b.Fatal(err)
		}
	}
}
