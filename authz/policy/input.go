package policy

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/sallyport/sallyport/authz/token"
)

// Input is what a policy knows of one message. What the agent sent is under input.request, what we established is
// under input.identity, input.source and input.app; nothing of the first can reach the second.
type Input struct {
	Method          string          // input.request.mcp.method: "tools/call", also when a list asks on behalf of calls
	ProtocolVersion string          // input.request.mcp.protocol_version
	Tool            *Tool           // input.request.mcp.tool.params; nil when not a tool call
	Prompt          *Tool           // input.request.mcp.prompt.params; nil when not a prompts/get
	Resource        *Resource       // input.request.mcp.resource.params; nil when the message names no resource
	HTTP            HTTP            // input.request.http
	SourceIP        string          // input.source.ip
	App             string          // input.app.name
	Identity        *token.Identity // input.identity; nil when callers are not authenticated: {}
}

// Tool is a named call with arguments.
type Tool struct {
	Name      string // without the app's prefix
	Arguments []byte // raw JSON object; nil counts as {}
}

// Resource is what a message about resources names.
type Resource struct{ URI string }

// HTTP is the request that carried the message.
type HTTP struct {
	Method, Path, Host string
	Headers            map[string]string // by canonical name (Authorization); several values joined with ", "
}

// document builds the input as far as the policy can read it.
func (p *Policy) document(in Input) (*ast.Term, error) {
	root := ast.NewObject()
	if p.sees.root.has("request") {
		request, err := p.request(in)
		if err != nil {
			return nil, err
		}
		insert(root, "request", request)
	}
	if p.sees.root.has("source") {
		insert(root, "source", object("ip", text(in.SourceIP)))
	}
	if p.sees.root.has("app") {
		insert(root, "app", object("name", text(in.App)))
	}
	if p.sees.root.has("identity") {
		who, err := identityOf(in.Identity)
		if err != nil {
			return nil, err
		}
		insert(root, "identity", who)
	}
	return ast.NewTerm(root), nil
}

func (p *Policy) request(in Input) (*ast.Term, error) {
	request := ast.NewObject()
	if p.sees.mcp.any() {
		mcp, err := p.message(in)
		if err != nil {
			return nil, err
		}
		insert(request, "mcp", mcp)
	}
	if p.sees.http.any() {
		http := ast.NewObject()
		insertText(http, p.sees.http, "method", in.HTTP.Method)
		insertText(http, p.sees.http, "path", in.HTTP.Path)
		insertText(http, p.sees.http, "host", in.HTTP.Host)
		if p.sees.headers.any() {
			headers := ast.NewObject()
			for name, value := range in.HTTP.Headers {
				insertText(headers, p.sees.headers, name, value)
			}
			insert(http, "headers", ast.NewTerm(headers))
		}
		insert(request, "http", ast.NewTerm(http))
	}
	return ast.NewTerm(request), nil
}

func (p *Policy) message(in Input) (*ast.Term, error) {
	mcp := ast.NewObject()
	insertText(mcp, p.sees.mcp, "method", in.Method)
	insertText(mcp, p.sees.mcp, "protocol_version", in.ProtocolVersion)
	for _, call := range []struct {
		name string
		*Tool
	}{{"tool", in.Tool}, {"prompt", in.Prompt}} {
		if call.Tool == nil || !p.sees.mcp.has(call.name) {
			continue
		}
		params := ast.NewObject(ast.Item(name("name"), text(call.Name)))
		if p.sees.arguments.any() {
			args, err := arguments(call.Arguments, p.sees.arguments)
			if err != nil {
				return nil, err
			}
			insert(params, "arguments", args)
		}
		insert(mcp, call.name, object("params", ast.NewTerm(params)))
	}
	if in.Resource != nil && p.sees.mcp.has("resource") {
		insert(mcp, "resource", object("params", object("uri", text(in.Resource.URI))))
	}
	return ast.NewTerm(mcp), nil
}

// derived is what is memoised with an identity: its term, or why there is none.
type derived struct {
	term *ast.Term
	err  error
}

// identityOf returns the identity's term, built once for each verified token and shared by all policies.
func identityOf(id *token.Identity) (*ast.Term, error) {
	if id == nil {
		return ast.InternedEmptyObject, nil
	}
	d := id.Derived(func() any { return derive(id) }).(derived)
	return d.term, d.err
}

func derive(id *token.Identity) derived {
	claims, err := ast.InterfaceToValue(id.Claims)
	if err != nil {
		return derived{err: fmt.Errorf("input.identity.claims: %w", err)}
	}
	if _, ok := claims.(ast.Object); !ok { // no claims at all: a nil map reads as null
		claims = ast.InternedEmptyObjectValue
	}
	who := ast.NewObject()
	insert(who, "issuer", text(id.Issuer))
	insert(who, "subject", text(id.Subject))
	insert(who, "client_id", text(id.ClientID))
	insert(who, "client_only", ast.BooleanTerm(id.ClientOnly))
	insert(who, "binding", text(id.Binding.Method))
	insert(who, "actors", texts(id.Actors))
	insert(who, "scopes", texts(id.Scopes))
	insert(who, "claims", ast.NewTerm(claims))
	return derived{term: ast.NewTerm(who)}
}

func insert(o ast.Object, member string, value *ast.Term) { o.Insert(name(member), value) }

func insertText(o ast.Object, seen members, member, value string) {
	if seen.has(member) {
		insert(o, member, text(value))
	}
}

// object makes an object of one member.
func object(member string, value *ast.Term) *ast.Term {
	return ast.ObjectTerm(ast.Item(name(member), value))
}

func text(s string) *ast.Term { return ast.StringTerm(s) }

// names are the terms of the names in the input, which all documents share.
var names = func() map[string]*ast.Term {
	terms := map[string]*ast.Term{}
	for _, s := range []string{
		"actors", "app", "arguments", "binding", "claims", "client_id", "client_only", "headers", "host", "http", "identity", "ip", "issuer", "mcp", "method",
		"name", "params", "path", "prompt", "protocol_version", "request", "resource", "scopes", "source", "subject", "tool", "uri",
	} {
		terms[s] = text(s)
	}
	return terms
}()

func name(s string) *ast.Term {
	if t := names[s]; t != nil {
		return t
	}
	return text(s)
}

func texts(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = text(s)
	}
	return ast.ArrayTerm(terms...)
}
