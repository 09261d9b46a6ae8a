package session

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

const (
	mine   = "000102030405060708090a0b0c0d0e0f"
	theirs = "ffffffffffffffffffffffffffffffff"
)

func name(kind Kind, raw string) Name {
	return Name{Kind: kind, App: TagOf("app"), Leg: TagOf("upstream-session"), Raw: []byte(raw)}
}

func TestNames(t *testing.T) {
	for _, want := range []Name{
		name(RequestID, `1`),
		name(RequestID, `"a\"b"`),
		name(ProgressToken, `0`),
		name(CallEvent, "7"),
		name(StreamEvent, strings.Repeat("e", 4*MaxNameBytes)),
		{Kind: RequestID, Raw: []byte{}},
	} {
		text := sealer(t, key).SealName(mine, want)
		if again := sealer(t, key).SealName(mine, want); again != text {
			t.Errorf("%q is called %s and %s", want.Raw, text, again)
		}
		got, err := sealer(t, key).OpenName(mine, want.Kind, text) // a second sealer is another replica
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("%s has to be escaped somewhere", text)
		}
	}
}

// The longest name is, sealed, still an id: else a request could not be answered.
func TestSealedNamesAreIDs(t *testing.T) {
	text := sealer(t, key).SealName(mine, name(RequestID, strings.Repeat("9", MaxNameBytes)))
	if _, err := mcpparse.Parse([]byte(`{"jsonrpc":"2.0","id":"` + text + `","result":{}}`)); err != nil {
		t.Errorf("%d bytes: %v", len(text), err)
	}
}

// Everything in a name counts, and so does whose it is: no two of these meet.
func TestNamesAreApart(t *testing.T) {
	s := sealer(t, key)
	seen := map[string]bool{}
	for _, session := range []string{mine, theirs, ""} {
		for _, kind := range []Kind{RequestID, ProgressToken, CallEvent, StreamEvent} {
			for _, app := range []string{"a", "b"} {
				for _, leg := range []string{"", "1"} {
					for _, call := range []string{"1", "2"} {
						for _, raw := range []string{"1", `"1"`} {
							text := s.SealName(session, Name{kind, TagOf(app), TagOf(leg), TagOf(call), []byte(raw)})
							if seen[text] || seen[text[:16]] {
								t.Errorf("%s: another name has this text, or its nonce", text)
							}
							seen[text], seen[text[:16]] = true, true
						}
					}
				}
			}
		}
	}
}

func TestOpenNameRefuses(t *testing.T) {
	s := sealer(t, key)
	text := s.SealName(mine, name(RequestID, "1"))
	other := bytes.Clone(key)
	other[0] ^= 1
	sealedSession := seal(t, s, alice, sample())
	for _, test := range []struct {
		why, session string
		kind         Kind
		text         string
	}{
		{"another session's", theirs, RequestID, text},
		{"no session's", "", RequestID, text},
		{"of another kind", mine, ProgressToken, text},
		{"an event's", mine, CallEvent, text},
		{"under another key", mine, RequestID, sealer(t, other).SealName(mine, name(RequestID, "1"))},
		{"a session id", mine, RequestID, sealedSession},
		{"a ticket", mine, RequestID, s.SealTicket([]byte(strings.Repeat("r", 40)), mine)},
		{"empty", mine, RequestID, ""},
		{"the upstream's own", mine, RequestID, "1"},
		{"a line break in it", mine, RequestID, text[:4] + "\n" + text[4:]},
		{"padded", mine, RequestID, text + "="},
		{"twice", mine, RequestID, text + text},
		{"long", mine, RequestID, strings.Repeat("A", 1<<20)},
		{"too long a name", mine, RequestID, s.SealName(mine, name(RequestID, strings.Repeat("x", 4*MaxNameBytes+1)))},
	} {
		if got, err := s.OpenName(test.session, test.kind, test.text); err != ErrInvalid {
			t.Errorf("%s: %+v, %v, want exactly ErrInvalid", test.why, got, err)
		}
	}
	for n := range len(text) {
		if _, err := s.OpenName(mine, RequestID, text[:n]); err != ErrInvalid {
			t.Errorf("first %d characters: %v", n, err)
		}
		changed := []byte(text)
		changed[n] ^= 1
		if _, err := s.OpenName(mine, RequestID, string(changed)); err != ErrInvalid {
			t.Errorf("character %d changed: %v", n, err)
		}
	}
	if _, err := s.Open(text, alice); err != ErrInvalid {
		t.Errorf("a name is no session id: %v", err)
	}
}

// A record that was sealed properly but is too short to be a name must not be sliced.
func TestOpenNameRefusesShortRecord(t *testing.T) {
	s := sealer(t, key)
	nonce := make([]byte, nonceBytes)
	short := encoding.EncodeToString(s.names.Seal(nonce, nonce, []byte("r"), label(mine)))
	if _, err := s.OpenName(mine, RequestID, short); err != ErrInvalid {
		t.Error(err)
	}
}

func TestTickets(t *testing.T) {
	s := sealer(t, key)
	plain := []byte(`{"token":"secret"}`)
	text := s.SealTicket(plain, "who", "where", "what")
	if again := s.SealTicket(plain, "who", "where", "what"); again == text {
		t.Error("a ticket is sealed under the same nonce again")
	}
	if got, err := sealer(t, key).OpenTicket(text, "who", "where", "what"); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%s, %v", got, err)
	}
	if strings.Contains(text, "secret") {
		t.Error("a ticket can be read")
	}
	for why, fields := range map[string][]string{
		"another":       {"bob", "where", "what"},
		"moved":         {"whow", "here", "what"},
		"fewer":         {"who", "where"},
		"more":          {"who", "where", "what", ""},
		"in one":        {"whowherewhat"},
		"another order": {"where", "who", "what"},
		"none":          nil,
	} {
		if _, err := s.OpenTicket(text, fields...); err != ErrInvalid {
			t.Errorf("%s: %v", why, err)
		}
	}
	for n := range len(text) {
		changed := []byte(text)
		changed[n] ^= 1
		if _, err := s.OpenTicket(string(changed), "who", "where", "what"); err != ErrInvalid {
			t.Errorf("character %d changed: %v", n, err)
		}
	}
}

func TestTicketsAreBounded(t *testing.T) {
	s := sealer(t, key)
	room := maxTicket - 12 - 16 // less nonce and tag
	if _, err := s.OpenTicket(s.SealTicket(make([]byte, room), "l"), "l"); err != nil {
		t.Errorf("at the bound: %v", err)
	}
	if _, err := s.OpenTicket(s.SealTicket(make([]byte, room+3), "l"), "l"); err != ErrInvalid {
		t.Errorf("beyond it: %v", err)
	}
}

// Whatever is said to be a name opens only when it is, byte for byte, the text that this name has.
func FuzzOpenName(f *testing.F) {
	s := sealer(f, key)
	f.Add(s.SealName(mine, name(RequestID, "1")), mine, byte(RequestID))
	f.Add(s.SealName(mine, name(StreamEvent, "id")), theirs, byte(StreamEvent))
	f.Add("", "", byte(0))
	f.Fuzz(func(t *testing.T, text, session string, kind byte) {
		n, err := s.OpenName(session, Kind(kind), text)
		switch {
		case err != nil && err != ErrInvalid:
			t.Fatalf("error tells more than invalid: %v", err)
		case err == nil && s.SealName(session, n) != text:
			t.Fatalf("%q opens as %+v, which has another text", text, n)
		}
	})
}
