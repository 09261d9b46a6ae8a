package policy

import (
	"context"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Visible reports whether a list shows the tool or prompt of in to this caller: everything but the arguments is
// known, and the policy could allow the call for some arguments, or tells the agent something when it denies
// (external_message, required_scopes). A policy that errs, conflicts or runs late for whatever arguments hides.
//
// What partial evaluation cannot settle counts as possible, so a tool may be listed that no arguments unlock, while
// one that some arguments unlock is not hidden.
func (p *Policy) Visible(ctx context.Context, in Input) (visible bool) {
	in.Tool, in.Prompt = withoutArguments(in.Tool), withoutArguments(in.Prompt)
	err := p.evaluate(ctx, in, func(f facts) {
		// No arguments are arguments too, and most policies answer them at a tenth of the cost of partial evaluation.
		d := f.decide(ctx)
		visible = d.Allowed || d.Message != "" || d.RequiredScopes != nil || p.sees.arguments.any() && f.speaks(ctx, unknowns(in))
	})
	return err == nil && visible
}

// unknowns are the references into the input whose values a list does not know.
func unknowns(in Input) []*ast.Term {
	var refs []*ast.Term
	if in.Tool != nil {
		refs = append(refs, ast.NewTerm(toolArguments))
	}
	if in.Prompt != nil {
		refs = append(refs, ast.NewTerm(promptArguments))
	}
	return refs
}

func withoutArguments(t *Tool) *Tool {
	if t == nil {
		return nil
	}
	return &Tool{Name: t.Name}
}

// part is one member of the result.
type part struct {
	query ast.Body
	says  func(*ast.Term) bool // reports whether a value of the member means something to the agent
}

func member(key *ast.Term, says func(*ast.Term) bool) part {
	return part{valueOf(resultPath.Append(key)), says}
}

var parts = []part{
	member(keyAllowed, func(t *ast.Term) bool { return t.Equal(ast.InternedBooleanTrue) }),
	member(keyMessage, func(t *ast.Term) bool { return message(t) != "" }),
	member(keyRequiredScopes, func(t *ast.Term) bool { return scopes(t) != nil }),
}

// speaks reports whether the result could be an allow or a denial with something to say. All parts are looked at: an
// error in one spoils the others.
func (f facts) speaks(ctx context.Context, unknown []*ast.Term) bool {
	speaks := false
	for _, part := range parts {
		answers, err := f.answers(ctx, part.query, unknown)
		if err != nil || answers.conflict() {
			return false
		}
		speaks = speaks || answers.could(part.says)
	}
	return speaks
}
