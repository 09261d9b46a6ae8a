package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
)

func checkCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	var src source
	src.flags(fs)
	online := fs.Bool("online", false, "also ask the authorization servers and connectors for their metadata")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	if src.file == "" {
		_, _ = fmt.Fprintln(stderr, "no configuration: name one with -config FILE")
		return errUsage
	}
	cfg, problems := src.load()
	for _, p := range problems {
		_, _ = fmt.Fprintln(stdout, p.String())
	}
	if config.Failed(problems) || *online && !checkOnline(ctx, cfg, stdout) {
		return errFailed
	}
	_, _ = fmt.Fprintf(stdout, "%s: ok, %d app(s)\n", src.file, len(cfg.Apps))
	return nil
}

// checkOnline asks every metadata address that the file names whether it answers.
func checkOnline(ctx context.Context, cfg *config.Config, out io.Writer) bool {
	ok := true
	try := func(what, url string, client *http.Client) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := answers(ctx, client, url); err != nil {
			_, _ = fmt.Fprintf(out, "%s: %v\n", what, err)
			ok = false
		}
	}
	for _, s := range cfg.MCPProvider.Authorization.OAuth.Servers {
		try("authorization server", s.WellKnownEndpoint, http.DefaultClient)
	}
	for _, c := range cfg.Connectors {
		trust, err := service.ClientTLS(cfg.TLS[c.TLS])
		if err != nil {
			_, _ = fmt.Fprintf(out, "connector %s: %v\n", c.Name, err)
			ok = false
			continue
		}
		try("connector "+c.Name, c.OIDCWellKnownURL, &http.Client{Transport: &http.Transport{TLSClientConfig: trust}})
	}
	return ok
}

func answers(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return nil
}
