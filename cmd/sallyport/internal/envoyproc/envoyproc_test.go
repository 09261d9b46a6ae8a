package envoyproc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSplit(t *testing.T) {
	for _, test := range []struct {
		line            string
		level           slog.Level
		component, text string
	}{
		{"warning\tconfig\tsomething odd", slog.LevelWarn, "config", "something odd"},
		{"error\tupstream\tno healthy host", slog.LevelError, "upstream", "no healthy host"},
		{"critical\tmain\tout of memory", slog.LevelError, "main", "out of memory"},
		{"info\tmain\tstarting", slog.LevelInfo, "main", "starting"},
		{"debug\thttp\tdetail", slog.LevelDebug, "http", "detail"},
		{"trace\thttp\tdetail", slog.LevelDebug, "http", "detail"},
		{"warning\tconfig\ta\ttab", slog.LevelWarn, "config", "a\ttab"},
		{"warning\tconfig\tx is marked as work-in-progress", slog.LevelDebug, "config", "x is marked as work-in-progress"},
		{"Segmentation fault", slog.LevelInfo, "", "Segmentation fault"},
		{"a\tb", slog.LevelInfo, "", "a\tb"},
		{"", slog.LevelInfo, "", ""},
	} {
		level, component, text := split(test.line)
		if level != test.level || component != test.component || text != test.text {
			t.Errorf("%q: %v %q %q", test.line, level, component, text)
		}
	}
}

// executable makes a program and returns its path.
func executable(t *testing.T, dir, name, script string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	return path
}

func TestFind(t *testing.T) {
	dir, onPath := t.TempDir(), t.TempDir()
	named := executable(t, dir, "named", "")
	env := executable(t, dir, "env", "")
	path := executable(t, onPath, "envoy", "")
	plain := filepath.Join(dir, "plain")
	must(t, os.WriteFile(plain, nil, 0o600))
	for _, test := range []struct{ name, flag, env, path, want string }{
		{"the flag wins", named, env, onPath, named},
		{"the environment is next", "", env, onPath, env},
		{"then PATH", "", "", onPath, path},
		{"a flag that names nothing is no reason to look on", filepath.Join(dir, "none"), env, onPath, ""},
		{"nor is a variable", "", filepath.Join(dir, "none"), onPath, ""},
		{"nor a file that is no program", plain, "", onPath, ""},
		{"nowhere", "", "", dir, ""},
	} {
		t.Setenv("ENVOY", test.env)
		t.Setenv("PATH", test.path)
		got, err := Find(test.flag)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s: %q, %v", test.name, got, err)
		}
	}
	t.Setenv("ENVOY", "")
	if _, err := Find(""); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("the cure is missing: %v", err)
	}
}

// lines collects log records.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) records(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(l.b.String()) {
		r := map[string]any{}
		must(t, json.Unmarshal([]byte(line), &r))
		out = append(out, r)
	}
	return out
}

func TestRelog(t *testing.T) {
	var out lines
	long := strings.Repeat("x", 1<<21) // longer than any buffer: it must not stop the pipe
	in := "warning\tconfig\todd\nplain\nerror\tmain\t\"quoted\"\x1b[31m\n" + "info\tmain\t" + long + "\nerror\tmain\tafter\n"
	relog(io.NopCloser(strings.NewReader(in)), slog.New(slog.NewJSONHandler(&out, nil)))
	records := out.records(t)
	if len(records) < 3 || records[0]["msg"] != "odd" || records[0]["level"] != "WARN" || records[0]["source"] != "envoy" || records[0]["component"] != "config" {
		t.Fatalf("%d records: %v", len(records), records)
	}
	if last := records[len(records)-1]["msg"]; last != "after" {
		t.Errorf("what comes after a long line is lost, and Envoy would stop on a full pipe: last %.20q", last)
	}
}

func config(t *testing.T, script string, log io.Writer) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{Binary: executable(t, dir, "envoy", script), Bootstrap: filepath.Join(dir, "envoy.yaml"),
		AdminSocket: filepath.Join(dir, "admin.sock"), Log: slog.New(slog.NewJSONHandler(log, nil))}
}

func TestProcessThatEnds(t *testing.T) {
	var out lines
	p, err := Start(config(t, `printf '%s ' "$*" | tr '\t' _; echo; printf 'error\tmain\tfailed\n' >&2; exit 3`, &out))
	must(t, err)
	<-p.Done()
	if p.Err() == nil || !strings.Contains(p.Err().Error(), "exit status 3") {
		t.Errorf("error %v", p.Err())
	}
	records := out.records(t)
	if len(records) != 2 || !strings.Contains(records[0]["msg"].(string), "--disable-hot-restart") || records[1]["level"] != "ERROR" {
		t.Errorf("log %v", records)
	}
	if p.Listening(t.Context()) {
		t.Error("listening after its end")
	}
}

func TestProcessIsStopped(t *testing.T) {
	for name, script := range map[string]string{
		"at once":   `exec sleep 60`,
		"by force":  `trap '' TERM; while :; do sleep 0.1; done`,
		"by itself": `exit 0`,
	} {
		var out lines
		p, err := Start(config(t, script, &out))
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		p.Stop(ctx)
		cancel()
		select {
		case <-p.Done():
		case <-time.After(10 * time.Second):
			t.Errorf("%s: still there", name)
		}
	}
}

func TestStartErrors(t *testing.T) {
	c := config(t, "", io.Discard)
	c.Binary = filepath.Join(t.TempDir(), "none")
	if p, err := Start(c); err == nil || p != nil {
		t.Errorf("%v, %v", p, err)
	}
}
