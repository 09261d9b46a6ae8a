package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"
)

// readyCommand asks /ready of a running service once. It is the health check of an image that has neither a shell nor
// curl: exit code 0 means ready, 1 not.
func readyCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("ready", flag.ContinueOnError)
	address := fs.String("address", "127.0.0.1:9902", "`HOST:PORT` that answers /ready: admin.address of the service")
	timeout := fs.Duration("timeout", 3*time.Second, "how long to wait for the answer")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+*address+"/ready", nil)
	if err != nil {
		return err
	}
	resp, err := new(http.Transport).RoundTrip(req) // no proxy, and a redirect is no answer
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	// The body says which check is missing.
	if _, err := io.Copy(stdout, io.LimitReader(resp.Body, 4<<10)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", *address, resp.Status)
	}
	return nil
}
