package service

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Sockets are the private ways between the service and its Envoy. Who can open them can act as either, so they live
// in a directory that only their owner can enter.
type Sockets struct {
	Service string // ext_proc and access log: "unix:/path" or "host:port"
	Hub     string // the hub, HTTP/2: a path or "host:port"
	Egress  string // path: Envoy's way to the upstreams, for the hub
	Admin   string // path: Envoy's admin interface
	Control string // path: commands of the operator's, for the owner alone
}

// SocketsFor returns the sockets of the gateway that configFile describes: beside service.address when that is a
// unix socket, otherwise in a directory of the user's own, named after the file so that two gateways do not meet. hub is
// service.hub, "" for a socket.
func SocketsFor(configFile, address, hub string) (Sockets, error) {
	dir, err := socketDir(configFile, address)
	if err != nil {
		return Sockets{}, err
	}
	s := Sockets{Service: address, Hub: filepath.Join(dir, hubSocket), Egress: filepath.Join(dir, "egress.sock"),
		Admin: filepath.Join(dir, "envoy-admin.sock"), Control: filepath.Join(dir, "control.sock")}
	s.Hub = cmp.Or(hub, s.Hub)
	if address == "" {
		s.Service = "unix:" + filepath.Join(dir, "service.sock")
	} else if path, ok := strings.CutPrefix(address, "unix:"); ok {
		s.Service = "unix:" + filepath.Clean(path)
	}
	if longest := s.Admin; len(longest) > 100 { // sun_path holds 108 bytes
		return Sockets{}, fmt.Errorf("socket path %s is too long; set service.address to a shorter one", longest)
	}
	return s, nil
}

const hubSocket = "hub.sock"

func socketDir(configFile, address string) (string, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return filepath.Dir(path), nil
	}
	abs, err := filepath.Abs(configFile)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(abs))
	name := "sallyport-" + hex.EncodeToString(sum[:4])
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		return filepath.Join(run, name), nil
	}
	return filepath.Join(os.TempDir(), "sallyport-"+strconv.Itoa(os.Getuid()), name), nil
}

// Dir is the directory of the sockets.
func (s Sockets) Dir() string { return filepath.Dir(s.Admin) }

// Prepare makes the directory, and refuses one in which others could put sockets of their own.
func (s Sockets) Prepare() error {
	if err := os.MkdirAll(s.Dir(), 0o700); err != nil {
		return err
	}
	for _, dir := range []string{s.Dir(), filepath.Dir(s.Dir())} {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		trusted := ok && (int(owner.Uid) == os.Getuid() || owner.Uid == 0)
		switch mode := info.Mode(); {
		case !mode.IsDir(), !trusted:
			return fmt.Errorf("%s is not a directory of yours; set service.address", dir)
		case mode.Perm()&0o002 != 0 && mode&os.ModeSticky == 0:
			return fmt.Errorf("%s can be written by everybody; set service.address, or chmod it to 0700", dir)
		}
	}
	return nil
}

// listen opens a unix socket ("unix:/path" or a path) for its owner and group alone, or a TCP address.
func listen(ctx context.Context, address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix && !strings.HasPrefix(address, "/") {
		return new(net.ListenConfig).Listen(ctx, "tcp", address)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil { //nolint:gosec // Envoy may be another user of the same group
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes the socket of a process that is gone, and refuses to take over from one that is not.
func removeStale(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s is in use: is the same configuration running already?", path)
	}
	info, statErr := os.Lstat(path)
	switch {
	case errors.Is(statErr, os.ErrNotExist):
		return nil
	case statErr != nil:
		return statErr
	case info.Mode()&os.ModeSocket == 0:
		return fmt.Errorf("%s exists and is no socket", path)
	case !errors.Is(err, syscall.ECONNREFUSED): // a full backlog, for instance: somebody is there
		return fmt.Errorf("%s is in use: %w", path, err)
	}
	return os.Remove(path)
}
