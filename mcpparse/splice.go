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

// SetID replaces the id of a request or response with a raw token.
func (m Message) SetID(id []byte) Edit { return m.id.edit(id) }

// SetProgressToken replaces the value that ProgressToken was read from with a raw token.
func (m Message) SetProgressToken(token []byte) Edit { return m.progress.edit(token) }

// SetRequestID replaces the value that RequestID was read from with a raw token.
func (m Message) SetRequestID(id []byte) Edit { return m.request.edit(id) }

// edit replaces what is at s. For the absent span it does nothing.
func (s span) edit(with []byte) Edit {
	if s.end == 0 {
		return Edit{}
	}
	return Edit{s.start, s.end, with}
}

// DropModernMeta removes from params._meta what only a 2026-07-28 server understands.
func (m Message) DropModernMeta() []Edit { return m.drop(m.meta, field.modern) }

// DropParams removes the members of params that have these names.
func (m Message) DropParams(names ...string) []Edit {
	return m.drop(m.params, func(f field) bool { return slices.Contains(names, string(f.key)) })
}

// AddParam puts a member in front of those of params. The caller knows that there is none of this name, that params is
// there, and that it does not drop all the members beside it.
func (m Message) AddParam(name string, value []byte) Edit {
	return prepend(m.raw[m.params.start:m.params.end], m.params.start, append(append(quote(nil, name), ':'), value...))
}

// tasks is the extension of long-running tasks (SEP-2663), which 2025-11-25 has as the parameter "task".
const tasks = metaPrefix + "tasks"

// DropTasks removes what asks for a task instead of a result: params.task, and the extension among the client's
// capabilities.
func (m Message) DropTasks() []Edit {
	var edits []Edit
	if m.task {
		edits = m.DropParams("task")
	}
	capabilities := m.caps.of(m.raw)
	if !bytes.Contains(capabilities, []byte("tasks")) && bytes.IndexByte(capabilities, '\\') < 0 {
		return edits // off the usual path
	}
	extensions := find(capabilities, "extensions")
	if !isObject(extensions.of(capabilities)) {
		return edits
	}
	at := span{m.caps.start + extensions.start, m.caps.start + extensions.end}
	return append(edits, m.drop(at, func(f field) bool { return string(f.key) == tasks })...)
}

// drop removes members of the object at s; nothing when s is absent.
func (m Message) drop(s span, which func(field) bool) []Edit {
	return removals(s.of(m.raw), s.start, which)
}

// removals are the edits that remove members of object, which starts at base.
func removals(object []byte, base int, which func(field) bool) []Edit {
	if object == nil {
		return nil
	}
	var edits []Edit
	all := slices.Collect(fields(object))
	kept := false // a member stays in front of this one, with a comma to spare
	for i, f := range all {
		switch {
		case !which(f):
			kept = true
		case kept:
			edits = append(edits, Edit{Start: base + all[i-1].value.end, End: base + f.value.end})
		case i+1 < len(all):
			edits = append(edits, Edit{Start: base + f.name.start, End: base + all[i+1].name.start})
		default:
			edits = append(edits, Edit{Start: base + f.name.start, End: base + f.value.end})
		}
	}
	return edits
}

// AddModernMeta puts into params._meta what a 2026-07-28 server requires: version and client capabilities, a raw
// object (nil is an empty one), in place of any that are there. It makes params and params._meta as needed.
func (m Message) AddModernMeta(version string, capabilities []byte) []Edit {
	if capabilities == nil {
		capabilities = []byte("{}")
	}
	required := []struct {
		key   string
		value []byte
	}{
		{metaKeyVersion, quote(nil, version)},
		{metaKeyCapabilities, capabilities},
	}
	var edits []Edit
	var absent []byte
	all := slices.Collect(fields(m.meta.of(m.raw)))
	for _, r := range required {
		i := slices.IndexFunc(all, func(f field) bool { return string(f.key) == r.key })
		if i >= 0 {
			edits = append(edits, Edit{m.meta.start + all[i].value.start, m.meta.start + all[i].value.end, r.value})
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
		return append(edits, prepend(m.meta.of(m.raw), m.meta.start, absent))
	case m.params.end != 0:
		return append(edits, prepend(m.Params(), m.params.start, slices.Concat([]byte(`"_meta":{`), absent, []byte(`}`))))
	}
	end := bytes.LastIndexByte(m.raw, '}')
	return append(edits, Edit{end, end, slices.Concat([]byte(`,"params":{"_meta":{`), absent, []byte(`}}`))})
}

// prepend puts members in front of those of object, which starts at base.
func prepend(object []byte, base int, members []byte) Edit {
	if trim(object[1:])[0] != '}' {
		members = append(members, ',')
	}
	return Edit{base + 1, base + 1, members}
}

// modern reports whether f is a member of params._meta that only a 2026-07-28 server understands.
func (f field) modern() bool {
	switch string(f.key) {
	case metaKeyVersion, metaKeyClientInfo, metaKeyCapabilities, metaKeyLogLevel:
		return true
	}
	return false
}
