package policy

import (
	"strings"
	"testing"
)

const (
	argumentsDecide = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "pay"
	input.request.mcp.tool.params.arguments.amount < 100
}`
	argumentsDeny = `package orchestrator
default result["allowed"] := true
result["allowed"] := false if {
	input.request.mcp.tool.params.name == "pay"
	not input.request.mcp.tool.params.arguments.approved
}
result["allowed"] := false if input.request.mcp.tool.params.name == "refund"`
	objectForm = `package orchestrator
default result := {"allowed": false}
result := {"allowed": true} if {
	input.request.mcp.tool.params.name == "pay"
	input.request.mcp.tool.params.arguments.amount < 100
}
result := {"allowed": false, "external_message": "ask finance"} if {
	input.request.mcp.tool.params.name == "refund"
	not input.request.mcp.tool.params.arguments.amount < 10
}`
	helperForm = `package orchestrator
default small := false
small if { input.request.mcp.tool.params.name == "pay"; input.request.mcp.tool.params.arguments.amount < 100 }
result["allowed"] := small`
	aliasForm = `package orchestrator
default result["allowed"] := false
tool := input.request.mcp.tool.params
result["allowed"] := true if { tool.name in {"pay", "quote"}; startswith(tool.name, "p"); tool.arguments.amount < 100 }`
	negatedForm = `package orchestrator
default result["allowed"] := false
large if input.request.mcp.tool.params.arguments.amount >= 100
default known := false
known := true if input.request.mcp.tool.params.name == "pay"
result["allowed"] := true if { not large; known }`
	negatedHelper = `package orchestrator
default large := false
large := true if { input.request.mcp.tool.params.name == "pay"; input.request.mcp.tool.params.arguments.amount >= 100 }
large := true if { input.request.mcp.tool.params.name == "refund" }
default result["allowed"] := false
result["allowed"] := true if { not large; input.request.mcp.tool.params.arguments.amount > 0; input.request.mcp.tool.params.name in {"pay", "refund", "quote"} }`
	bareHelper = `package orchestrator
default small := false
small := true if { input.request.mcp.tool.params.name in {"pay", "refund"}; input.request.mcp.tool.params.arguments.amount < 100 }
default unlocked := false
unlocked := {"pay": true, "refund": false}[input.request.mcp.tool.params.name] if input.request.mcp.tool.params.arguments.amount
default result["allowed"] := false
result["allowed"] := true if { small; unlocked }`
	comparedHelper = `package orchestrator
default size := "none"
size := "small" if { input.request.mcp.tool.params.name == "pay"; input.request.mcp.tool.params.arguments.amount < 100 }
size := "large" if { input.request.mcp.tool.params.name == "refund"; input.request.mcp.tool.params.arguments.amount }
default result["allowed"] := false
result["allowed"] := true if size == "small"`
	messageForm = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if { input.request.mcp.tool.params.name == "pay"; input.request.mcp.tool.params.arguments.amount < 100 }
result["external_message"] := sprintf("%v is too much", [input.request.mcp.tool.params.arguments.amount]) if {
	not result.allowed
	input.request.mcp.tool.params.name == "refund"
}`
	scopesForm = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if { input.request.mcp.tool.params.name == "pay"; input.request.mcp.tool.params.arguments.amount < 100 }
result["required_scopes"] := ["refunds:write"] if { not result.allowed; input.request.mcp.tool.params.name == "refund" }`
	certainConflict = `package orchestrator
result["allowed"] := true if input.request.mcp.tool.params.name == "pay"
result["allowed"] := false if input.request.mcp.tool.params.name == "pay"
result["allowed"] := true if input.request.mcp.tool.params.arguments.amount < 100`
	conflictUnderDefault = "default result[\"allowed\"] := false\n"
	messageConflict      = `package orchestrator
result["allowed"] := true if input.request.mcp.tool.params.arguments.amount < 100
result["external_message"] := "a"
result["external_message"] := "b" if input.request.mcp.tool.params.name == "pay"`
	certainError = `package orchestrator
default result["allowed"] := true
result["allowed"] := false if to_number(input.request.mcp.tool.params.name) == 1
result["allowed"] := false if input.request.mcp.tool.params.arguments.amount > 100`
	errorWithoutArguments = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "pay"
	to_number(object.get(input.request.mcp.tool.params.arguments, "amount", "none")) < 100
}`
	elseForm = `package orchestrator
result["allowed"] := false if { input.request.mcp.tool.params.arguments.amount != 1 } else := true if { input.request.mcp.tool.params.arguments.amount; input.request.mcp.tool.params.name == "pay" }`
	everyForm = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if {
	input.request.mcp.tool.params.name == "pay"
	input.request.mcp.tool.params.arguments.amounts != []
	every a in input.request.mcp.tool.params.arguments.amounts { a < 100 }
}`
	clockForm = `package orchestrator
default result["allowed"] := false
result["allowed"] := true if { time.now_ns() > 0; input.request.mcp.tool.params.name == "pay"; input.request.mcp.tool.params.arguments.amount < 100 }
result["allowed"] := true if { time.now_ns() < 0; input.request.mcp.tool.params.arguments.amount < 100 }`
	tokenAndArguments = `package orchestrator
default result["allowed"] := false
claims := io.jwt.decode(substring(input.request.http.headers.Authorization, 7, -1))[1]
result["allowed"] := true if { claims.sub == "ann"; input.request.mcp.tool.params.name == "pay"; input.request.mcp.tool.params.arguments.amount < 100 }
result["allowed"] := true if { claims.sub == "bob"; input.request.mcp.tool.params.arguments.amount < 100 }`
)

func TestVisible(t *testing.T) {
	tests := map[string]struct{ src, shown, hidden string }{
		"v0":                      {v0Policy, "readPage searchPages", "deletePage"},
		"token":                   {tokenPolicy, "readPage readSalary", ""},
		"allowed for some":        {argumentsDecide, "pay", "refund"},
		"denied for some":         {argumentsDeny, "pay quote", "refund"},
		"object form":             {objectForm, "pay refund", "quote"},
		"helper":                  {helperForm, "pay", "refund"},
		"alias":                   {aliasForm, "pay", "quote refund"},
		"negation":                {negatedForm, "pay", "refund"},
		"negated helper":          {negatedHelper, "pay quote", "refund report"},
		"bare helper":             {bareHelper, "pay", "refund quote"},
		"compared helper":         {comparedHelper, "pay", "refund quote"},
		"message":                 {messageForm, "pay refund", "quote"},
		"step-up":                 {scopesForm, "pay refund", "quote"},
		"conflict":                {certainConflict, "refund", "pay"},
		"conflict under default":  {strings.Replace(certainConflict, "\n", "\n"+conflictUnderDefault, 1), "refund", "pay"},
		"conflict in the message": {messageConflict, "refund", "pay"},
		"error":                   {certainError, "", "pay refund"},
		"error without arguments": {errorWithoutArguments, "pay", "refund"},
		"else":                    {elseForm, "pay", ""},
		"every":                   {everyForm, "pay", "refund"},
		"clock":                   {clockForm, "pay", "refund"},
		"token and arguments":     {tokenAndArguments, "pay", "refund"},
		"undefined":               {rules(`result["allowed"] := true if input.nothing`), "", "pay"},
		"whole input":             {rules(`result["allowed"] := true if { walk(input, [_, "gold"]) }`), "pay", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustCompile(t, tt.src)
			for tool := range strings.FieldsSeq(tt.shown) {
				if !p.Visible(t.Context(), call(tool, "")) {
					t.Errorf("%s is hidden", tool)
				}
			}
			for tool := range strings.FieldsSeq(tt.hidden) {
				if p.Visible(t.Context(), call(tool, "")) {
					t.Errorf("%s is shown", tool)
				}
			}
		})
	}
}

func TestVisibleIgnoresTheArgumentsOfACall(t *testing.T) {
	p := mustCompile(t, argumentsDecide)
	if !p.Visible(t.Context(), call("pay", `{"amount":1000}`)) {
		t.Error("a refused amount hides the tool")
	}
}

func TestVisiblePrompt(t *testing.T) {
	p := mustCompile(t, rules(`default result["allowed"] := false`,
		`result["allowed"] := true if { input.request.mcp.prompt.params.name == "report"; input.request.mcp.prompt.params.arguments.year == "2026" }`))
	for name, want := range map[string]bool{"report": true, "secret": false} {
		if got := p.Visible(t.Context(), Input{Method: "prompts/get", Prompt: &Tool{Name: name}}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if p.Visible(t.Context(), call("report", "")) {
		t.Error("a rule about prompts shows a tool")
	}
}

// What is allowed for the arguments at hand is shown: hiding it would be a denial that the policy did not speak.
func TestAllowedIsVisible(t *testing.T) {
	arguments := []string{``, `{}`, `{"amount":1}`, `{"amount":1000}`, `{"amount":"7"}`, `{"approved":true}`, `{"amounts":[1,2]}`, `{"x":"gold"}`}
	for _, src := range []string{v0Policy, tokenPolicy, argumentsDecide, argumentsDeny, objectForm, helperForm, aliasForm, negatedForm, negatedHelper, bareHelper, comparedHelper,
		messageForm, scopesForm, certainConflict, messageConflict, certainError, errorWithoutArguments, elseForm, everyForm, clockForm, tokenAndArguments} {
		p := mustCompile(t, src)
		for _, tool := range []string{"pay", "refund", "quote", "readPage", "1"} {
			shown := p.Visible(t.Context(), call(tool, ""))
			for _, args := range arguments {
				d := p.Decide(t.Context(), call(tool, args))
				if speaks := d.Allowed || d.Message != "" || len(d.RequiredScopes) > 0; speaks && !shown {
					t.Errorf("%s %s answers %+v but is hidden by\n%s", tool, args, d, src)
				}
			}
		}
	}
}
