package e2e

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestDemo runs what a newcomer runs first. The program itself checks each step of its story and fails when one does
// not go as promised.
func TestDemo(t *testing.T) {
	cmd := exec.Command(sallyport, "demo", "-once", "-address", freePort(t), "-envoy", envoyBinary)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"401 Unauthorized", "resource_metadata=", "mirror_whoami", "lifetime                     5s",
		"refused  Orders of more than 10 need a human.", "refused  Orders of more than 3 need a human.", "hash chain intact", "claude mcp add"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the story lacks %q", want)
		}
	}
	if token := regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}`).Find(out); token != nil {
		t.Error("the story shows a token")
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
