package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of what one record holds. Longer strings and lists end in "…".
const (
	maxString  = 1 << 10 // bytes
	maxMessage = 4 << 10 // bytes
	maxList    = 4 << 10 // bytes in all elements
	maxItems   = 64
	maxLine    = 256 << 10 // what these bounds come to at worst, every byte escaped
)

// gap says that records are missing.
type gap struct {
	time, since time.Time // since is zero when it is not known
	lost        int       // records that are not in the chain, at least
	torn        int       // lines before this one that are not whole
}

// line builds one record. Members are appended in order; end closes the object.
type line []byte

func begin(buf []byte, kind string, at time.Time) line {
	b := append(line(buf[:0]), '{')
	b.text("kind", kind)
	b.time("time", at)
	return b
}

// end appends the chain's members and the newline, and returns the record's hash in hex.
func (b *line) end(seq uint64, prev string) string {
	b.uint("seq", seq)
	b.text("prev", prev)
	sum := sha256.Sum256(*b)
	hash := hex.EncodeToString(sum[:])
	b.text("hash", hash)
	*b = append(*b, '}', '\n')
	return hash
}

func (d *Decision) encode(buf []byte) line {
	b := begin(buf, "decision", d.Time)
	b.text("id", d.ID)
	b.text("outcome", string(d.Outcome))
	b.text("method", d.Method)
	b.optional("app", d.App)
	b.optional("tool", d.Tool)
	b.optional("prompt", d.Prompt)
	b.optional("resource", d.Resource)
	b.optional("subject", d.Subject)
	b.optional("client_id", d.ClientID)
	b.list("actors", d.Actors)
	b.optional("issuer", d.Issuer)
	b.optional("jti", d.JTI)
	b.optional("binding", d.Binding)
	b.optional("arguments_sha256", d.ArgumentsSHA256)
	b.optional("policy", d.Policy)
	b.optional("policy_digest", d.PolicyDigest)
	if d.Message != "" {
		b.name("message")
		b.quote(d.Message, maxMessage)
	}
	if e := d.Exchanged; e != nil {
		b.name("exchanged")
		b = append(b, '{')
		b.list("audience", e.Audience)
		b.list("scopes", e.Scopes)
		b.optional("jti", e.JTI)
		b.uint("expires_in", uint64(max(e.ExpiresIn, 0)/time.Second))
		b = append(b, '}')
	}
	b.optional("source_ip", d.SourceIP)
	b.optional("protocol_version", d.ProtocolVersion)
	b.optional("session", d.Session)
	return b
}

func (c *Completion) encode(buf []byte) line {
	b := begin(buf, "completion", c.Time)
	b.text("id", c.ID)
	b.text("outcome", string(c.Outcome))
	b.uint("status", uint64(max(c.Status, 0)))
	b.uint("bytes_in", c.BytesIn)
	b.uint("bytes_out", c.BytesOut)
	b.name("duration_ms")
	return strconv.AppendFloat(b, float64(max(c.Duration, 0).Microseconds())/1000, 'f', -1, 64)
}

func (r *Revocation) encode(buf []byte) line {
	b := begin(buf, "revocation", r.Time)
	b.text("action", string(r.Action))
	b.optional("subject", r.Subject)
	b.optional("client_id", r.ClientID)
	b.optional("jti", r.JTI)
	b.optional("session", r.Session)
	b.optional("issuer", r.Issuer)
	if !r.IssuedUntil.IsZero() {
		b.time("issued_until", r.IssuedUntil)
	}
	b.time("until", r.Until)
	if r.Message != "" {
		b.name("message")
		b.quote(r.Message, maxMessage)
	}
	return b
}

func (g *gap) encode(buf []byte) line {
	b := begin(buf, "gap", g.time)
	b.uint("lost", uint64(g.lost))
	b.uint("torn", uint64(g.torn))
	if !g.since.IsZero() {
		b.time("since", g.since)
	}
	return b
}

func (b *line) name(name string) {
	if (*b)[len(*b)-1] != '{' {
		*b = append(*b, ',')
	}
	*b = append(*b, '"')
	*b = append(*b, name...)
	*b = append(*b, '"', ':')
}

func (b *line) text(name, value string) {
	b.name(name)
	b.quote(value, maxString)
}

func (b *line) optional(name, value string) {
	if value != "" {
		b.text(name, value)
	}
}

func (b *line) uint(name string, n uint64) {
	b.name(name)
	*b = strconv.AppendUint(*b, n, 10)
}

func (b *line) time(name string, t time.Time) {
	b.name(name)
	*b = append(*b, '"')
	*b = t.UTC().AppendFormat(*b, time.RFC3339Nano)
	*b = append(*b, '"')
}

func (b *line) list(name string, values []string) {
	if len(values) == 0 {
		return
	}
	b.name(name)
	*b = append(*b, '[')
	left := maxList
	for i, v := range values {
		if i > 0 {
			*b = append(*b, ',')
		}
		if i == maxItems || left <= 0 {
			b.quote("…", maxString)
			break
		}
		limit := min(maxString, left)
		b.quote(v, limit)
		left -= min(len(v), limit)
	}
	*b = append(*b, ']')
}

// quote appends s as a JSON string of at most limit bytes of s. Everything that does not print is escaped, and what is
// not UTF-8 is replaced.
func (b *line) quote(s string, limit int) {
	cut := len(s) > limit
	if cut {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	*b = append(*b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			*b = append(*b, '\\', byte(r))
		case unicode.IsPrint(r):
			*b = utf8.AppendRune(*b, r)
		default:
			b.escape(r)
		}
	}
	if cut {
		*b = append(*b, "…"...)
	}
	*b = append(*b, '"')
}

func (b *line) escape(r rune) {
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		b.escape(high)
		r = low
	}
	const digits = "0123456789abcdef"
	*b = append(*b, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}
