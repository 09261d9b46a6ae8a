package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/authz/revocation"
)

// The operator's commands to a running service come by a unix socket: unlike the admin listener, no page in a browser and no
// other user of the machine can reach it.

// RevokeRequest is a command to revoke something, or to undo that.
type RevokeRequest struct {
	revocation.Target
	Keep string `json:"keep,omitempty"` // a Go duration; "": revocation.DefaultKeep
	Undo bool   `json:"undo,omitempty"`
}

// RevokeAnswer is what came of it.
type RevokeAnswer struct {
	revocation.Entry
	enforced
	Place string `json:"place"`           // where it is kept
	Error string `json:"error,omitempty"` // what went wrong
}

func (r *RevokeRequest) check(authorized bool) (keep time.Duration, err error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	if !authorized && r.Kind != revocation.Session {
		return 0, errors.New("authorization is off: there are no tokens to revoke, only sessions")
	}
	if r.Keep == "" {
		return revocation.DefaultKeep, nil
	}
	keep, err = time.ParseDuration(r.Keep)
	if err != nil || keep < time.Minute || keep > revocation.MaxKeep {
		return 0, fmt.Errorf("%.40q is not a duration from 1m to %dh", r.Keep, int(revocation.MaxKeep.Hours()))
	}
	return keep, nil
}

const maxCommand = 64 << 10 // bytes

func (s *Service) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /revocations", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.revoked.Entries())
	})
	mux.HandleFunc("POST /revocations", func(w http.ResponseWriter, r *http.Request) {
		var command RevokeRequest
		if err := readJSON(http.MaxBytesReader(w, r.Body, maxCommand), &command); err != nil {
			writeJSON(w, http.StatusBadRequest, RevokeAnswer{Error: err.Error()})
			return
		}
		// A command that has begun is carried out, whether or not somebody waits for the answer.
		answer, err := s.revoke(context.WithoutCancel(r.Context()), command)
		if err != nil {
			answer.Error = err.Error()
			writeJSON(w, http.StatusConflict, answer)
			return
		}
		writeJSON(w, http.StatusOK, answer)
	})
	return mux
}

// readJSON reads exactly one value without unknown members.
func readJSON(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("not a command: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("not a command: more than one JSON value")
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

// listenPrivately opens a unix socket for its owner, and root, alone: by its mode, and by who connects.
func listenPrivately(ctx context.Context, path string) (net.Listener, error) {
	l, err := listen(ctx, "unix:"+path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return private{l}, nil
}

type private struct{ net.Listener }

func (p private) Accept() (net.Conn, error) {
	for {
		c, err := p.Listener.Accept()
		if err != nil || isOurs(c) {
			return c, err
		}
		_ = c.Close()
	}
}

// isOurs reports whether a process of our own user's, or of root's, is at the other end.
func isOurs(c net.Conn) bool {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peer *syscall.Ucred
	control := raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	return control == nil && err == nil && (peer.Uid == 0 || int(peer.Uid) == os.Getuid())
}

// commandDeadline bounds a command: what it asks of a store, and what it ends.
const commandDeadline = 15 * time.Second

// Revoke has the service behind the sockets carry out a command.
func Revoke(ctx context.Context, at Sockets, r RevokeRequest) (answer RevokeAnswer, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return answer, err
	}
	err = command(ctx, at, http.MethodPost, body, &answer)
	if err == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	return answer, err
}

// Revocations asks the service behind the sockets what is in force.
func Revocations(ctx context.Context, at Sockets) (entries []revocation.Entry, err error) {
	return entries, command(ctx, at, http.MethodGet, nil, &entries)
}

// ErrNotRunning means that nobody answers at the control socket.
var ErrNotRunning = errors.New("no gateway is running with this configuration, as this user, on this machine")

func command(ctx context.Context, at Sockets, method string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, commandDeadline)
	defer cancel()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", at.Control)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, method, "http://control/revocations", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %s", ErrNotRunning, at.Control)
	case err != nil:
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(into); err != nil {
		return fmt.Errorf("the gateway's answer (%s) cannot be read: %w", resp.Status, err)
	}
	return nil
}
