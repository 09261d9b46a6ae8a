package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

const (
	// pollInterval is how often the files are looked at. Polling contents, not watching names, is what survives the
	// symlink swaps of Kubernetes volumes and the rename dances of editors.
	pollInterval = 500 * time.Millisecond
	// retryInterval is how often a reload that failed for a reason beyond the files is tried again.
	retryInterval = 5 * time.Second
	// partsDeadline bounds how long new authorization servers and connectors are waited for.
	partsDeadline = 3 * time.Second
)

// grace is how long a verdict may be on its way: what it names stays that long.
func (s *Service) grace() time.Duration { return s.messageTimeout + 5*time.Second }

// elsewhere is an error whose cause is not in the files, so that trying again may help.
type elsewhere struct{ error }

func (e elsewhere) Unwrap() error { return e.error }

// watch reloads when a file that the configuration was built from changes. A file that does not load keeps what
// runs, and says so.
func (s *Service) watch(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var again time.Time // when to try a failed reload again; zero: when a file changes
	for last := s.Config; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		s.dismiss(ctx, time.Now())
		if !last.Changed() && (again.IsZero() || time.Now().Before(again)) {
			continue
		}
		var err error
		last, err = s.reload(ctx)
		again = time.Time{}
		if errors.As(err, &elsewhere{}) {
			again = time.Now().Add(retryInterval)
		}
		s.reloads.done(err)
		if err != nil {
			s.Log.Error("configuration not reloaded; the previous one stays in force", "error", err)
			continue
		}
		s.Log.Info("configuration reloaded")
	}
}

// reload puts the files as they are now in force, all of them or nothing. It returns what it read in any case.
//
// The order is what keeps calls from being lost: Envoy has the new routes beside the old ones before any verdict names them,
// and the old ones until no verdict can any more.
func (s *Service) reload(ctx context.Context) (*config.Config, error) {
	cfg, problems := s.Load()
	for _, p := range problems {
		if !p.Warning {
			return cfg, errors.New(p.String())
		}
	}
	if err := s.restart(cfg); err != nil {
		return cfg, err
	}
	old := s.now()
	n, err := s.build(cfg, old)
	if err != nil {
		return cfg, err
	}
	if n.gate, err = s.newGate(n); err != nil {
		return cfg, err
	}
	s.startParts(n)
	if err := s.prepare(ctx, n, old); err != nil {
		for name, p := range n.parts {
			if old.parts[name] != p && p.end != nil {
				p.end()
			}
		}
		return cfg, err
	}
	s.state.Store(n) // the hub's first: it is to know what verdicts will be about
	if s.life != nil {
		s.hub.Prime(ctx)
	}
	s.setGate(n)
	return cfg, nil
}

// prepare does what can fail of a reload.
func (s *Service) prepare(ctx context.Context, n, old *state) error {
	if err := s.awaitParts(ctx, n, old); err != nil {
		return elsewhere{err}
	}
	if err := s.push(ctx, n); err != nil {
		return elsewhere{err}
	}
	if s.ads != nil && s.ads.Stats().Envoys > 0 && !slices.Equal(routesOf(n), routesOf(old)) {
		select {
		case <-time.After(settleTime):
		case <-ctx.Done():
		}
	}
	err := n.rotate()
	if err == nil {
		err = rekey(n.mints)
	}
	if err != nil {
		return errors.Join(err, s.push(ctx, old))
	}
	return nil
}

func routesOf(s *state) (out []string) {
	for _, a := range s.envoy.Apps {
		out = append(out, a.Route)
	}
	slices.Sort(out)
	return out
}

// startParts has what n has more than the state before begin to work, if anything works yet.
func (s *Service) startParts(n *state) {
	if s.life == nil {
		return
	}
	for _, p := range n.parts {
		if p.end != nil {
			continue
		}
		var ctx context.Context
		ctx, p.end = context.WithCancel(s.life)
		s.group.Go(func() error { return ignoreEnd(p.run(ctx)) })
	}
}

// awaitParts waits until what is new can be used. What could not be used before either is not waited for.
func (s *Service) awaitParts(ctx context.Context, n, old *state) error {
	if s.life == nil {
		return nil
	}
	deadline := time.Now().Add(partsDeadline)
	for {
		var lacking []string
		for name, p := range n.parts {
			if before := old.parts[name]; before != p && p.lacks != nil {
				lacking = append(lacking, beyond(p.lacks(), before)...)
			}
		}
		if len(lacking) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not to be had: %s", strings.Join(lacking, ", "))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// beyond is what is lacking more than before.
func beyond(lacking []string, before *part) []string {
	if before == nil || before.lacks == nil {
		return lacking
	}
	was := before.lacks()
	return slices.DeleteFunc(lacking, func(what string) bool { return slices.Contains(was, what) })
}

// rotate has the clients of authorization servers use the secrets of the configuration.
func (s *state) rotate() error {
	for _, c := range s.cfg.Connectors {
		secret := c.OAuthClientSecret.Reveal()
		for _, a := range s.cfg.Apps {
			client, x := s.clients[a.Name], a.Authorization.Outbound.TokenExchange
			if client == nil || x.IDP != c.Name || secret == "" {
				continue
			}
			if err := client.SetSecret(secret); err != nil {
				return err
			}
		}
	}
	return nil
}

// dismiss lets go of what no call can need any more.
func (s *Service) dismiss(ctx context.Context, now time.Time) {
	old := s.now()
	over := func(l leaving) bool { return now.After(l.until) }
	if !slices.ContainsFunc(old.leaving, over) {
		return
	}
	n := *old
	n.leaving = slices.DeleteFunc(slices.Clone(old.leaving), over)
	if err := s.push(ctx, &n); err != nil {
		s.Log.Warn("what is no longer used could not be taken from Envoy yet", "error", err)
		return
	}
	for _, l := range old.leaving {
		for _, p := range l.parts {
			if over(l) && p.end != nil {
				p.end()
			}
		}
	}
	s.state.Store(&n)
}
