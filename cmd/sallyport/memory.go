package main

import (
	"io/fs"
	"iter"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// gcPercent is how much garbage may pile up before it is collected, in percent of what is live. What is live is little, and
// a call leaves much garbage: Go's default of 100 would spend a third of the time on collecting it. The memory limit
// collects earlier where memory runs short.
const gcPercent = 400

// tuneMemory sets the collector's pace by the memory there is: share of it, from 0 to 1, is for this process. GOGC and
// GOMEMLIMIT, where the operator has set them, win.
func tuneMemory(share float64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := memory(os.DirFS("/")); limit < math.MaxInt64 {
			debug.SetMemoryLimit(int64(float64(limit) * share))
		}
	}
}

// memory is how many bytes the process, and what shares its control groups, may use: the least of the machine's memory and
// the limits of its groups, of either version, and of those around them. math.MaxInt64: there is no telling.
func memory(root fs.FS) int64 {
	limit := int64(math.MaxInt64)
	consider := func(text string, unit int64) {
		if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && n > 0 && n <= math.MaxInt64/unit { // "max" is none
			limit = min(limit, n*unit)
		}
	}
	for line := range lines(root, "proc/meminfo") {
		if total, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			consider(strings.TrimSuffix(total, " kB"), 1<<10)
		}
	}
	for line := range lines(root, "proc/self/cgroup") {
		fields := strings.SplitN(line, ":", 3) // id, controllers, path
		if len(fields) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch fields[1] {
		case "":
		case "memory": // version 1
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// In a container the path may be the host's, which is not there to see; then the mount is the group.
		for group := path.Join("/", fields[2]); ; group = path.Dir(group) {
			if text, err := fs.ReadFile(root, path.Join(mount, group, file)); err == nil {
				consider(string(text), 1)
			}
			if group == "/" {
				break
			}
		}
	}
	return limit
}

// lines are a file's; none when it cannot be read.
func lines(root fs.FS, name string) iter.Seq[string] {
	text, _ := fs.ReadFile(root, name)
	return strings.SplitSeq(string(text), "\n")
}
