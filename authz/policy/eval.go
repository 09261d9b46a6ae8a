package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// noData is the base document of every policy: empty and never written, so that one snapshot serves all queries.
var (
	noData   = inmem.New()
	snapshot = storage.NewTransactionOrDie(context.Background(), noData)
)

var (
	resultPath = packagePath.Append(ast.StringTerm("result"))
	// answer stands for the wanted value in queries and in what partial evaluation leaves of them.
	answer = ast.VarTerm("answer")
	// resultQuery is data.orchestrator.result = answer.
	resultQuery = valueOf(resultPath)
)

// valueOf is the query for the value at path, in the form that compilation would give it.
func valueOf(path ast.Ref) ast.Body {
	return ast.NewBody(ast.Equality.Expr(ast.NewTerm(path), answer))
}

// facts are what an evaluation goes by.
type facts struct {
	compiler *ast.Compiler
	input    *ast.Term
	cancel   topdown.Cancel
}

// evaluate runs eval on in, within the deadline. What is late is begun anew once: the clock also counts the time that others
// had the processor, as where a control group is throttled, and a policy that is slow by itself is late again. The error is
// about in.
func (p *Policy) evaluate(ctx context.Context, in Input, eval func(facts)) error {
	document, err := p.document(in)
	if err != nil {
		return err
	}
	for range 2 {
		cancel, release := bounded(ctx, p.deadline)
		eval(facts{p.compiler, document, cancel})
		release()
		if !cancel.Cancelled() || ctx.Err() != nil {
			break
		}
	}
	return nil
}

// bounded returns a switch that stops an evaluation after deadline or when ctx ends. It starts no goroutine unless
// one of the two happens.
func bounded(ctx context.Context, deadline time.Duration) (topdown.Cancel, func()) {
	cancel := topdown.NewCancel()
	timer := time.AfterFunc(deadline, cancel.Cancel)
	detach := context.AfterFunc(ctx, cancel.Cancel)
	return cancel, func() {
		timer.Stop()
		detach()
	}
}

func (f facts) query(body ast.Body) *topdown.Query {
	return topdown.NewQuery(body).
		WithCompiler(f.compiler).
		WithStore(noData).
		WithTransaction(snapshot).
		WithInput(f.input).
		WithCancel(f.cancel).
		WithMetrics(metrics.NoOp()).
		WithStrictBuiltinErrors(true)
}

// decide evaluates the result with everything known.
func (f facts) decide(ctx context.Context) Decision {
	rows, err := f.query(resultQuery).Run(ctx)
	if err != nil {
		return failure(err)
	}
	if len(rows) != 1 { // none: no rule applies; several would be no answer either
		return Decision{Reason: Undefined}
	}
	return read(rows[0][answer.Value.(ast.Var)])
}

func failure(err error) Decision {
	d := Decision{Reason: Failed, Err: errors.New("evaluation failed")}
	var e *topdown.Error
	if !errors.As(err, &e) {
		return d
	}
	switch e.Code {
	case topdown.CancelErr:
		d.Reason = Late
	case topdown.ConflictErr:
		d.Reason = Conflict
	}
	d.Err = evalError(e)
	return d
}

// evalError keeps what does not depend on the input: OPA's messages quote operands, and an operand may be a token.
func evalError(e *topdown.Error) error {
	text := e.Code
	if name, _, _ := strings.Cut(e.Message, ":"); ast.BuiltinMap[name] != nil {
		text += " in " + name
	}
	if e.Location != nil && e.Location.File != "" {
		text = fmt.Sprintf("%s:%d:%d: %s", e.Location.File, e.Location.Row, e.Location.Col, text)
	}
	return errors.New(text)
}
