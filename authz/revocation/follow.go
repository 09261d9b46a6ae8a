package revocation

import (
	"context"
	"time"
)

const (
	lookInterval = 200 * time.Millisecond // between looks at what is kept: replicas follow within this
	keepDeadline = 2 * time.Second        // for each
)

// Run follows what is kept, puts back what is missing there, and forgets what has ended, until ctx ends.
func (l *List) Run(ctx context.Context) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case late := <-l.late:
			l.prolong(ctx, late)
		case <-tick.C:
			l.look(ctx)
		}
	}
}

// look reads what is kept if it has changed, or could not be read the last time.
func (l *List) look(ctx context.Context) {
	news := l.forget()
	within, cancel := context.WithTimeout(ctx, keepDeadline)
	defer cancel()
	learnt, err := l.reread(within)
	if ctx.Err() != nil {
		return
	}
	switch was := l.fresh.Swap(err == nil); {
	case err != nil && was:
		l.cfg.Log.Error("revocations cannot be read or kept; those that are known stay in force", "kept", l.Place(), "error", err)
	case err == nil && !was:
		l.cfg.Log.Info("revocations can be read and kept again", "kept", l.Place())
	}
	if news || learnt {
		l.cfg.Learnt()
	}
}

func (l *List) reread(ctx context.Context) (learnt bool, err error) {
	l.keeping.Lock()
	changed, err := l.cfg.Keeper.Changed(ctx)
	l.keeping.Unlock()
	l.mu.Lock()
	settled := !changed && l.fresh.Load() && len(l.unkept) == 0
	l.mu.Unlock()
	if err != nil || settled {
		return false, err
	}
	return l.read(ctx)
}

// read takes in what is kept, and has what is missing there kept. It reports whether there was news.
func (l *List) read(ctx context.Context) (learnt bool, err error) {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	kept, err := l.cfg.Keeper.Load(ctx)
	if err != nil {
		return false, err
	}
	learnt, missing := l.merge(kept)
	if len(missing) > 0 {
		err = l.keep(ctx, missing...)
	}
	return learnt, err
}

// merge takes in what is kept, and returns what is not.
func (l *List) merge(kept []Entry) (learnt bool, missing []Entry) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	there := map[Target]Entry{}
	for _, e := range kept {
		if old, ok := there[e.Target]; !ok || e.supersedes(&old) {
			there[e.Target] = e
		}
	}
	for t, e := range there {
		if old, ok := l.entries[t]; now.Before(e.Until) && (!ok || e.supersedes(&old)) {
			l.entries[t] = e
			learnt = true
		}
	}
	for t, e := range l.entries {
		if there, ok := there[t]; !ok || e.supersedes(&there) {
			missing = append(missing, e)
		} else {
			delete(l.unkept, t)
		}
	}
	if learnt {
		l.rebuild()
	}
	return learnt, missing
}

// forget drops what has ended. It reports whether there was any.
func (l *List) forget() (some bool) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for t, e := range l.entries {
		if !now.Before(e.Until) {
			delete(l.entries, t)
			delete(l.unkept, t)
			some = true
		}
	}
	if some {
		l.rebuild()
	}
	return some
}

// prolong keeps an entry until the last token of its target's that has been seen must have expired. It goes by whole hours,
// so that many tokens do not make many changes.
func (l *List) prolong(ctx context.Context, late lateness) {
	ctx, cancel := context.WithTimeout(ctx, keepDeadline)
	defer cancel()
	now := l.cfg.Now()
	until := late.until.Add(l.cfg.Skew + time.Hour)
	if last := now.Add(MaxKeep); until.After(last) {
		until = last
	}
	until = until.UTC().Truncate(time.Hour)
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.mu.Lock()
	e, ok := l.entries[late.target]
	if !ok || !e.inForce(now) || !until.After(e.Until) {
		l.mu.Unlock()
		return
	}
	e.Until = until
	l.set(e)
	l.mu.Unlock()
	_ = l.keep(ctx, e) // else look does, and says so
}
