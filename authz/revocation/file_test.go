package revocation

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz/token"
)

func TestFileSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.jsonl")
	l := newList(t, NewFile(path))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("made without need: %v", err)
	}
	revoke(t, l, Target{Kind: Subject, Value: "a \"quoted\" ünï", Issuer: "https://a"})
	revoke(t, l, Target{Kind: JTI, Value: "j-1"})
	revoke(t, l, Target{Kind: Client, Value: "gone"})
	_, err := l.Undo(t.Context(), Target{Kind: Client, Value: "gone"})
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again := newList(t, NewFile(path))
	for _, changed := range []func(*token.Identity){nil, func(id *token.Identity) { id.JTI, id.Subject = "", "a \"quoted\" ünï" }} {
		if !again.Revoked(identity(changed)) {
			t.Errorf("forgotten: %+v", identity(changed))
		}
	}
	if again.Revoked(identity(func(id *token.Identity) { id.JTI, id.ClientID = "j-9", "gone" })) || len(again.Entries()) != 2 {
		t.Errorf("in force: %+v", again.Entries())
	}
}

func TestFileIsShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.jsonl")
	here, there := newList(t, NewFile(path)), newList(t, NewFile(path))
	follow(t, there)
	revoke(t, here, Target{Kind: Subject, Value: alice})
	soon(t, "the other replica to follow", func() bool { return there.Revoked(identity(nil)) })
	must(t, os.Remove(path))
	soon(t, "the file to be back", func() bool {
		all, err := NewFile(path).Load(t.Context())
		return err == nil && len(all) == 1
	})
	must(t, os.WriteFile(path, []byte("{\n"), 0o600))
	soon(t, "the fault to be noticed", func() bool { return !there.Fresh() })
	if !there.Revoked(identity(nil)) {
		t.Error("what was known is forgotten")
	}
}

func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waiting for " + what)
		}
	}
}

func TestFaultyFile(t *testing.T) {
	at := time.Now()
	good := Entry{Target: Target{Kind: Subject, Value: alice}, At: at, IssuedUntil: at, Until: at.Add(time.Hour)}
	line := string(good.encode())
	for name, tt := range map[string]struct{ content, says string }{
		"no JSON":         {line + "\nrevoke bob\n", ":2: not a revocation"},
		"half a line":     {line + "\n" + line[:20], ":2: not a whole line"},
		"without its end": {line, ":1: not a whole line"},
		"torn, then more": {line[:20] + line + "\n", ":1: not a revocation"},
		"an empty line":   {"\n" + line + "\n", ":1: not a revocation"},
		"an unknown key":  {strings.Replace(line, `"kind"`, `"why":"x","kind"`, 1) + "\n", ":1: not a revocation"},
		"two in a line":   {line + line + "\n", ":1: not a revocation"},
		"no such kind":    {strings.Replace(line, `"subject"`, `"everybody"`, 1) + "\n", `:1: kind "everybody"`},
		"no time":         {`{"kind":"subject","value":"x"}` + "\n", ":1: not a revocation: a time is missing"},
		"long":            {strings.Repeat("x", maxLine+1) + "\n", ":1: longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "r.jsonl")
			must(t, os.WriteFile(path, []byte(tt.content), 0o600))
			l := New(Config{Keeper: NewFile(path)})
			if err := l.Open(t.Context()); err == nil || !strings.Contains(err.Error(), path+tt.says) {
				t.Errorf("read: %v", err)
			}
			if _, err := l.Add(t.Context(), Target{Kind: JTI, Value: "x"}, time.Hour); err == nil || !strings.Contains(err.Error(), path+tt.says) {
				t.Errorf("written: %v", err)
			}
			after, err := os.ReadFile(path)
			must(t, err)
			if string(after) != tt.content {
				t.Errorf("changed to %q", after)
			}
		})
	}
	open := filepath.Join(t.TempDir(), "open.jsonl")
	must(t, os.WriteFile(open, nil, 0o600))
	must(t, os.Chmod(open, 0o606))
	for _, path := range []string{open, t.TempDir()} {
		if err := New(Config{Keeper: NewFile(path)}).Open(t.Context()); err == nil {
			t.Errorf("%s: accepted", path)
		}
	}
}

// Many changes do not make the file grow without end, and several processes that write it lose nothing.
func TestFileIsWrittenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.jsonl")
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			l := New(Config{Keeper: NewFile(path)})
			if err := l.Open(t.Context()); err != nil {
				t.Error(err)
			}
			for range 50 {
				if _, err := l.Add(t.Context(), Target{Kind: Subject, Value: fmt.Sprint(w)}, time.Hour); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	content, err := os.ReadFile(path)
	must(t, err)
	if n := strings.Count(string(content), "\n"); n > 2*4+100 {
		t.Errorf("%d lines", n)
	}
	if n := len(newList(t, NewFile(path)).Entries()); n != 4 {
		t.Errorf("%d entries", n)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestFullFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.jsonl")
	f, now := NewFile(path), time.Now()
	var all []Entry
	for i := range MaxEntries {
		all = append(all, Entry{Target: Target{Kind: JTI, Value: fmt.Sprint(i)}, At: now, Until: now.Add(time.Hour)})
	}
	must(t, f.Put(t.Context(), all...))
	one := Entry{Target: Target{Kind: JTI, Value: "more"}, At: now, Until: now.Add(time.Hour)}
	if err := f.Put(t.Context(), one); !errors.Is(err, ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if got, err := f.Load(t.Context()); err != nil || len(got) != MaxEntries {
		t.Errorf("%d entries, %v", len(got), err)
	}
}
