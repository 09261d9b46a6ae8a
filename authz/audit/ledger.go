package audit

import (
	"errors"
	"sync"
)

// Ledger pairs every decision in a Log with one completion. Completions come from elsewhere, late, and now and then
// not at all; what is still open when the ledger is closed counts as aborted.
type Ledger struct {
	log *Log

	mu       sync.Mutex
	open     map[string]string     // call id of a decision without completion → the host's id of the exchange
	exchange map[string]string     // and back, where the host has ids
	early    map[string]Completion // completions that came before their decision, by call id or by the host's
}

// maxOpen bounds what a ledger remembers. Beyond it the pairing is left to whoever reads the log.
const maxOpen = 100_000

// NewLedger returns a ledger over log, which it closes.
func NewLedger(log *Log) *Ledger {
	return &Ledger{log: log, open: map[string]string{}, exchange: map[string]string{}, early: map[string]Completion{}}
}

// Decision appends a decision record: see Log.Decision.
func (l *Ledger) Decision(d Decision) error {
	if err := l.log.Decision(d); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range []string{d.ID, d.Exchange} {
		if c, ok := l.early[key]; ok && key != "" {
			delete(l.early, key)
			c.ID = d.ID
			return l.log.Completion(c)
		}
	}
	if len(l.open) < maxOpen {
		l.open[d.ID] = d.Exchange
		if d.Exchange != "" {
			l.exchange[d.Exchange] = d.ID
		}
	}
	return nil
}

// Revocation appends a revocation record, which has no completion.
func (l *Ledger) Revocation(r Revocation) error { return l.log.Revocation(r) }

// Completion appends the completion of the decision with c.ID or, when the host never learnt that id, of the one with
// the host's id of the exchange. A completion without a decision is kept for a while, and forgotten.
func (l *Ledger) Completion(c Completion, exchange string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.ID == "" {
		c.ID = l.exchange[exchange]
	}
	known, ok := l.open[c.ID]
	if !ok {
		l.keepEarly(c, exchange)
		return nil
	}
	delete(l.open, c.ID)
	delete(l.exchange, known)
	return l.log.Completion(c)
}

// keepEarly keeps a completion whose decision is still being made. Most are of requests that need none, so any may go
// when there are many.
func (l *Ledger) keepEarly(c Completion, exchange string) {
	key := c.ID
	if key == "" {
		key = exchange
	}
	if len(l.early) >= maxOpen/10 {
		for old := range l.early {
			delete(l.early, old)
			break
		}
	}
	l.early[key] = c
}

// Open returns the number of decisions whose completion is still to come.
func (l *Ledger) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// Close records the open decisions as aborted and closes the log.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for id := range l.open {
		errs = append(errs, l.log.Completion(Completion{ID: id, Outcome: Aborted}))
	}
	clear(l.open)
	return errors.Join(append(errs, l.log.Close())...)
}
