package service

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/exchange/sts"
)

// mint is a connector of type sts at work: keys, and what is published about them. Each app that uses it has a minter
// of its own, so that its tokens can be counted.
type mint struct {
	config.Connector
	keys *keySet
}

// keySet is a mint's keys, and the text that they are from; "" for a directory's.
type keySet struct {
	*sts.KeySet
	text config.Secret
}

// same reports whether the two mint alike.
func (m *mint) same(o *mint) bool {
	return o != nil && m.keys == o.keys && m.Issuer == o.Issuer && m.OAuthClientID == o.OAuthClientID
}

// newMints makes the connectors of type sts, by name. Keys are those of old, unless they come from somewhere else now.
func newMints(n, old *state, log *slog.Logger) (map[string]*mint, error) {
	mints := map[string]*mint{}
	for _, c := range n.cfg.Connectors {
		if c.Type != "sts" {
			continue
		}
		name, from := "keys of "+c.Name, sum(c.KeyDir, c.Algorithm, c.RotateEvery, c.Keys != "")
		if p := old.kept(name, from); p != nil {
			n.parts[name], mints[c.Name] = p, &mint{c, old.mints[c.Name].keys}
			continue
		}
		rotate := c.RotateEvery
		if rotate == 0 {
			rotate = -1 // somebody else makes the keys
		}
		keys, err := sts.NewKeySet(sts.KeySetConfig{Dir: c.KeyDir, PEM: []byte(c.Keys.Reveal()), Algorithm: c.Algorithm,
			RotateEvery: rotate, Log: log.With("connector", c.Name)})
		if err != nil {
			return nil, fmt.Errorf("connector %s: %w", c.Name, err)
		}
		mints[c.Name] = &mint{c, &keySet{keys, c.Keys}}
		n.parts[name] = &part{from: from, run: keys.Run}
	}
	return mints, nil
}

func (m *mint) minter() (*sts.Minter, error) {
	return sts.NewMinter(sts.MinterConfig{Issuer: m.Issuer, ClientID: m.OAuthClientID, Keys: m.keys.KeySet})
}

// published are what the connectors of type sts have to say to those who verify their tokens: by the address where it is
// served, and, for issuers at the gateway's own address, by the path there.
func published(cfg *config.Config, mints map[string]*mint) (map[string]http.Handler, map[string]authz.Document, error) {
	handlers, documents := map[string]http.Handler{}, map[string]authz.Document{}
	for _, m := range mints {
		minter, err := m.minter()
		if err != nil {
			return nil, nil, fmt.Errorf("connector %s: %w", m.Name, err)
		}
		if m.Address != "" {
			handlers[m.Address] = minter.Handler()
		}
		if !cfg.AtGateway(m.Issuer) {
			continue
		}
		for path, document := range minter.Documents() {
			documents[path] = authz.Document(document)
		}
	}
	return handlers, documents, nil
}

// rekey takes in keys that have changed in the secret store. Those that are no longer there stay published while their
// tokens live.
func rekey(mints map[string]*mint) error {
	for _, m := range mints {
		if m.Keys == "" || m.Keys == m.keys.text {
			continue
		}
		if err := m.keys.Replace([]byte(m.Keys.Reveal())); err != nil {
			return fmt.Errorf("connector %s: %w", m.Name, err)
		}
		m.keys.text = m.Keys
	}
	return nil
}
