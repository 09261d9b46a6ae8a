package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sallyport/sallyport/authz/audit"
)

func auditCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("audit verify", flag.ContinueOnError)
	file := fs.String("file", "", "audit `FILE` to verify")
	if len(args) > 0 && args[0] == "verify" {
		args = args[1:]
	} else if len(args) == 0 || !strings.HasPrefix(args[0], "-") {
		_, _ = fmt.Fprintln(stderr, "usage: sallyport audit verify -file FILE")
		return errUsage
	}
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	if *file == "" {
		_, _ = fmt.Fprintln(stderr, "sallyport audit verify: -file is required")
		return errUsage
	}
	f, err := os.Open(*file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	n, err := audit.Verify(f)
	if err != nil {
		return fmt.Errorf("%s: %w (after %d good records)", *file, err, n)
	}
	_, _ = fmt.Fprintf(stdout, "%s: %d records, chain intact\n", *file, n)
	return nil
}
