package sts_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/exchange/sts"
)

func keySet(t *testing.T, cfg sts.KeySetConfig) *sts.KeySet {
	t.Helper()
	k, err := sts.NewKeySet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// published are the key ids in a key set, the current one first.
func published(t *testing.T, k *sts.KeySet) []string {
	t.Helper()
	rec := httptest.NewRecorder()
	k.ServeHTTP(rec, httptest.NewRequest("GET", "/jwks", nil))
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, key := range set.Keys {
		if key["d"] != "" || key["use"] != "sig" || key["alg"] == "" {
			t.Errorf("published %v", key)
		}
		ids = append(ids, key["kid"])
	}
	return ids
}

// tended runs k until it has looked once more.
func tended(t *testing.T, k *sts.KeySet) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Run(ctx); err != nil { // looks before it waits
		t.Fatal(err)
	}
}

func pemKey(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func newPEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pemKey(t, key)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// rotation is three hours of signing, published ten minutes before and an hour
// after.
func rotation(dir string, c *clock) sts.KeySetConfig {
	return sts.KeySetConfig{Dir: dir, RotateEvery: 3 * time.Hour, Ahead: 10 * time.Minute, Overlap: time.Hour, Now: c.now}
}

func TestRotation(t *testing.T) {
	for name, dir := range map[string]string{"directory": filepath.Join(t.TempDir(), "keys"), "memory": ""} {
		t.Run(name, func(t *testing.T) {
			c := &clock{}
			k := keySet(t, rotation(dir, c))
			first := k.Current()
			want := func(what string, current string, ids ...string) {
				t.Helper()
				got := published(t, k)
				if k.Current() != current || !slices.Equal(got, ids) {
					t.Fatalf("%s: %s signs, %v are published; want %s, %v", what, k.Current(), got, current, ids)
				}
			}
			tended(t, k)
			want("at first", first, first)
			c.advance(2*time.Hour + 49*time.Minute)
			tended(t, k)
			want("before its time", first, first)
			c.advance(2 * time.Minute)
			tended(t, k)
			second := published(t, k)[1]
			want("ten minutes ahead", first, first, second)
			tended(t, k)
			want("once", first, first, second)
			c.advance(9 * time.Minute)
			want("not yet", first, first, second)
			c.advance(2 * time.Minute)
			want("without a look", second, second, first)
			c.advance(57 * time.Minute)
			tended(t, k)
			want("overlap", second, second, first)
			c.advance(3 * time.Minute)
			want("over", second, second)
			tended(t, k)
			want("over, and looked", second, second)
			if dir != "" && !slices.Equal(files(t, dir), []string{"000002.pem"}) {
				t.Errorf("files %v", files(t, dir))
			}
		})
	}
}

func TestRotate(t *testing.T) {
	c := &clock{}
	k := keySet(t, rotation(t.TempDir(), c))
	first := k.Current()
	if err := k.Rotate(); err != nil {
		t.Fatal(err)
	}
	if got := published(t, k); k.Current() != first || len(got) != 2 {
		t.Errorf("published %v", got)
	}
	c.advance(10 * time.Minute)
	if k.Current() == first {
		t.Error("the new key does not sign")
	}
	for range 20 {
		if err := k.Rotate(); err != nil {
			if !strings.Contains(err.Error(), "already") {
				t.Fatal(err)
			}
			return
		}
	}
	t.Error("keys without end")
}

// Files are for their owner alone, appear whole, and outlive the process.
func TestKeyFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "keys")
	c := &clock{}
	k := keySet(t, rotation(dir, c))
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, "000001.pem"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if got := files(t, dir); !slices.Equal(got, []string{"000001.pem"}) {
		t.Errorf("files %v", got)
	}
	if again := keySet(t, rotation(dir, c)); again.Current() != k.Current() {
		t.Error("a restart changed the key")
	}
	text, err := os.ReadFile(filepath.Join(dir, "000001.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if key, err := sts.ParseKey(text); err != nil || key == nil {
		t.Errorf("not PEM to others: %v", err)
	}
}

// Replicas that begin at once in one directory sign with one key.
func TestReplicas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	c := &clock{}
	sets := make([]*sts.KeySet, 8)
	var wg sync.WaitGroup
	for i := range sets {
		wg.Go(func() {
			var err error
			if sets[i], err = sts.NewKeySet(rotation(dir, c)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	agree := func(count int) {
		t.Helper()
		for _, k := range sets {
			tended(t, k)
		}
		for _, k := range sets {
			if k.Current() != sets[0].Current() || len(published(t, k)) != count {
				t.Fatalf("%s signs with %v", k.Current(), published(t, k))
			}
		}
	}
	agree(1)
	c.advance(2*time.Hour + 51*time.Minute)
	for _, k := range sets {
		wg.Go(func() { tended(t, k) })
	}
	wg.Wait()
	agree(2)
	c.advance(10 * time.Minute)
	agree(2)
}

// Keys that somebody else puts there sign in the order of their times, and stay
// published while they are there.
func TestForeignKeys(t *testing.T) {
	dir := t.TempDir()
	c := &clock{}
	old, young := newPEM(t), newPEM(t)
	write(t, filepath.Join(dir, "2025.pem"), old, 0o640)
	past := c.now().Add(-1000 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "2025.pem"), past, past); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "notes.txt"), "hunter2", 0o644)
	write(t, filepath.Join(dir, ".hidden.pem"), "hunter2", 0o644)
	cfg := rotation(dir, c)
	cfg.RotateEvery = -1
	k := keySet(t, cfg)
	first := k.Current()
	write(t, filepath.Join(dir, "2026.pem"), young, 0o600)
	tended(t, k)
	if got := published(t, k); k.Current() != first || len(got) != 2 {
		t.Errorf("%s signs, published %v", k.Current(), got)
	}
	c.advance(11 * time.Minute)
	second := k.Current()
	if second == first {
		t.Error("the new key does not sign")
	}
	c.advance(1000 * time.Hour)
	tended(t, k)
	if got := published(t, k); !slices.Equal(got, []string{second, first}) {
		t.Errorf("published %v", got)
	}
	if err := os.Remove(filepath.Join(dir, "2025.pem")); err != nil {
		t.Fatal(err)
	}
	tended(t, k)
	if got := published(t, k); !slices.Equal(got, []string{second}) {
		t.Errorf("published %v", got)
	}
}

// What goes wrong with the directory later leaves the keys as they were.
func TestLastGoodKeys(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"garbage":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "x.pem"), []byte("hunter2"), 0o600) },
		"too open":   func(dir string) error { return os.Chmod(filepath.Join(dir, "000001.pem"), 0o644) },
		"empty":      func(dir string) error { return os.Remove(filepath.Join(dir, "000001.pem")) },
		"gone":       os.RemoveAll,
		"a folder":   func(dir string) error { return os.Mkdir(filepath.Join(dir, "x.pem"), 0o700) },
		"large file": func(dir string) error { return os.WriteFile(filepath.Join(dir, "x.pem"), make([]byte, 1<<20), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			c := &clock{}
			var log bytes.Buffer
			cfg := rotation(dir, c)
			cfg.Log = slog.New(slog.NewJSONHandler(&log, nil))
			k := keySet(t, cfg)
			first := published(t, k)
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			tended(t, k)
			if got := published(t, k); !slices.Equal(got, first) {
				t.Errorf("published %v, before %v", got, first)
			}
			if !strings.Contains(log.String(), `"WARN"`) || strings.Contains(log.String(), "hunter2") {
				t.Errorf("log %s", &log)
			}
		})
	}
}

func TestKeySetRefuses(t *testing.T) {
	dir := t.TempDir()
	with := func(name, text string, mode os.FileMode) sts.KeySetConfig {
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(sub, name), text, mode)
		return sts.KeySetConfig{Dir: sub}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cfg  sts.KeySetConfig
		want string
	}{
		"both":                   {sts.KeySetConfig{Dir: dir, PEM: []byte(newPEM(t))}, "both"},
		"algorithm":              {sts.KeySetConfig{Algorithm: "RS256"}, "want ES256 or EdDSA"},
		"negative":               {sts.KeySetConfig{Overlap: -1}, "negative"},
		"faster than published":  {sts.KeySetConfig{RotateEvery: time.Hour}, "faster"},
		"open to all":            {with("a.pem", newPEM(t), 0o644), "want 0600"},
		"no key":                 {with("a.pem", "hunter2", 0o600), "no PEM block"},
		"another curve":          {with("a.pem", pemKey(t, p384), 0o600), "neither"},
		"RSA":                    {with("a.pem", pemKey(t, rsaKey), 0o600), "neither"},
		"a certificate":          {with("a.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})), 0o600), "not a private key"},
		"two keys in a file":     {with("a.pem", newPEM(t)+newPEM(t), 0o600), "more than one"},
		"no time":                {with("000001.pem", "Signs-From: today\n"+newPEM(t), 0o600), "no time"},
		"a file for a directory": {sts.KeySetConfig{Dir: filepath.Join(with("a.pem", "", 0o600).Dir, "a.pem")}, "not a directory"},
		"none, none to be made":  {sts.KeySetConfig{Dir: t.TempDir(), RotateEvery: -1}, "0 keys"},
		"PEM":                    {sts.KeySetConfig{PEM: []byte("hunter2")}, "no PEM block"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := sts.NewKeySet(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Keys given as a text: the first signs, and what a new text lacks stays for a
// while.
func TestPEM(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, b := newPEM(t), pemKey(t, edwards)
	c := &clock{}
	k := keySet(t, sts.KeySetConfig{PEM: []byte(a + b), Now: c.now, Overlap: time.Hour})
	ids := published(t, k)
	if len(ids) != 2 || k.Current() != ids[0] {
		t.Fatalf("%s signs, published %v", k.Current(), ids)
	}
	c.advance(10000 * time.Hour)
	tended(t, k)
	if got := published(t, k); !slices.Equal(got, ids) {
		t.Errorf("published %v", got)
	}
	if err := k.Replace([]byte(b)); err != nil {
		t.Fatal(err)
	}
	if got := published(t, k); k.Current() != ids[1] || !slices.Equal(got, []string{ids[1], ids[0]}) {
		t.Errorf("%s signs, published %v", k.Current(), got)
	}
	c.advance(59 * time.Minute)
	if err := k.Replace([]byte(b)); err != nil { // again: no new hour
		t.Fatal(err)
	}
	c.advance(time.Minute)
	if got := published(t, k); !slices.Equal(got, []string{ids[1]}) {
		t.Errorf("published %v", got)
	}
	tended(t, k)
	if err := k.Replace([]byte("hunter2")); err == nil || strings.Contains(err.Error(), "hunter2") || k.Current() != ids[1] {
		t.Errorf("got %v", err)
	}
	if err := k.Replace([]byte(strings.Repeat(a, 17))); err == nil {
		t.Error("too many keys were taken")
	}
	if k.Rotate() == nil || keySet(t, sts.KeySetConfig{}).Replace([]byte(a)) == nil {
		t.Error("keys of one kind were changed in the way of the other")
	}
}

func TestKeySetServes(t *testing.T) {
	for ahead, want := range map[time.Duration]string{time.Minute: "max-age=30", time.Hour: "max-age=300"} {
		rec := httptest.NewRecorder()
		keySet(t, sts.KeySetConfig{Ahead: ahead}).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		body, err := io.ReadAll(rec.Body)
		if rec.Header().Get("Cache-Control") != want || rec.Header().Get("Content-Type") != "application/json" || !json.Valid(body) {
			t.Errorf("%v %s, %v", rec.Header(), body, err)
		}
	}
}

// Run goes on until it is told to end.
func TestKeySetRun(t *testing.T) {
	dir := t.TempDir()
	cfg := sts.KeySetConfig{Dir: dir, Poll: time.Millisecond}
	k := keySet(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	write(t, filepath.Join(dir, "other.pem"), newPEM(t), 0o600)
	for deadline := time.Now().Add(5 * time.Second); len(published(t, k)) != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the file was not noticed")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
