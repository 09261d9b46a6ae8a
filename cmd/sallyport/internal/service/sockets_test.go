package service

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSocketsFor(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	a, err := SocketsFor("/etc/a.yaml", "", "")
	must(t, err)
	dir := a.Dir()
	if filepath.Dir(dir) != "/run/user/7" || !strings.HasPrefix(filepath.Base(dir), "sallyport-") {
		t.Errorf("directory %s", dir)
	}
	want := Sockets{Service: "unix:" + dir + "/service.sock", Hub: dir + "/hub.sock", Egress: dir + "/egress.sock", Admin: dir + "/envoy-admin.sock", Control: dir + "/control.sock"}
	if d := cmp.Diff(want, a); d != "" {
		t.Error(d)
	}
	b, err := SocketsFor("/etc/b.yaml", "", "")
	must(t, err)
	if a.Dir() == b.Dir() {
		t.Error("two gateways meet")
	}
	t.Chdir("/")
	relative, err := SocketsFor("etc/../etc/a.yaml", "", "")
	must(t, err)
	if relative != a {
		t.Errorf("one file, two places: %+v", relative)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", "/t")
	temporary, err := SocketsFor("/etc/a.yaml", "", "")
	must(t, err)
	if !strings.HasPrefix(temporary.Dir(), "/t/sallyport-") {
		t.Errorf("directory %s", temporary.Dir())
	}
}

func TestSocketsForAnAddress(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	own, err := SocketsFor("/etc/a.yaml", "unix:/run/sallyport/service.sock", "")
	must(t, err)
	want := Sockets{Service: "unix:/run/sallyport/service.sock", Hub: "/run/sallyport/hub.sock", Egress: "/run/sallyport/egress.sock", Admin: "/run/sallyport/envoy-admin.sock", Control: "/run/sallyport/control.sock"}
	if d := cmp.Diff(want, own); d != "" {
		t.Error(d)
	}
	tcp, err := SocketsFor("/etc/a.yaml", "127.0.0.1:7000", "")
	must(t, err)
	if tcp.Service != "127.0.0.1:7000" || filepath.Dir(tcp.Dir()) != "/run/user/7" {
		t.Errorf("%+v", tcp)
	}
	if _, err := SocketsFor("/etc/a.yaml", "unix:/"+strings.Repeat("x", 100)+"/service.sock", ""); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a path that no socket can have: %v", err)
	}
}

func socketsIn(dir string) Sockets {
	return Sockets{Service: "unix:" + filepath.Join(dir, "service.sock"), Hub: filepath.Join(dir, "hub.sock"),
		Egress: filepath.Join(dir, "egress.sock"), Admin: filepath.Join(dir, "envoy-admin.sock")}
}

func TestPrepareMakesAPrivateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 { // the second start finds it
		must(t, socketsIn(dir).Prepare())
	}
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
}

// Whoever can write the directory can put sockets of his own in place of ours.
func TestPrepareRefusesADirectoryThatOthersWrite(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	if err := socketsIn(dir).Prepare(); err == nil {
		t.Error("a directory that everybody can write was accepted")
	}
}

func TestPrepareRefusesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, nil, 0o600))
	if err := socketsIn(path).Prepare(); err == nil {
		t.Error("accepted")
	}
}

// The directory of another user is his to change. Only root can give one away to see it.
func TestPrepareRefusesAnotherUsersDirectory(t *testing.T) {
	dir := t.TempDir()
	if os.Getuid() != 0 {
		return
	}
	const nobody = 65534
	must(t, os.Chown(dir, nobody, nobody))
	if err := socketsIn(dir).Prepare(); err == nil || !strings.Contains(err.Error(), "not a directory of yours") {
		t.Errorf("%v", err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := listen(t.Context(), "unix:"+path)
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, err := listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket in use was taken over: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // a process that was killed leaves its socket
	must(t, l.Close())
	again, err := listen(t.Context(), path)
	must(t, err)
	must(t, again.Close())
	tcp, err := listen(t.Context(), "127.0.0.1:0")
	must(t, err)
	defer tcp.Close()
	if _, err := listen(t.Context(), tcp.Addr().String()); err == nil {
		t.Error("a port in use was taken over")
	}
	if _, err := listen(t.Context(), filepath.Join(path, "below")); err == nil {
		t.Error("a directory that does not exist")
	}
}

// Only a socket can be stale. Anything else at the path is somebody's file, named by mistake.
func TestListenKeepsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	if l, err := listen(t.Context(), "unix:"+path); err == nil {
		t.Error("listening where a file was")
		_ = l.Close()
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
		t.Errorf("the file is gone: %v", err)
	}
}

// A process that is too busy to accept is not gone.
func TestListenLeavesABusyProcessItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err)
	defer syscall.Close(fd)
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	must(t, syscall.Listen(fd, 0))
	for { // until its queue is full
		c, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK, 0)
		must(t, err)
		defer syscall.Close(c)
		if err := syscall.Connect(c, &syscall.SockaddrUnix{Name: path}); err != nil {
			break
		}
	}
	if l, err := listen(t.Context(), path); err == nil {
		t.Error("taken over")
		_ = l.Close()
	}
}
