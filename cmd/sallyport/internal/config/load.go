package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Options are what a file may refer to outside itself.
type Options struct {
	// Env looks up an environment variable. Default os.Getenv.
	Env func(string) string

	// SecretProvider names where <namespace.key> comes from:
	// secretfile:///absolute/path.yaml. Empty: the file may use no secret.
	SecretProvider string

	// ReadFile reads a file. Default: the file system, bounded.
	ReadFile func(string) ([]byte, error)
}

// Load reads, joins, decodes and checks a file. It returns every problem that it
// finds, sorted by place. When a problem is an error the Config is empty but for
// its Files, Digest and Changed, by which a reload notices the cure.
func Load(path string, opts Options) (*Config, []Problem) {
	if opts.Env == nil {
		opts.Env = os.Getenv
	}
	l := &loader{
		file:    path,
		dir:     filepath.Dir(path),
		opts:    opts,
		sources: newSources(opts.ReadFile),
		texts:   map[*yaml.Node]string{},
		broken:  map[*yaml.Node]bool{},
		places:  map[any]*yaml.Node{},
	}
	cfg := &Config{}
	l.load(cfg)
	problems := sorted(l.problems)
	if Failed(problems) {
		cfg = &Config{}
	}
	cfg.sources = l.sources
	return cfg, problems
}

// loader is the state of one Load.
type loader struct {
	file, dir string
	opts      Options
	sources   sources
	secrets   map[string]string
	problems  []Problem
	lines     []string              // of the file, to place lines of inline policies
	texts     map[*yaml.Node]string // values with references replaced
	broken    map[*yaml.Node]bool   // values that could not be decoded; no check repeats that
	places    map[any]*yaml.Node    // pointer to a decoded field → its place in the file
	nodes     int                   // values decoded so far
	depth     int                   // of the value being decoded
	exceeded  bool                  // a bound on the two
}

func (l *loader) load(cfg *Config) {
	src, err := l.sources.read(l.file)
	if err != nil {
		l.errorf(nil, "the file %s", readFailure(err))
		return
	}
	l.lines = strings.Split(string(src), "\n")
	l.loadSecrets()
	root, ok := l.parse(src)
	if !ok {
		return
	}
	l.decode(root, cfg)
	if !l.exceeded {
		(&checker{loader: l, cfg: cfg}).check()
	}
}

// parse reads the documents of a file and joins their sections to one map.
func (l *loader) parse(src []byte) (*yaml.Node, bool) {
	yamlLoader, err := yaml.NewLoader(bytes.NewReader(src))
	if err != nil {
		l.errorf(nil, "%v", err)
		return nil, false
	}
	var sections []pair
	for {
		var doc yaml.Node
		if err := yamlLoader.Load(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			l.syntax(err)
			return nil, false
		}
		if doc.Kind != yaml.DocumentNode || doc.Content[0].Tag == "!!null" {
			continue
		}
		root := doc.Content[0]
		joinBraces(root)
		if root.Kind != yaml.MappingNode {
			l.errorf(root, "a configuration is a map of sections such as mcpProvider and apps, not %s", kindName(root))
			return nil, false
		}
		for i := 0; i+1 < len(root.Content); i += 2 {
			sections = append(sections, pair{root.Content[i], root.Content[i+1]})
		}
	}
	if len(sections) == 0 {
		l.errorf(nil, "the file is empty; it needs mcpProvider and apps")
		return nil, false
	}
	return l.join(sections), true
}

// syntax reports a file that is not YAML. An unknown anchor is not named: it may
// be the beginning of a secret that nobody quoted.
func (l *loader) syntax(err error) {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		l.errorf(nil, "not valid YAML")
		return
	}
	message := load.Message
	switch {
	case strings.Contains(message, "anchor"):
		message = "an alias (*) without its anchor (&); quote a value that begins with *"
	case strings.Contains(message, "cannot start any token"):
		message += "; indent with spaces, not tabs, and quote values that begin with a special character"
	}
	l.errorf(at(err), "not valid YAML: %s", message)
}

// at returns the place of a YAML error, or nil.
func at(err error) *yaml.Node {
	var load *yaml.LoadError
	if !errors.As(err, &load) || load.Mark.Line == 0 {
		return nil
	}
	return &yaml.Node{Line: load.Mark.Line, Column: load.Mark.Column}
}

// join makes one map of the sections of all pieces.
func (l *loader) join(sections []pair) *yaml.Node {
	root := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	firsts := map[string]pair{}
	for _, s := range sections {
		first, again := firsts[s.key.Value]
		switch {
		case !again:
			if isListSection(s.key.Value) && s.value.Kind == yaml.SequenceNode {
				s.value = l.joinList(s.key.Value, &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: s.value.Line, Column: s.value.Column}, s.value)
			}
			firsts[s.key.Value] = s
			root.Content = append(root.Content, s.key, s.value)
		case isListSection(s.key.Value) && s.value.Kind == yaml.SequenceNode && first.value.Kind == yaml.SequenceNode:
			l.joinList(s.key.Value, first.value, s.value)
		case isListSection(s.key.Value):
			l.errorf(s.key, "section %s is not a list here or on line %d; write a list in both", quote(s.key.Value), first.key.Line)
		default:
			l.errorf(s.key, "section %s is already on line %d; merge the two", quote(s.key.Value), first.key.Line)
		}
	}
	return root
}

func isListSection(key string) bool { return key == "connectors" || key == "apps" }

// joinList appends the entries of a later piece to a list, replacing entries of
// the same name. Within one piece a name may occur once.
func (l *loader) joinList(section string, list, piece *yaml.Node) *yaml.Node {
	index := map[string]int{}
	for i, entry := range list.Content {
		if name := nameOf(entry); name != nil {
			index[l.text(name)] = i
		}
	}
	here := map[string]int{}
	for _, entry := range piece.Content {
		name := nameOf(entry)
		if name == nil {
			list.Content = append(list.Content, entry)
			continue
		}
		key := l.text(name)
		if line, twice := here[key]; twice {
			l.errorf(name, "%s: the name %s is already used on line %d; names are unique", section, quote(name.Value), line)
		}
		here[key] = name.Line
		if i, earlier := index[key]; earlier {
			list.Content[i] = entry
			continue
		}
		index[key] = len(list.Content)
		list.Content = append(list.Content, entry)
	}
	return list
}

// nameOf returns the scalar under the key `name` of a map, or nil.
func nameOf(entry *yaml.Node) *yaml.Node {
	if entry.Kind == yaml.AliasNode {
		entry = entry.Alias
	}
	if entry.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(entry.Content); i += 2 {
		value := entry.Content[i+1]
		if entry.Content[i].Value == "name" && value.Kind == yaml.ScalarNode && value.Tag != "!!null" {
			return value
		}
	}
	return nil
}

func (l *loader) errorf(n *yaml.Node, format string, args ...any) {
	l.report(n, false, format, args...)
}

func (l *loader) warnf(n *yaml.Node, format string, args ...any) {
	l.report(n, true, format, args...)
}

// fail reports a value that could not be decoded, once.
func (l *loader) fail(n *yaml.Node, format string, args ...any) {
	l.report(n, false, format, args...)
	l.broken[n] = true
}

func (l *loader) report(n *yaml.Node, warning bool, format string, args ...any) {
	if l.broken[n] {
		return
	}
	l.add(Problem{File: l.file, Message: fmt.Sprintf(format, args...), Warning: warning}, n)
}

// add adds a problem at a place, which may be nil.
func (l *loader) add(p Problem, n *yaml.Node) {
	if n != nil {
		p.Line, p.Col = n.Line, n.Column
	}
	l.problems = append(l.problems, p)
}
