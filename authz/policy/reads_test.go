package policy

import "testing"

// What is decided of a list may be remembered only where nothing of the request can change it.
func TestReadsHTTP(t *testing.T) {
	for src, want := range map[string]bool{
		`result := {"allowed": true}`:                                                 false,
		`result["allowed"] := true if input.request.mcp.tool.params.name == "x"`:      false,
		`result["allowed"] := true if input.identity.subject == "x"`:                  false,
		`result["allowed"] := true if input.app.name == "x"`:                          false,
		`a := input.request.mcp`:                                                      false,
		`a := input.request.httpx`:                                                    false,
		`a := input.sources`:                                                          false,
		`a := input.request.http.headers.Authorization`:                               true,
		`a := input.request.http.path`:                                                true,
		`a := input.request.http`:                                                     true,
		`a := input.request`:                                                          true,
		`a := input`:                                                                  true,
		`a := input.source.ip`:                                                        true,
		`a := input.source`:                                                           true,
		`a if { some k; input[k] == 1 }`:                                              true,
		`a if { some k; input.request[k] == 1 }`:                                      true,
		`a if { some k; input.request.mcp[k] == 1 }`:                                  false,
		`f(x) := x.http` + "\n" + `a := f(input.request)`:                             true,
		`import input.request.http as h` + "\n" + `a := h.method`:                     true,
		`result["allowed"] := true if input.identity.claims.source == input.app.name`: false,
	} {
		if got := mustCompile(t, rules(src)).ReadsHTTP(); got != want {
			t.Errorf("%s: %v, want %v", src, got, want)
		}
	}
}
