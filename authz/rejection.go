package authz

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/mcpparse"
)

// rejection is a refusal and everything that is said about it: public goes to the agent, reason to the audit.
type rejection struct {
	outcome audit.Outcome // audit.Denied: the caller may not; audit.Error: we could not
	status  int           // HTTP
	code    int           // JSON-RPC; 0 makes the answer a tool result with isError
	public  string
	reason  string // "" repeats public
	data    any    // JSON-RPC error data
	header  [][2]string
}

func denied(status, code int, public, reason string) *rejection {
	return &rejection{outcome: audit.Denied, status: status, code: code, public: public, reason: reason}
}

func failed(status int, public, reason string) *rejection {
	return &rejection{outcome: audit.Error, status: status, code: mcpparse.CodeInternal, public: public, reason: reason}
}

func (r *rejection) with(name, value string) *rejection {
	r.header = append(r.header, [2]string{name, value})
	return r
}

// reply renders the refusal for c's message: always JSON-RPC with the caller's id, so that no client takes it for
// a transport failure or for an older server.
func (r *rejection) reply(c *Call) Reply {
	body := mcpparse.ErrorBody(c.msg.ID, r.code, r.public, r.data)
	if r.code == 0 {
		body = mcpparse.ToolErrorBody(c.msg.ID, r.public, c.era == mcpparse.EraModern)
	}
	header := append([][2]string{{"content-type", "application/json"}, {"cache-control", "no-store"}}, r.header...)
	return Reply{Status: r.status, Header: header, Body: body}
}

// refuse turns a rejection into a verdict and its audit record.
func (c *Call) refuse(r *rejection) (Verdict, audit.Decision) {
	reply := r.reply(c)
	rec := c.record(r.outcome)
	rec.Message = r.reason
	if rec.Message == "" {
		rec.Message = r.public
	}
	return Verdict{Reply: &reply}, rec
}

var (
	errTooLarge = denied(413, mcpparse.CodeInvalidRequest, "request body too large", "")
	unrecorded  = failed(503, "the gateway cannot record this call", "")
)

// malformed answers a body that is not one acceptable JSON-RPC message. The id is echoed when it could be read.
func (c *Call) malformed(err error) *rejection {
	var pe *mcpparse.Error
	if !errors.As(err, &pe) {
		return denied(400, mcpparse.CodeParse, "parse error", err.Error())
	}
	c.msg.ID = pe.ID
	return denied(400, pe.Code, pe.Text, "")
}

// nouns name what a call is aimed at.
var nouns = map[mcpparse.Target]string{mcpparse.Tool: "tool", mcpparse.Prompt: "prompt", mcpparse.Resource: "resource"}

// unknown is the one answer for a name that does not exist and for one that this caller may not know of.
func (c *Call) unknown(reason string) *rejection {
	rej := denied(200, mcpparse.CodeInvalidParams, "Unknown "+nouns[c.msg.Target]+": "+c.msg.Name, reason)
	if c.msg.Target == mcpparse.Resource {
		rej.public, rej.data = "Resource not found", map[string]string{"uri": c.msg.Name}
		if c.era == mcpparse.EraLegacy {
			rej.code = mcpparse.CodeResourceNotFound
		}
	}
	return rej
}

// refused tells a caller that it may not do what it may know of: a tool's result, which the model reads, or an error.
func (c *Call) refused(public, reason string) *rejection {
	if c.msg.Target == mcpparse.Tool && c.msg.Method == "tools/call" {
		return denied(200, 0, public, reason)
	}
	return denied(200, mcpparse.CodeDenied, public, reason)
}

// retryAfter says when to come back, in whole seconds rounded up (RFC 9110 §10.2.3).
func (r *rejection) retryAfter(d time.Duration) *rejection {
	return r.with("retry-after", strconv.Itoa(int(math.Ceil(d.Seconds()))))
}
