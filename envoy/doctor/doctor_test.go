package doctor

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A proxy that somebody else has written: everything dynamic, extensions as TypedStruct, types that nobody here knows.
func TestForeignProxy(t *testing.T) {
	dump, err := os.ReadFile("testdata/mesh.json")
	if err != nil {
		t.Fatal(err)
	}
	findings, err := Examine(dump, Options{Service: "outbound|9001||sallyport.mcp.svc"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range findings {
		got = append(got, string(f.Severity)+" "+f.Rule+" "+f.Where)
	}
	for _, want := range []string{
		"critical failure-mode-allow listener 0.0.0.0_8080, filter sallyport", // of a TypedStruct, over ECDS
		"critical lock-1 listener 0.0.0.0_8080, route of virtual host items",  // over RDS
		"critical filter-order listener 0.0.0.0_8080",                         // a WASM filter, of no known type
		"critical logged-secret listener 0.0.0.0_8080",                        // of a logger of no known type
		"critical upstream-tls cluster items",
		"info unknown-type dump",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
	for _, f := range findings {
		if strings.Contains(f.String(), "hunter2") {
			t.Errorf("a secret of the dump is printed: %s", f)
		}
	}
	if !Dangerous(findings) || !slices.IsSortedFunc(findings, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] }) {
		t.Error("not sorted by severity")
	}
}

func TestNoDump(t *testing.T) {
	for _, text := range []string{"", "{", "null", "[]", `{"configs":1}`, `{"configs":[]}`, `{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.ListenersConfigDump","static_listeners":1}]}`} {
		if findings, err := Examine([]byte(text), Options{}); err == nil {
			t.Errorf("%s: %v", text, findings)
		}
	}
}

// FuzzExamine: whatever a dump says, the doctor comes back.
func FuzzExamine(f *testing.F) {
	dump, err := os.ReadFile("testdata/mesh.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dump)
	f.Fuzz(func(_ *testing.T, dump []byte) { _, _ = Examine(dump, Options{}) })
}
