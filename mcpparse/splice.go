package mcpparse

import (
	"bytes"
	"cmp"
	"slices"
)

// Edit replaces the bytes of a body from Start up to End with With. Start == End inserts.
type Edit struct {
	Start, End int
	With       []byte
}

// Splice returns the body with edits applied, everything else byte for byte as it was: the body itself when there is
// nothing to do. It allocates once. Edits at the same place are applied in the order given; edits that overlap are a
// mistake of the caller and panic, since no other result could be trusted.
func (m Message) Splice(edits ...Edit) []byte { return splice(m.raw, edits) }

func splice(body []byte, edits []Edit) []byte {
	if len(edits) == 0 {
		return body
	}
	var room [8]Edit
	sorted := append(room[:0], edits...)
	slices.SortStableFunc(sorted, func(a, b Edit) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	size, at := len(body), 0
	for _, e := range sorted {
		if e.Start < at || e.End < e.Start {
			panic("mcpparse: overlapping edits")
		}
		size += len(e.With) - (e.End - e.Start)
		at = e.End
	}
	out := make([]byte, 0, size)
	at = 0
	for _, e := range sorted {
		out = append(out, body[at:e.Start]...)
		out = append(out, e.With...)
		at = e.End
	}
	return append(out, body[at:]...)
}

// SetName replaces the value that Name was read from. For a message without a name the edit does nothing.
func (m Message) SetName(name string) Edit {
	if m.name.end == 0 {
		return Edit{}
	}
	return Edit{m.name.start, m.name.end, quote(make([]byte, 0, len(name)+2), name)}
}

// DropModernMeta removes from params._meta what only a 2026-07-28 server understands.
func (m Message) DropModernMeta() []Edit {
	var edits []Edit
	all := slices.Collect(fields(m.meta.of(m.raw)))
	kept := false // a member stays in front of this one, with a comma to spare
	for i, f := range all {
		switch {
		case !f.modern():
			kept = true
		case kept:
			edits = append(edits, m.metaEdit(all[i-1].value.end, f.value.end))
		case i+1 < len(all):
			edits = append(edits, m.metaEdit(f.name.start, all[i+1].name.start))
		default:
			edits = append(edits, m.metaEdit(f.name.start, f.value.end))
		}
	}
	return edits
}

// AddModernMeta puts into params._meta what a 2026-07-28 server requires: version, and no client capabilities, in
// place of any that are there. It makes params and params._meta as needed.
func (m Message) AddModernMeta(version string) []Edit {
	required := []struct {
		key   string
		value []byte
	}{
		{metaKeyVersion, quote(nil, version)},
		{metaKeyCapabilities, []byte("{}")},
	}
	var edits []Edit
	var absent []byte
	all := slices.Collect(fields(m.meta.of(m.raw)))
	for _, r := range required {
		i := slices.IndexFunc(all, func(f field) bool { return string(f.key) == r.key })
		if i >= 0 {
			e := m.metaEdit(all[i].value.start, all[i].value.end)
			e.With = r.value
			edits = append(edits, e)
			continue
		}
		if absent != nil {
			absent = append(absent, ',')
		}
		absent = append(append(quote(absent, r.key), ':'), r.value...)
	}
	switch {
	case absent == nil:
		return edits
	case m.meta.end != 0:
		return append(edits, m.prepend(m.meta, absent))
	case m.params.end != 0:
		return append(edits, m.prepend(m.params, slices.Concat([]byte(`"_meta":{`), absent, []byte(`}`))))
	}
	end := bytes.LastIndexByte(m.raw, '}')
	return append(edits, Edit{end, end, slices.Concat([]byte(`,"params":{"_meta":{`), absent, []byte(`}}`))})
}

// metaEdit removes from start up to end, counted from the beginning of params._meta.
func (m Message) metaEdit(start, end int) Edit {
	return Edit{Start: m.meta.start + start, End: m.meta.start + end}
}

// prepend puts members in front of those of the object at s.
func (m Message) prepend(s span, members []byte) Edit {
	if trim(m.raw[s.start+1 : s.end])[0] != '}' {
		members = append(members, ',')
	}
	return Edit{s.start + 1, s.start + 1, members}
}

// modern reports whether f is a member of params._meta that only a 2026-07-28 server understands.
func (f field) modern() bool {
	switch string(f.key) {
	case metaKeyVersion, metaKeyClientInfo, metaKeyCapabilities, metaKeyLogLevel:
		return true
	}
	return false
}
