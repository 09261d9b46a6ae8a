package mcpparse_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/mcpparse"
)

func TestClassifyVersion(t *testing.T) {
	tests := []struct {
		version string
		era     mcpparse.Era
		served  bool
	}{
		{"2024-11-05", mcpparse.EraLegacy, true},
		{"2025-03-26", mcpparse.EraLegacy, true},
		{"2025-06-18", mcpparse.EraLegacy, true},
		{"2025-11-25", mcpparse.EraLegacy, true},
		{"2026-07-28", mcpparse.EraModern, true},
		{"2027-01-01", mcpparse.EraModern, false},
		{"9999-12-31", mcpparse.EraModern, false},
		{"2026-07-27", mcpparse.EraUnknown, false},
		{"2025-01-01", mcpparse.EraUnknown, false},
		{"", mcpparse.EraUnknown, false},
		{"draft", mcpparse.EraUnknown, false},
		{"2026-07-28, 2025-11-25", mcpparse.EraUnknown, false},
		{"2026-07-28 ", mcpparse.EraUnknown, false},
		{"2026-13-01", mcpparse.EraUnknown, false},
		{"3", mcpparse.EraUnknown, false},
	}
	for _, tt := range tests {
		if got := mcpparse.ClassifyVersion(tt.version); got != tt.era {
			t.Errorf("%q is %v, want %v", tt.version, got, tt.era)
		}
		for _, era := range []mcpparse.Era{mcpparse.EraUnknown, mcpparse.EraLegacy, mcpparse.EraModern} {
			if got, want := mcpparse.Served(era, tt.version), tt.served && era == tt.era; got != want {
				t.Errorf("Served(%v, %q) is %v", era, tt.version, got)
			}
		}
	}
}

func TestEraString(t *testing.T) {
	for era, want := range map[mcpparse.Era]string{mcpparse.EraUnknown: "unknown", mcpparse.EraLegacy: "legacy", mcpparse.EraModern: "modern"} {
		if got := era.String(); got != want {
			t.Errorf("%d is %q, want %q", era, got, want)
		}
	}
}

func TestVersions(t *testing.T) {
	versions := mcpparse.Versions()
	if !slices.Contains(versions, mcpparse.LatestLegacy) || versions[0] != mcpparse.LatestModern || slices.Contains(versions, "2025-03-26") {
		t.Errorf("got %v", versions)
	}
	versions[0] = "changed"
	if mcpparse.Versions()[0] == "changed" {
		t.Error("the caller can change what is served")
	}
}

func TestLookupMethod(t *testing.T) {
	tests := []struct {
		method                  string
		kind                    mcpparse.Kind // 0: unknown
		target                  mcpparse.Target
		legacy, modern, mirrors bool
	}{
		{"tools/call", mcpparse.Request, mcpparse.Tool, true, true, true},
		{"prompts/get", mcpparse.Request, mcpparse.Prompt, true, true, true},
		{"resources/read", mcpparse.Request, mcpparse.Resource, true, true, true},
		{"resources/subscribe", mcpparse.Request, mcpparse.Resource, true, false, false},
		{"completion/complete", mcpparse.Request, mcpparse.Reference, true, true, false},
		{"initialize", mcpparse.Request, mcpparse.NoTarget, true, false, false},
		{"server/discover", mcpparse.Request, mcpparse.NoTarget, false, true, false},
		{"tools/list", mcpparse.Request, mcpparse.NoTarget, true, true, false},
		{"notifications/initialized", mcpparse.Notification, mcpparse.NoTarget, true, false, false},
		{"sampling/createMessage", 0, 0, false, false, false}, // servers send these, clients do not
		{"Tools/Call", 0, 0, false, false, false},
		{"tools/call ", 0, 0, false, false, false},
		{"", 0, 0, false, false, false},
	}
	for _, tt := range tests {
		info, ok := mcpparse.LookupMethod(tt.method)
		if ok != (tt.kind != 0) || info.Kind != tt.kind || info.Target != tt.target || info.In(mcpparse.EraLegacy) != tt.legacy ||
			info.In(mcpparse.EraModern) != tt.modern || info.In(mcpparse.EraUnknown) || mcpparse.MirrorsName(tt.method) != tt.mirrors {
			t.Errorf("%q: %+v, %v", tt.method, info, ok)
		}
	}
}
