package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// secretName is the namespace.key of a reference <namespace.key>.
var secretName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)

// secretsCommand makes a secret file with a random value of 260 bits under each name. A file that exists is left as it
// is, so that the command can be part of every start.
func secretsCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	set := flag.NewFlagSet("secrets", flag.ContinueOnError)
	file := set.String("o", "", "`FILE` to make, which its owner alone can read")
	if err := parseFlags(set, args, stderr); err != nil {
		return err
	}
	if *file == "" || set.NArg() == 0 {
		_, _ = fmt.Fprintln(stderr, "usage: sallyport secrets -o FILE NAME..., with names such as gateway.clientSecret")
		return errUsage
	}
	text, seen := "secrets:\n", map[string]bool{}
	for _, name := range set.Args() {
		if !secretName.MatchString(name) || seen[name] {
			_, _ = fmt.Fprintf(stderr, "sallyport secrets: %q is not a namespace.key, or there twice\n", name)
			return errUsage
		}
		seen[name] = true
		text += "  " + name + ": " + rand.Text() + rand.Text() + "\n"
	}
	switch err := writeNew(*file, text); {
	case errors.Is(err, fs.ErrExist):
		_, _ = fmt.Fprintln(stdout, *file+": exists, left as it is")
	case err != nil:
		return err
	default:
		_, _ = fmt.Fprintln(stdout, *file+": made with "+strings.Join(set.Args(), ", "))
	}
	return nil
}

// writeNew writes a whole file that is not there yet, or none.
func writeNew(path, text string) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".secrets-") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }()
	_, err = temp.WriteString(text)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Link(temp.Name(), path) // which fails where path exists
}
