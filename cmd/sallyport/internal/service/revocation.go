package service

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/revocation"
	"github.com/sallyport/sallyport/exchange"
	"github.com/sallyport/sallyport/extproc/hub"
)

// enforceDeadline bounds how long is spent on ending what has been revoked. What is not ended by then is refused all the same.
const enforceDeadline = 5 * time.Second

// newRevocations reads what has been revoked, from the store that replicas share or from a file.
func (s *Service) newRevocations() (*revocation.List, error) {
	c := revocation.Config{Log: s.Log, Skew: s.skew, Learnt: func() { _, _ = s.enforce(context.Background()) }}
	if shared, ok := s.store.(*hub.Redis); ok {
		c.Keeper = revocation.NewRedis(shared.Client())
	} else {
		path := s.Config.Revocation.File
		if path == "" {
			path = strings.TrimSuffix(s.File, filepath.Ext(s.File)) + ".revocations.jsonl"
		}
		const writable = 2 // W_OK of access(2)
		if err := syscall.Access(filepath.Dir(path), writable); err != nil {
			s.Log.Warn("revocations could not be kept: the directory cannot be written; set revocation.file", "file", path, "error", err)
		}
		c.Keeper = revocation.NewFile(path)
	}
	list := revocation.New(c)
	ctx, cancel := context.WithTimeout(context.Background(), storeDeadline)
	defer cancel()
	return list, list.Open(ctx)
}

// enforced is what a revocation has ended.
type enforced struct {
	Streams  int `json:"streams"`  // and calls
	Sessions int `json:"sessions"` // of agents
}

// enforce ends what is open of what is revoked now, and forgets what was remembered of it. The error is the session store's:
// what could not be ended is refused all the same.
func (s *Service) enforce(ctx context.Context) (enforced, error) {
	ctx, cancel := context.WithTimeout(ctx, enforceDeadline)
	defer cancel()
	in := s.now()
	if in.verifier != nil {
		in.verifier.Drop(s.revoked.Revoked)
	}
	named := map[revocation.Kind]map[string]bool{}
	tokens := map[[sha256.Size]byte]bool{}
	for _, e := range s.revoked.Entries() {
		if named[e.Kind] == nil {
			named[e.Kind] = map[string]bool{}
		}
		named[e.Kind][e.Value] = true
		if e.Kind == revocation.JTI {
			tokens[sha256.Sum256([]byte(e.Value))] = true
		}
	}
	for _, c := range in.clients { // a fresh token too many is no harm
		c.Drop(func(r exchange.Reusable) bool {
			return named[revocation.Subject][r.Subject] || named[revocation.Client][r.Agent] || tokens[r.JTI]
		})
	}
	passing := s.processor.Revoke()
	streams, sessions, err := s.hub.Revoke(ctx)
	return enforced{Streams: passing + streams, Sessions: sessions}, err
}

// revoke carries out a command, and says what came of it. The error is for the operator; the revocation may be in force all
// the same, which is in the error then.
func (s *Service) revoke(ctx context.Context, r RevokeRequest) (RevokeAnswer, error) {
	keep, err := r.check(s.now().verifier != nil)
	if err != nil {
		return RevokeAnswer{}, err
	}
	if r.Undo {
		return s.undo(ctx, r.Target)
	}
	e, keeping := s.revoked.Add(ctx, r.Target, keep)
	if e.Target != r.Target { // not in force
		return RevokeAnswer{}, keeping
	}
	answer := RevokeAnswer{Entry: e, Place: s.revoked.Place()}
	record := recordOf(audit.Revoked, e)
	if keeping != nil {
		record.Message = "not kept: " + keeping.Error()
	}
	recording := s.audit.Revocation(record)
	var ending error
	if answer.enforced, ending = s.enforce(ctx); ending == nil && e.Kind == revocation.Session {
		ending = s.hub.EndSession(ctx, e.Value)
	}
	switch {
	case keeping != nil:
		return answer, fmt.Errorf("in force at this replica only, until it ends or can keep it: %w", keeping)
	case recording != nil:
		return answer, fmt.Errorf("in force, but not on record: %w", recording)
	case ending != nil:
		return answer, fmt.Errorf("in force, but sessions at MCP servers are left to their timeouts: %w", ending)
	}
	return answer, nil
}

// undo is on record before it takes effect.
func (s *Service) undo(ctx context.Context, t revocation.Target) (RevokeAnswer, error) {
	for _, e := range s.revoked.Entries() {
		if e.Target != t {
			continue
		}
		if err := s.audit.Revocation(recordOf(audit.Undone, e)); err != nil {
			return RevokeAnswer{}, fmt.Errorf("not undone, as it cannot be put on record: %w", err)
		}
		undone, err := s.revoked.Undo(ctx, t)
		if err != nil {
			err = fmt.Errorf("undone at this replica only, until it ends or can keep that: %w", err)
		}
		return RevokeAnswer{Entry: undone, Place: s.revoked.Place()}, err
	}
	return RevokeAnswer{}, revocation.ErrNone
}

func recordOf(action audit.RevocationAction, e revocation.Entry) audit.Revocation {
	r := audit.Revocation{Action: action, Issuer: e.Issuer, Until: e.Until}
	switch e.Kind {
	case revocation.Subject:
		r.Subject, r.IssuedUntil = e.Value, e.IssuedUntil
	case revocation.Client:
		r.ClientID, r.IssuedUntil = e.Value, e.IssuedUntil
	case revocation.JTI:
		r.JTI = e.Value
	case revocation.Session:
		r.Session = e.Value
	}
	return r
}

func (s *Service) revocationMetrics() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("sallyport_revocations", "Revocations in force.", func() float64 { return float64(len(s.revoked.Entries())) }),
		gauge("sallyport_revocations_last_read_successful", "Whether what is revoked could be read and kept the last time (1) or not (0).", func() float64 {
			if s.revoked.Fresh() {
				return 1
			}
			return 0
		}),
	}
}
