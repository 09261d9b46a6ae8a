package policy

import (
	"context"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// supportPath is where partial evaluation puts the rules that depend on what is unknown.
var supportPath = ast.MustParseRef("data.partial")

// verdict says for which arguments a condition holds.
type verdict uint8

const (
	maybe  verdict = iota // unknown, or for some
	never                 // for none
	always                // for all
)

func (v verdict) negated() verdict {
	switch v {
	case never:
		return always
	case always:
		return never
	}
	return maybe
}

// outcomes are the values that a name can take over all arguments.
type outcomes struct {
	certain  []*ast.Term // for all arguments; two different ones are a conflict
	possible []*ast.Term // for some arguments, perhaps
	open     bool        // perhaps also values that are not known
}

// add records that the name has the value t (nil: none) under condition v.
func (o *outcomes) add(v verdict, t *ast.Term) {
	switch v {
	case always:
		o.certain = append(o.certain, t)
	case maybe:
		o.possible = append(o.possible, t)
	}
}

// merge records that the name has one of the values of other under condition v.
func (o *outcomes) merge(v verdict, other outcomes) {
	if v == never {
		return
	}
	for _, t := range other.certain {
		o.add(v, t)
	}
	o.possible = append(o.possible, other.possible...)
	o.open = o.open || other.open
}

func (o outcomes) conflict() bool {
	for _, t := range o.certain {
		if !same(t, o.certain[0]) {
			return true
		}
	}
	return false
}

func same(a, b *ast.Term) bool { return a == b || a != nil && b != nil && a.Equal(b) }

// could reports whether the name can take a value that satisfies the condition. A certain value excludes all
// others: next to it they would be a conflict, which is an error.
func (o outcomes) could(satisfies func(*ast.Term) bool) bool {
	if len(o.certain) > 0 {
		return o.certain[0] != nil && satisfies(o.certain[0])
	}
	for _, t := range o.possible {
		if t != nil && satisfies(t) {
			return true
		}
	}
	return o.open
}

// test is the verdict on "the name's value satisfies the condition".
func (o outcomes) test(satisfies func(*ast.Term) bool) verdict {
	switch {
	case !o.could(satisfies):
		return never
	case len(o.certain) > 0:
		return always
	}
	return maybe
}

// residual is what partial evaluation left of a policy: a few rules over the unknown references.
type residual struct {
	facts
	unknown []*ast.Term
	rules   []*ast.Rule
	memo    map[string]outcomes
}

// answers are the values that query can give to the variable answer.
func (f facts) answers(ctx context.Context, query ast.Body, unknown []*ast.Term) (outcomes, error) {
	queries, support, err := f.query(query).
		WithUnknowns(unknown).
		WithNondeterministicBuiltins(true).
		PartialRun(ctx)
	if err != nil {
		return outcomes{}, err
	}
	r := &residual{facts: f, unknown: unknown, memo: map[string]outcomes{}}
	for _, module := range support {
		r.rules = append(r.rules, module.Rules...)
	}
	var o outcomes
	for _, q := range queries {
		r.body(ctx, &o, q, answer)
	}
	return o, nil
}

// body adds the values that value takes where body holds.
func (r *residual) body(ctx context.Context, o *outcomes, body ast.Body, value *ast.Term) {
	value, rest := bound(body, value)
	v := r.all(ctx, rest)
	switch {
	case v == never:
	case ast.IsConstant(value.Value):
		o.add(v, value)
	case isSupport(value):
		o.merge(v, r.lookup(ctx, value.Value.(ast.Ref)))
	default:
		o.open = true
	}
}

// bound follows a variable through the equations of body. It returns what the variable stands for and the conditions
// that are left.
func bound(body ast.Body, value *ast.Term) (*ast.Term, []*ast.Expr) {
	rest := []*ast.Expr(body)
	for i := 0; i < len(rest); i++ {
		name, isVar := value.Value.(ast.Var)
		if !isVar {
			break
		}
		a, b, ok := equation(rest[i])
		switch {
		case ok && a.Value.Compare(name) == 0:
			value = b
		case ok && b.Value.Compare(name) == 0:
			value = a
		default:
			continue
		}
		rest = append(append([]*ast.Expr{}, rest[:i]...), rest[i+1:]...)
		i = -1
	}
	return value, rest
}

// equation takes a plain a = b apart.
func equation(e *ast.Expr) (a, b *ast.Term, ok bool) {
	if e.Negated || len(e.With) > 0 || !e.IsEquality() {
		return nil, nil, false
	}
	return e.Operand(0), e.Operand(1), true
}

// all is the verdict on a conjunction.
func (r *residual) all(ctx context.Context, exprs []*ast.Expr) verdict {
	v := always
	for _, e := range exprs {
		switch r.expr(ctx, e) {
		case never:
			return never
		case maybe:
			v = maybe
		}
	}
	return v
}

func (r *residual) expr(ctx context.Context, e *ast.Expr) verdict {
	if len(e.With) > 0 {
		return maybe
	}
	t, isTerm := e.Terms.(*ast.Term)
	if isTerm && t.Equal(ast.InternedBooleanTrue) && !e.Negated {
		return always
	}
	if r.known(e) {
		return r.run(ctx, e)
	}
	if isTerm && isSupport(t) {
		v := r.lookup(ctx, t.Value.(ast.Ref)).test(func(t *ast.Term) bool { return !t.Equal(ast.InternedBooleanFalse) })
		if e.Negated {
			return v.negated()
		}
		return v
	}
	if a, b, ok := equation(e); ok {
		if isSupport(b) {
			a, b = b, a
		}
		if isSupport(a) && ast.IsConstant(b.Value) {
			return r.lookup(ctx, a.Value.(ast.Ref)).test(b.Equal)
		}
	}
	return maybe
}

// known reports whether e depends on nothing but the known part of the input. Partial evaluation leaves such
// conditions where a policy reached them through a value that also holds the arguments.
func (r *residual) known(e *ast.Expr) bool {
	known := true
	visitor := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			if !x[0].Equal(ast.InputRootDocument) {
				known = known && ast.BuiltinMap[x.String()] != nil
				return true
			}
			path := constantPrefix(x)
			known = known && len(path) == len(x) && !slices.ContainsFunc(r.unknown, func(u *ast.Term) bool { return overlap(u.Value.(ast.Ref), path) })
			return true
		case ast.Var, *ast.Every, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.SomeDecl:
			known = false
		}
		return !known
	})
	visitor.Walk(e)
	return known
}

// run evaluates a known condition. One that fails to evaluate never holds: its call would be denied.
func (r *residual) run(ctx context.Context, e *ast.Expr) verdict {
	body, err := r.compiler.QueryCompiler().Compile(ast.NewBody(e.Copy())) // takes references out of operands
	if err != nil {
		return maybe
	}
	results, err := r.query(body).Run(ctx)
	if err != nil || len(results) == 0 {
		return never
	}
	return always
}

func isSupport(t *ast.Term) bool {
	ref, ok := t.Value.(ast.Ref)
	return ok && ref.HasPrefix(supportPath) && len(constantPrefix(ref)) == len(ref)
}

// lookup returns the values that a support name can take.
func (r *residual) lookup(ctx context.Context, ref ast.Ref) outcomes {
	key := ref.String()
	if o, ok := r.memo[key]; ok {
		return o
	}
	var o outcomes
	var fallback *ast.Rule
	for _, rule := range r.rules {
		head := rule.Ref()
		switch {
		case !ref.HasPrefix(head):
			o.open = o.open || head.HasPrefix(ref) || !head.IsGround()
		case rule.Default:
			fallback = rule
		case len(rule.Head.Args) > 0 || rule.Else != nil || rule.Head.RuleKind() == ast.MultiValue:
			o.open = true
		default:
			var values outcomes
			r.body(ctx, &values, rule.Body, rule.Head.Value)
			o.merge(always, values.at(ref[len(head):]))
		}
	}
	if fallback != nil && len(o.certain) == 0 {
		v := maybe
		if len(o.possible) == 0 && !o.open {
			v = always
		}
		o.merge(v, outcomes{certain: []*ast.Term{fallback.Head.Value}}.at(ref[len(fallback.Ref()):]))
	}
	r.memo[key] = o
	return o
}

// at descends from the values of a name to those of a path below it.
func (o outcomes) at(path ast.Ref) outcomes {
	if len(path) == 0 {
		return o
	}
	below := outcomes{open: o.open}
	for _, t := range o.certain {
		below.certain = append(below.certain, find(t, path))
	}
	for _, t := range o.possible {
		below.possible = append(below.possible, find(t, path))
	}
	return below
}

// find returns the value at path in t, nil when there is none.
func find(t *ast.Term, path ast.Ref) *ast.Term {
	if t == nil {
		return nil
	}
	v, err := t.Value.Find(path)
	if err != nil {
		return nil
	}
	return ast.NewTerm(v)
}
