package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
)

func TestSecretIsNeverShown(t *testing.T) {
	secret := config.Secret(clientSecret)
	holder := struct{ Secret config.Secret }{secret}
	var shown []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		shown = append(shown, fmt.Sprintf(verb, secret), fmt.Sprintf(verb, holder), fmt.Sprintf(verb, &holder))
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", secret, "holder", holder)
	asJSON, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Dump(holder)
	if err != nil {
		t.Fatal(err)
	}
	shown = append(shown, log.String(), string(asJSON), string(asYAML), secret.String(), secret.GoString())
	for _, s := range shown {
		if strings.Contains(s, clientSecret) || strings.Contains(s, fmt.Sprintf("%x", clientSecret)) {
			t.Errorf("shown: %s", s)
		}
		if !strings.Contains(s, "[redacted]") {
			t.Errorf("no placeholder: %s", s)
		}
	}
	if secret.Reveal() != clientSecret {
		t.Error("Reveal gives something else")
	}
}

func TestSecretProviders(t *testing.T) {
	opts := options(t)
	file := "testdata/minimal.yaml"
	for name, c := range map[string]struct {
		provider string
		want     []string
	}{
		"none":       {"", []string{`6:24: secret <gateway.clientSecret> needs a secret provider; name one with -secretProvider or SALLYPORT_SECRET_PROVIDER, such as secretfile:///absolute/path.yaml`}},
		"other":      {"hashivault+http://vault:8200/secret/data/x?token=" + clientSecret, []string{` secret provider "hashivault+http" is not supported; use secretfile:///absolute/path.yaml`}},
		"no scheme":  {clientSecret, []string{` the secret provider has no scheme; write secretfile:///absolute/path.yaml`}},
		"relative":   {"secretfile://secrets.yaml", []string{` the secret provider's path is not absolute; write secretfile:///absolute/path.yaml with three slashes`}},
		"not there":  {"secretfile:///absent/secrets.yaml", []string{`/absent/secrets.yaml: the secret file does not exist`}},
		"as it is":   {opts.SecretProvider, nil},
		"with a dot": {strings.Replace(opts.SecretProvider, "/secrets.yaml", "/./secrets.yaml", 1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			opts := opts
			opts.SecretProvider = c.provider
			_, problems := config.Load(file, opts)
			if diff := cmp.Diff(c.want, lines(file, problems)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSecretFiles(t *testing.T) {
	file := "testdata/minimal.yaml"
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets.yaml")
	const missing = `6:24: secret <gateway.clientSecret> is not in the secret provider; add it there`
	for name, c := range map[string]struct {
		src  string
		want []string
	}{
		"flat":       {"secrets:\n  gateway.clientSecret: x\n", nil},
		"nested":     {"secrets: {gateway: {clientSecret: 12345}}\n", nil},
		"empty":      {"", []string{path + `: the secret file is not one YAML document`}},
		"other keys": {"secrets: {}\nmore: 1\n", []string{path + `:1:1: the secret file must be a map with the single key "secrets"`}},
		"not a map":  {"secrets: x\n", []string{path + `:1:10: "secrets" must be a map`, missing}},
		"no text":    {"secrets:\n  gateway.clientSecret: [hunter2]\n", []string{path + `:2:25: secret <gateway.clientSecret> has no text as its value`, missing}},
		"null":       {"secrets:\n  gateway.clientSecret: ~\n", []string{path + `:2:25: secret <gateway.clientSecret> has no text as its value`, missing}},
		"no value":   {"secrets:\n  gateway.clientSecret: ''\n", []string{`6:24: secret <gateway.clientSecret> is empty; give it a value`}},
		"twice":      {"secrets:\n  gateway.clientSecret: x\n  gateway: {clientSecret: y}\n", []string{path + `:3:27: secret <gateway.clientSecret> is set twice; remove one`}},
		"broken":     {"secrets:\n  gateway.clientSecret: *hunter2\n", []string{path + `:2:25: the secret file is not one YAML document`}},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, []byte(c.src))
			_, problems := config.Load(file, config.Options{SecretProvider: "secretfile://" + path})
			got := lines(file, problems)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWorldReadableSecretsAreWarnedAbout(t *testing.T) {
	opts := options(t)
	path := filepath.Join(opts.Env("CERTS"), "secrets.yaml")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Load("testdata/minimal.yaml", opts)
	want := []string{path + ": warning: every user of this machine can read the secrets; run chmod 600 on the file"}
	if diff := cmp.Diff(want, lines("testdata/minimal.yaml", problems)); diff != "" || len(cfg.Apps) != 1 {
		t.Error(diff, len(cfg.Apps))
	}
}

// TestReplacementsAreNotSearchedAgain holds references in secrets and variables
// to be text.
func TestReplacementsAreNotSearchedAgain(t *testing.T) {
	opts := options(t)
	path := filepath.Join(opts.Env("CERTS"), "secrets.yaml")
	write(t, path, []byte("secrets:\n  gateway.clientSecret: 'a<gateway.clientSecret>{{ env.X }}'\n"))
	cfg, problems := config.Load("testdata/minimal.yaml", opts)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if got := cfg.Connectors[0].OAuthClientSecret.Reveal(); got != "a<gateway.clientSecret>{{ env.X }}" {
		t.Errorf("got %q", got)
	}
}
