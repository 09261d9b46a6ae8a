package mcpparse

import (
	"slices"
	"time"
)

// Era is one of the two ways in which MCP is spoken (MCP 2026-07-28, versioning).
type Era uint8

// The eras. Legacy peers open a session with initialize; modern ones say everything in each request.
const (
	EraUnknown Era = iota
	EraLegacy      // up to 2025-11-25
	EraModern      // from 2026-07-28
)

func (e Era) String() string {
	switch e {
	case EraLegacy:
		return "legacy"
	case EraModern:
		return "modern"
	default:
		return "unknown"
	}
}

// LatestLegacy and LatestModern are the versions to answer with when an era's peer asks for one that is not served.
const (
	LatestLegacy = "2025-11-25"
	LatestModern = "2026-07-28"
)

// batching is the revision in which servers must accept JSON-RPC batches, which Parse refuses. It is recognised in
// headers, where it also stands for the absence of one, but never negotiated.
const batching = "2025-03-26"

// served are the versions that are negotiated, newest first.
var served = []string{LatestModern, LatestLegacy, "2025-06-18", "2024-11-05"}

// Versions returns the versions that are negotiated, newest first.
func Versions() []string { return slices.Clone(served) }

// Served reports whether a request may name version in its MCP-Protocol-Version header when it is of era.
func Served(era Era, version string) bool {
	known := slices.Contains(served, version) || version == batching
	return known && ClassifyVersion(version) == era
}

// ClassifyVersion says to which era a protocol version belongs, served or not. A date from 2026-07-28 on is modern,
// so that a newer client is told which versions there are; anything else that is not a known version is unknown.
func ClassifyVersion(version string) Era {
	if slices.Contains(served[1:], version) || version == batching {
		return EraLegacy
	}
	// Dates of this form sort as text, but only dates do.
	if _, err := time.Parse(time.DateOnly, version); err == nil && version >= LatestModern {
		return EraModern
	}
	return EraUnknown
}

// intern returns the served version that b spells, without allocating, or a copy of b.
func intern(b []byte) string {
	for _, v := range served {
		if string(b) == v {
			return v
		}
	}
	return string(b)
}
