package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Secret is a value that no log, error or encoding shows.
type Secret string

const redacted = "[redacted]"

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// String returns a placeholder.
func (Secret) String() string { return redacted }

// GoString returns a placeholder.
func (Secret) GoString() string { return redacted }

// Format writes a placeholder for every verb, also those for which package fmt
// would not call String.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText returns a placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

const secretFileScheme = "secretfile"

// secretFile returns the path that a provider such as
// secretfile:///etc/sallyport/secrets.yaml names. An error does not repeat the
// provider beyond its scheme: other products' providers carry a credential.
func secretFile(provider string) (string, error) {
	scheme, path, found := strings.Cut(provider, "://")
	switch {
	case !found:
		return "", errors.New("the secret provider has no scheme; write secretfile:///absolute/path.yaml")
	case scheme != secretFileScheme:
		return "", fmt.Errorf("secret provider %s is not supported; use secretfile:///absolute/path.yaml", quote(scheme))
	case !filepath.IsAbs(path):
		return "", errors.New("the secret provider's path is not absolute; write secretfile:///absolute/path.yaml with three slashes")
	}
	return filepath.Clean(path), nil
}

// loadSecrets reads the secret provider. The file is a map under `secrets`, with
// flat dotted keys (gateway.clientSecret: …) or nested ones. Its problems name
// keys and places, never content.
func (l *loader) loadSecrets() {
	if l.opts.SecretProvider == "" {
		return
	}
	path, err := secretFile(l.opts.SecretProvider)
	if err != nil {
		l.errorf(nil, "%s", err)
		return
	}
	src, err := l.sources.read(path)
	if err != nil {
		l.add(Problem{File: path, Message: "the secret file " + readFailure(err)}, nil)
		return
	}
	if worldReadable(path) {
		l.add(Problem{File: path, Message: "every user of this machine can read the secrets; run chmod 600 on the file", Warning: true}, nil)
	}
	var doc yaml.Node
	if err := yaml.Load(src, &doc); err != nil {
		// The parser's own text may quote a value.
		l.add(Problem{File: path, Message: "the secret file is not one YAML document"}, at(err))
		return
	}
	root := &doc
	if doc.Kind == yaml.DocumentNode {
		root = doc.Content[0]
	}
	if root.Kind != yaml.MappingNode || len(root.Content) != 2 || root.Content[0].Value != "secrets" {
		l.add(Problem{File: path, Message: `the secret file must be a map with the single key "secrets"`}, root)
		return
	}
	l.secrets = map[string]string{}
	l.collectSecrets(path, "", root.Content[1])
}

func (l *loader) collectSecrets(file, name string, n *yaml.Node) {
	switch {
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if name != "" {
				key = name + "." + key
			}
			l.collectSecrets(file, key, n.Content[i+1])
		}
	case name == "":
		l.add(Problem{File: file, Message: `"secrets" must be a map`}, n)
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		l.add(Problem{File: file, Message: "secret <" + name + "> has no text as its value"}, n)
	default:
		if _, twice := l.secrets[name]; twice {
			l.add(Problem{File: file, Message: "secret <" + name + "> is set twice; remove one"}, n)
		}
		l.secrets[name] = n.Value
	}
}

// worldReadable reports whether everybody on the machine may read a file.
func worldReadable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0
}

// readFailure says why a file could not be read, without repeating its name.
func readFailure(err error) string {
	var pathError *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.As(err, &pathError):
		return "cannot be read: " + pathError.Err.Error()
	}
	return "cannot be read: " + err.Error()
}
