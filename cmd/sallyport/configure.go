package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

// source is where a command's configuration comes from.
type source struct {
	file           string
	secretProvider string
}

func (s *source) flags(fs *flag.FlagSet) {
	fs.StringVar(&s.file, "config", os.Getenv("SALLYPORT_CONFIG"), "configuration `FILE` (default $SALLYPORT_CONFIG)")
	fs.StringVar(&s.secretProvider, "secretProvider", firstOf(os.Getenv("SALLYPORT_SECRET_PROVIDER"), os.Getenv("MAVERICS_SECRET_PROVIDER")),
		"where <namespace.key> secrets are, e.g. secretfile:///path.yaml (default $SALLYPORT_SECRET_PROVIDER or $MAVERICS_SECRET_PROVIDER)")
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func (s *source) load() (*config.Config, []config.Problem) {
	return config.Load(s.file, config.Options{SecretProvider: s.secretProvider, Env: os.Getenv})
}

// read loads the configuration and prints its problems; only warnings let it through.
func (s *source) read(stderr io.Writer) (*config.Config, error) {
	if s.file == "" {
		_, _ = fmt.Fprintln(stderr, "no configuration: name one with -config FILE")
		return nil, errUsage
	}
	cfg, problems := s.load()
	for _, p := range problems {
		_, _ = fmt.Fprintln(stderr, p.String())
	}
	if config.Failed(problems) {
		return nil, errFailed
	}
	return cfg, nil
}

// logger writes JSON lines, at the level that the configuration asks for.
func logger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // config allows four words only; info otherwise
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}))
}
