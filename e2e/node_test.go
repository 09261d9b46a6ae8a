package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// nodeProgram is a command that runs one of the programs which `npm ci` installed (e2e/node), with the Node that came
// with them: the machine's own may be too old. It gets nothing of our environment.
func nodeProgram(ctx context.Context, t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	root := os.Getenv("NODE_TOOLS")
	if root == "" {
		root = filepath.Join("..", "build", "node")
	}
	bin, err := filepath.Abs(filepath.Join(root, "node_modules", ".bin"))
	must(t, err)
	for _, file := range []string{"node", name} {
		if _, err := os.Stat(filepath.Join(bin, file)); err != nil {
			t.Fatalf("%v; run `make node` first", err)
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "node"), append([]string{filepath.Join(bin, name)}, args...)...)
	cmd.Env = []string{"PATH=" + bin + string(filepath.ListSeparator) + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return cmd
}
