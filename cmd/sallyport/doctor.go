package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
	"github.com/sallyport/sallyport/envoy/doctor"
)

const (
	maxDump     = 256 << 20 // bytes; the proxy of a large mesh says much
	dumpTimeout = 30 * time.Second
)

// doctorCommand examines the configuration of a running Envoy. Exit code 1 means findings worse than info.
func doctorCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("doctor", flag.ContinueOnError)
	var src source
	src.flags(fs)
	var d diagnosis
	fs.StringVar(&d.admin, "envoy", "", "`ADDRESS` of Envoy's admin interface: unix:/path or http://host:port (default the gateway's that -config describes)")
	fs.StringVar(&d.dump, "dump", "", "read `FILE` instead, a saved /config_dump?include_eds")
	fs.StringVar(&d.Service, "service", "", "`CLUSTER` of the service in that Envoy (default: the filter is found by its metadata, or is the only one)")
	asJSON := fs.Bool("json", false, "print the findings as a JSON array")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	if err := d.complete(&src, stderr); err != nil {
		return err
	}
	dump, err := d.read(ctx)
	if err != nil {
		return err
	}
	findings, err := doctor.Examine(dump, d.Options)
	if err != nil {
		return err
	}
	if err := report(stdout, findings, *asJSON); err != nil {
		return err
	}
	if doctor.Dangerous(findings) {
		return errFailed
	}
	return nil
}

// diagnosis is what is to be examined, and how.
type diagnosis struct {
	admin, dump string
	doctor.Options
}

// complete takes from the gateway's file what the flags do not say.
func (d *diagnosis) complete(src *source, stderr io.Writer) error {
	named := d.admin != "" || d.dump != ""
	switch {
	case d.admin != "" && d.dump != "":
		_, _ = fmt.Fprintln(stderr, "sallyport doctor: -envoy and -dump exclude each other")
		return errUsage
	case src.file == "" && named:
		return nil
	case src.file == "":
		_, _ = fmt.Fprintln(stderr, "sallyport doctor: name an Envoy with -envoy ADDRESS, a saved dump with -dump FILE, or a gateway with -config FILE")
		return errUsage
	}
	cfg, err := src.read(stderr)
	if err != nil {
		return err
	}
	d.MaxRequestBytes = uint32(cfg.HTTP.MaxRequestBytes)
	if named {
		return nil
	}
	sockets, err := service.SocketsFor(src.file, cfg.Service.Address, cfg.Service.Hub)
	d.admin = "unix:" + sockets.Admin
	return err
}

func (d *diagnosis) read(ctx context.Context) ([]byte, error) {
	if d.dump == "" {
		return d.ask(ctx)
	}
	f, err := os.Open(d.dump)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readDump(f)
}

// ask gets the dump from the admin interface.
func (d *diagnosis) ask(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	base, client := d.admin, &http.Transport{} // no proxy
	if path, ok := strings.CutPrefix(d.admin, "unix:"); ok {
		base = "http://envoy"
		client.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/config_dump?include_eds", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("admin interface %s: %w", d.admin, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("admin interface %s: %s", d.admin, resp.Status)
	}
	return readDump(resp.Body)
}

func readDump(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDump+1))
	if err == nil && len(b) > maxDump {
		err = errors.New("the dump is too large")
	}
	return b, err
}

func report(w io.Writer, findings []doctor.Finding, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(append([]doctor.Finding{}, findings...)) // [] for none
	}
	for _, f := range findings {
		_, _ = fmt.Fprintln(w, f)
	}
	if !doctor.Dangerous(findings) {
		_, _ = fmt.Fprintln(w, "ok: nothing dangerous")
	}
	return nil
}
