package config

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// reference matches {{ env.NAME }} and <namespace.key>. One pattern for both
// makes one pass over a value: what is put in is not searched again.
var reference = regexp.MustCompile(`\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}|<([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+)>`)

// lookalike matches a whole value that was probably meant to be a secret.
var lookalike = regexp.MustCompile(`^<[^<>\s]*>$`)

// text returns a scalar's value with its references replaced.
func (l *loader) text(n *yaml.Node) string {
	if done, ok := l.texts[n]; ok {
		return done
	}
	missing := false
	expanded := reference.ReplaceAllStringFunc(n.Value, func(ref string) string {
		groups := reference.FindStringSubmatch(ref)
		value := ""
		if groups[1] != "" {
			value = l.variable(n, groups[1])
		} else {
			value = l.secret(n, groups[2])
		}
		missing = missing || value == ""
		return value
	})
	l.texts[n] = expanded
	l.broken[n] = missing
	return expanded
}

func (l *loader) variable(n *yaml.Node, name string) string {
	value := l.opts.Env(name)
	if value == "" {
		l.errorf(n, "environment variable %s is not set or empty; set it", name)
	}
	return value
}

func (l *loader) secret(n *yaml.Node, name string) string {
	value, ok := l.secrets[name]
	switch {
	case l.opts.SecretProvider == "":
		l.errorf(n, "secret <%s> needs a secret provider; name one with -secretProvider or SALLYPORT_SECRET_PROVIDER, such as secretfile:///absolute/path.yaml", name)
	case !ok && l.secrets != nil:
		l.errorf(n, "secret <%s> is not in the secret provider; add it there", name)
	case ok && value == "":
		l.errorf(n, "secret <%s> is empty; give it a value", name)
		// Otherwise the provider itself is at fault, which is reported.
	}
	return value
}

// hasReference reports whether a value is replaced at load.
func hasReference(n *yaml.Node) bool { return reference.MatchString(n.Value) }

// checkReferences reports what looks like a reference and is none. shown is what
// to call the value, which may be a secret with braces in it.
func (l *loader) checkReferences(n *yaml.Node, shown string) {
	rest := reference.ReplaceAllString(n.Value, "")
	if strings.Contains(rest, "{{") {
		l.errorf(n, "%s: only {{ env.NAME }} is replaced; correct the braces", shown)
	}
	if lookalike.MatchString(rest) {
		l.errorf(n, "%s is not a secret reference; write <namespace.key>", quote(n.Value))
	}
}

// joinBraces turns {{ env.NAME }} without quotes, which YAML reads as a map in a
// map, back into the text that was meant.
func joinBraces(n *yaml.Node) {
	if text, ok := bareVariable(n); ok {
		*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Anchor: n.Anchor, Line: n.Line, Column: n.Column}
		return
	}
	for _, child := range n.Content {
		joinBraces(child)
	}
}

func bareVariable(n *yaml.Node) (string, bool) {
	for range 2 {
		if n.Kind != yaml.MappingNode || n.Style&yaml.FlowStyle == 0 || len(n.Content) != 2 || n.Content[1].Tag != "!!null" {
			return "", false
		}
		n = n.Content[0]
	}
	if n.Kind != yaml.ScalarNode || !strings.HasPrefix(n.Value, "env.") {
		return "", false
	}
	return "{{ " + n.Value + " }}", true
}
