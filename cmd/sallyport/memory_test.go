package main

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestMemory(t *testing.T) {
	const machine = "MemTotal:       1000 kB\nMemFree:  1 kB\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing to read", nil, math.MaxInt64},
		{"a machine", map[string]string{"proc/meminfo": machine}, 1000 << 10},
		{"a group", map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "4096\n"}, 4096},
		{"the group around it", map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "8192\n"}, 8192},
		{"a container that sees the host's path", map[string]string{"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/memory.max": "512\n"}, 512},
		{"version 1", map[string]string{"proc/self/cgroup": "3:cpu:/c\n4:memory:/c\nx\n", "sys/fs/cgroup/memory/c/memory.limit_in_bytes": "2048\n"}, 2048},
		{"more than the machine has", map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "9223372036854771712\n"}, 1000 << 10},
		{"no number", map[string]string{"proc/meminfo": "MemTotal: 99999999999999999999 kB\n", "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "-1\n"}, math.MaxInt64},
	} {
		root := fstest.MapFS{}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := memory(root); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// What the operator has set stays.
func TestTuneMemory(t *testing.T) {
	before, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	defer func() { debug.SetGCPercent(before); debug.SetMemoryLimit(limit) }()
	t.Setenv("GOGC", "100")
	t.Setenv("GOMEMLIMIT", "off")
	tuneMemory(0.9)
	if percent := debug.SetGCPercent(100); percent != 100 || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		t.Errorf("GOGC=100 became %d, and no limit %d", percent, debug.SetMemoryLimit(-1))
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	tuneMemory(0.9)
	if percent := debug.SetGCPercent(100); percent != gcPercent || debug.SetMemoryLimit(-1) == math.MaxInt64 {
		t.Errorf("percent %d, limit %d", percent, debug.SetMemoryLimit(-1))
	}
}
