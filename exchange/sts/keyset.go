package sts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// KeySetConfig says where signing keys come from and how they follow each other.
type KeySetConfig struct {
	// Dir is a directory of PEM files, each with one private key, ECDSA on P-256 or
	// Ed25519, that others cannot read (mode 0600, or 0640 for a group). Replicas
	// may share it. Keys that are made are added to it, and deleted when they are
	// no longer published. Files of other origin are taken too and never deleted:
	// such a key signs from Ahead after the file's modification time, and is
	// published as long as the file is there; of equals the last by name signs.
	// What is removed from the directory is no longer published, but for the last.
	Dir string

	// PEM is keys as a text, for a secret store, instead of Dir. The first signs,
	// the others are published. See [KeySet.Replace]. No keys are made then.
	PEM []byte

	// With neither, keys are in memory: the tokens of an earlier process, or of
	// another replica, are then worthless.

	// Algorithm is that of keys that are made: ES256, the default, which every
	// library verifies, or EdDSA, which is twice as fast to sign.
	Algorithm string

	// RotateEvery is how long a key signs before the next one does, default 30
	// days. Negative: no keys are made, somebody else puts them into Dir, which may
	// then be read-only.
	RotateEvery time.Duration

	// Ahead is how long a new key is published before it signs, default 10 min, so
	// that those who verify have it by then. They may keep the key set for half of
	// it.
	Ahead time.Duration

	// Overlap is how long a key stays published after it has signed for the last
	// time, default 2 h. It must cover the longest life of a token and the skew of
	// clocks.
	Overlap time.Duration

	// Poll is how often Dir is looked at, default 10 s.
	Poll time.Duration

	Now func() time.Time // default time.Now
	Log *slog.Logger     // default: no log
}

const (
	maxKeys       = 16
	retryRotation = time.Minute
)

func (cfg *KeySetConfig) complete() error {
	orDefault(&cfg.Algorithm, ES256)
	orDefault(&cfg.RotateEvery, 30*24*time.Hour)
	orDefault(&cfg.Ahead, 10*time.Minute)
	orDefault(&cfg.Overlap, 2*time.Hour)
	orDefault(&cfg.Poll, 10*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Dir != "" && len(cfg.PEM) > 0:
		return errors.New("keys both from a directory and as a text")
	case cfg.Algorithm != ES256 && cfg.Algorithm != EdDSA:
		return fmt.Errorf("algorithm %q: want %s or %s", cfg.Algorithm, ES256, EdDSA)
	case cfg.Ahead < 0 || cfg.Overlap < 0 || cfg.Poll < 0:
		return errors.New("a negative time")
	case cfg.RotateEvery > 0 && cfg.RotateEvery < max(cfg.Ahead, cfg.Overlap):
		return errors.New("keys would follow each other faster than they are published and withdrawn")
	}
	return nil
}

// KeySet is the keys that tokens are signed and verified with: one that signs,
// those before it while their tokens live, and the one after it. Its JSON form
// (RFC 7517 §5) is what it serves. It is safe for concurrent use.
type KeySet struct {
	cfg   KeySetConfig
	state atomic.Pointer[keyState]

	files  sync.Mutex // held while keys are read or made; of what follows
	seen   string     // of the directory, see look
	last   uint64     // number of a file in it
	failed time.Time  // when a key could not be made

	mu   sync.Mutex // of keys; never held while a file is waited for
	keys []*storedKey
}

// storedKey is a key and its time.
type storedKey struct {
	*signingKey
	file string
	made bool      // by us, so that it is withdrawn when its time is over
	from time.Time // when it begins to sign
	end  time.Time // when it is withdrawn; zero for no such time
}

// keyState is what the set is until next, when it changes by itself.
type keyState struct {
	current *storedKey
	public  []*storedKey
	jwks    []byte
	next    time.Time // zero: never
}

// NewKeySet reads the keys, or makes the first.
func NewKeySet(cfg KeySetConfig) (*KeySet, error) {
	err := cfg.complete()
	k := &KeySet{cfg: cfg}
	if err == nil {
		err = k.load()
	}
	if err == nil {
		err = k.arrange(cfg.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("sts: keys: %w", err)
	}
	return k, nil
}

func (k *KeySet) load() error {
	k.files.Lock()
	defer k.files.Unlock()
	switch {
	case len(k.cfg.PEM) > 0:
		return k.replace(k.cfg.PEM)
	case k.cfg.Dir == "":
		return k.add(k.cfg.Now())
	}
	d := directory{k.cfg.Dir}
	files, err := d.open()
	if err == nil && len(files) == 0 && k.cfg.RotateEvery > 0 {
		err = d.add(1, k.cfg.Algorithm, k.cfg.Now())
	}
	if err != nil {
		return err
	}
	return k.reload()
}

// Run keeps the set current until ctx ends; then it returns nil. It takes in what
// changes in the directory, makes the next key in time and deletes what is over.
// What fails is logged, and the last good keys stay in use.
func (k *KeySet) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Poll)
	defer tick.Stop()
	for {
		k.tend()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (k *KeySet) tend() {
	k.files.Lock()
	defer k.files.Unlock()
	if k.cfg.Dir != "" {
		if err := k.reload(); err != nil {
			k.cfg.Log.Warn("signing keys not read again", "dir", k.cfg.Dir, "error", err)
		}
	}
	now := k.cfg.Now()
	if k.due(now) {
		if err := k.add(now.Add(k.cfg.Ahead)); err != nil {
			k.failed = now
			k.cfg.Log.Warn("no new signing key", "error", err, "retry_in", retryRotation)
		}
	}
	if err := k.arrange(now); err != nil {
		k.cfg.Log.Warn("signing keys not arranged", "error", err)
	}
	k.forget()
}

// due tells whether it is time for the next key to be published.
func (k *KeySet) due(now time.Time) bool {
	if k.cfg.RotateEvery < 0 || len(k.cfg.PEM) > 0 || now.Before(k.failed.Add(retryRotation)) {
		return false
	}
	newest := k.list()[len(k.list())-1]
	return !newest.from.Add(k.cfg.RotateEvery).After(now.Add(k.cfg.Ahead))
}

// Rotate makes a new key now, without waiting for its time. It signs after Ahead.
func (k *KeySet) Rotate() error {
	if len(k.cfg.PEM) > 0 {
		return errors.New("sts: keys: given as a text, they are replaced")
	}
	k.files.Lock()
	defer k.files.Unlock()
	now := k.cfg.Now()
	err := k.add(now.Add(k.cfg.Ahead))
	if err == nil {
		err = k.arrange(now)
	}
	if err != nil {
		return fmt.Errorf("sts: keys: %w", err)
	}
	return nil
}

// add makes a key.
func (k *KeySet) add(from time.Time) error {
	keys := k.list()
	if len(keys) >= maxKeys {
		return fmt.Errorf("there are %d keys already", len(keys))
	}
	if k.cfg.Dir != "" {
		if err := (directory{k.cfg.Dir}).add(k.last+1, k.cfg.Algorithm, from); err != nil {
			return err
		}
		return k.reload()
	}
	private, err := generateKey(k.cfg.Algorithm)
	if err != nil {
		return err
	}
	key, err := newSigningKey(private)
	if err != nil {
		return err
	}
	k.set(append(keys, &storedKey{signingKey: key, made: true, from: from}))
	return nil
}

// Replace takes the keys of a new text, where they were given as one. Those that
// it no longer has stay published for Overlap. To let everybody know a key before
// it signs, add it at the end first and move it to the front later.
func (k *KeySet) Replace(text []byte) error {
	if len(k.cfg.PEM) == 0 {
		return errors.New("sts: keys: not given as a text")
	}
	k.files.Lock()
	defer k.files.Unlock()
	err := k.replace(text)
	if err == nil {
		err = k.arrange(k.cfg.Now())
	}
	if err != nil {
		return fmt.Errorf("sts: keys: %w", err)
	}
	return nil
}

func (k *KeySet) replace(text []byte) error {
	parsed, err := parseKeys(text)
	if err != nil {
		return err
	}
	now := k.cfg.Now()
	var keys []*storedKey
	for i, key := range parsed {
		// The order of the text stands in for times: the first is the newest.
		keys = append(keys, &storedKey{signingKey: key, from: time.Unix(int64(len(parsed)-i), 0)})
	}
	for _, old := range k.list() {
		if slices.ContainsFunc(keys, func(s *storedKey) bool { return s.kid == old.kid }) {
			continue
		}
		gone := &storedKey{signingKey: old.signingKey, from: time.Unix(0, 0), end: old.end}
		if gone.end.IsZero() {
			gone.end = now.Add(k.cfg.Overlap)
		}
		if now.Before(gone.end) {
			keys = append(keys, gone)
		}
	}
	if len(keys) > maxKeys {
		return fmt.Errorf("more than %d keys", maxKeys)
	}
	k.set(keys)
	return nil
}

// reload reads the directory if it has changed. An empty one is more likely a
// volume that is not there than the wish to have no key at all.
func (k *KeySet) reload() error {
	d := directory{k.cfg.Dir}
	files, err := d.files()
	if err != nil {
		return err
	}
	seen := look(files)
	if seen == k.seen && seen != "" {
		return nil
	}
	keys, err := d.read(files, k.cfg.Ahead)
	if err != nil {
		return err
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return fmt.Errorf("%d keys in %s: want 1 to %d", len(keys), k.cfg.Dir, maxKeys)
	}
	k.seen, k.last = seen, lastNumber(files)
	k.set(keys)
	return nil
}

func (k *KeySet) list() []*storedKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.keys)
}

func (k *KeySet) set(keys []*storedKey) {
	slices.SortStableFunc(keys, func(a, b *storedKey) int {
		return cmp.Or(a.from.Compare(b.from), strings.Compare(a.file, b.file))
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
}

// arrange settles which key signs and which are published, as of now.
func (k *KeySet) arrange(now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &keyState{}
	change := func(at time.Time) {
		if at.After(now) && (s.next.IsZero() || at.Before(s.next)) {
			s.next = at
		}
	}
	current := 0
	for i, key := range k.keys {
		if !key.from.After(now) {
			current = i
		}
		change(key.from)
	}
	s.current = k.keys[current]
	s.public = append(s.public, s.current)
	for i := len(k.keys) - 1; i >= 0; i-- {
		key := k.keys[i]
		if i < current && key.made {
			key.end = k.keys[i+1].from.Add(k.cfg.Overlap)
		}
		change(key.end)
		if i != current && (key.end.IsZero() || now.Before(key.end)) {
			s.public = append(s.public, key)
		}
	}
	list := make([]*signingKey, len(s.public))
	for i, key := range s.public {
		list[i] = key.signingKey
	}
	var err error
	if s.jwks, err = keySetJSON(list...); err != nil {
		return err
	}
	if old := k.state.Swap(s); old == nil || old.current.kid != s.current.kid {
		k.cfg.Log.Info("signing key", "kid", s.current.kid, "alg", s.current.alg, "published", len(list))
	}
	return nil
}

// forget drops the keys that are no longer published, and deletes those of their
// files that we made.
func (k *KeySet) forget() {
	public := k.state.Load().public
	over := func(key *storedKey) bool { return !slices.Contains(public, key) }
	keys := k.list()
	if k.cfg.Dir == "" {
		k.set(slices.DeleteFunc(keys, over))
		return
	}
	for _, key := range keys {
		if !key.made || !over(key) {
			continue
		}
		if err := (directory{k.cfg.Dir}).remove(key.file); err != nil {
			k.cfg.Log.Warn("old signing key not deleted", "file", key.file, "error", err)
		}
	}
}

// now is the set as of this moment.
func (k *KeySet) now() *keyState {
	s := k.state.Load()
	if at := k.cfg.Now(); !s.next.IsZero() && !at.Before(s.next) {
		if err := k.arrange(at); err == nil {
			return k.state.Load()
		}
	}
	return s
}

// Current is the key id of the key that signs now.
func (k *KeySet) Current() string { return k.now().current.kid }
