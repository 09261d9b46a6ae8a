package config

import (
	"errors"
	"strings"

	"github.com/sallyport/sallyport/authz/policy"
	"go.yaml.in/yaml/v4"
)

// compile reports the faults of a policy: those of a file by their place in it,
// those of an inline policy, whose scalar is given, by their place in the YAML.
// label is the policy's name as it is written.
func (c *checker) compile(p *OPA, label string, inline *yaml.Node) {
	file := p.File
	if inline != nil {
		file = c.file
	}
	_, err := policy.Compile(p.Name, file, p.Source)
	if err == nil {
		return
	}
	var faults policy.Errors
	if !errors.As(err, &faults) {
		faults = policy.Errors{{Text: err.Error()}}
	}
	for _, f := range faults {
		text := strings.Join(strings.Fields(f.Text), " ") // one line, as every problem is
		problem := Problem{File: file, Line: f.Line, Col: f.Col, Message: "policy " + label + ": " + text}
		if inline != nil {
			problem.Line, problem.Col = c.inlinePlace(inline, p.Source, f)
			if hasReference(inline) {
				problem.Message = "policy " + label + " does not compile; its errors are not shown because it contains references to secrets or variables"
			}
		}
		c.problems = append(c.problems, problem)
	}
}

// inlinePlace finds a line of an inline policy in the YAML. Only a literal block
// (|) keeps the lines of the file; other styles are placed at their beginning.
func (c *checker) inlinePlace(n *yaml.Node, src []byte, f *policy.Error) (line, col int) {
	line = n.Line + f.Line
	if n.Style&yaml.LiteralStyle == 0 || f.Line < 1 || line > len(c.lines) {
		return n.Line, n.Column
	}
	written := strings.TrimSuffix(c.lines[line-1], "\r")
	content := strings.Split(string(src), "\n")
	if f.Line <= len(content) && strings.HasSuffix(written, content[f.Line-1]) {
		return line, f.Col + len(written) - len(content[f.Line-1])
	}
	return line, f.Col
}
