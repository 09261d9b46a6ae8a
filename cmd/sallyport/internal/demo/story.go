package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/audit"
)

// story is the agent's day, step by step. A step that does not go as the product promises ends it with an error.
type story struct {
	*stage
	page  page
	agent *agent
}

func newStory(s *stage) *story { return &story{stage: s, page: page{out: s.cfg.Out}} }

func (s *story) tell(ctx context.Context) error {
	s.page.title("sallyport", "ready in "+round(time.Since(s.begun)), s.mcpURL)
	for _, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"An agent without a token is told where to log in", s.knock},
		{"It discovers, registers and logs in (OAuth 2.1, PKCE)", s.login},
		{"It lists the tools of two MCP servers behind one endpoint", s.list},
		{"An allowed call reaches the server with a fresh five-second token", s.allowed},
		{"The policy reads arguments: a refused call reaches nothing", s.refused},
		{"One line of policy is edited; the same call is now refused", s.edited},
		{"Every one of these left a record", s.audited},
	} {
		begun := time.Now()
		s.page.step(step.title)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		s.page.took(time.Since(begun))
	}
	s.farewell()
	return nil
}

func (s *story) knock(ctx context.Context) error {
	body := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"demo","version":"1"}}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.mcpURL, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	s.page.line("POST /mcp initialize", resp.Status)
	s.page.line("WWW-Authenticate", resp.Header.Get("WWW-Authenticate"))
	if resp.StatusCode != http.StatusUnauthorized {
		return errors.New("want 401")
	}
	return s.showMetadata(ctx)
}

func (s *story) showMetadata(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.mcpURL, "/mcp")+"/.well-known/oauth-protected-resource/mcp", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	metadata, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	s.page.line("protected resource", string(metadata))
	return err
}

func (s *story) login(ctx context.Context) error {
	var err error
	if s.agent, err = newAgent(s.mcpURL); err != nil {
		return err
	}
	if err := s.agent.connect(ctx); err != nil {
		return err
	}
	claims, err := s.agent.claims(ctx)
	if err != nil {
		return err
	}
	s.page.claims("the agent's token", claims)
	return nil
}

func (s *story) list(ctx context.Context) error {
	tools, err := s.agent.session.ListTools(ctx, nil)
	if err != nil {
		return err
	}
	for _, t := range tools.Tools {
		s.page.line(t.Name, t.Description)
	}
	s.page.note("the items server also has updateItem; no policy allows it, so it is not shown")
	if len(tools.Tools) != 4 {
		return fmt.Errorf("want 4 tools, got %d", len(tools.Tools))
	}
	return nil
}

func (s *story) allowed(ctx context.Context) error {
	answer, refused, err := s.agent.call(ctx, "items_listItems", map[string]any{})
	s.page.line("items_listItems", answer)
	if err != nil || refused {
		return errors.Join(err, errors.New("want an answer"))
	}
	answer, refused, err = s.agent.call(ctx, "mirror_whoami", map[string]any{})
	if err != nil || refused {
		return errors.Join(err, errors.New("mirror_whoami: "+answer))
	}
	var claims map[string]any
	if err := json.Unmarshal([]byte(answer), &claims); err != nil {
		return err
	}
	s.page.claims("the token that the second server received", claims)
	s.page.note("the same user; the gateway and the agent in `act`; one audience, one scope of four, five seconds")
	s.page.note("the agent's own token went no further than the first door")
	return nil
}

func (s *story) refused(ctx context.Context) error {
	before := s.items.calls.Load()
	for _, quantity := range []int{5, 500} {
		answer, refused, err := s.agent.call(ctx, "items_createItem", map[string]any{"name": "rocket skates", "quantity": quantity})
		if err != nil {
			return err
		}
		s.page.verdict(fmt.Sprintf("items_createItem quantity=%d", quantity), answer, refused)
		if refused != (quantity == 500) {
			return errors.New("the policy was not obeyed")
		}
	}
	s.page.line("calls that reached the server", fmt.Sprint(s.items.calls.Load()-before))
	return nil
}

// edited changes the policy on disk as an editor would, and calls again until the gateway has taken notice.
func (s *story) edited(ctx context.Context) error {
	path := filepath.Join(s.dir, "items.rego")
	policy, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	s.page.diff("limit := 10", "limit := 3")
	changed := strings.Replace(string(policy), "limit := 10", "limit := 3", 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		return err
	}
	saved := time.Now()
	for time.Since(saved) < 5*time.Second {
		answer, refused, err := s.agent.call(ctx, "items_createItem", map[string]any{"name": "rocket skates", "quantity": 5})
		if err != nil {
			return err
		}
		if refused {
			s.page.verdict("items_createItem quantity=5", answer, true)
			s.page.note("in force " + round(time.Since(saved)) + " after saving; no restart, no dropped connection")
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("the edited policy did not take effect")
}

func (s *story) audited(context.Context) error {
	log, err := os.Open(filepath.Join(s.dir, "audit.jsonl"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	n, err := audit.Verify(log)
	if err != nil {
		return err
	}
	lines, err := os.ReadFile(log.Name())
	if err != nil {
		return err
	}
	s.page.record(lastDenied(string(lines)))
	s.page.line("audit", fmt.Sprintf("%d records, hash chain intact", n))
	return nil
}

// lastDenied returns the last decision that refused something.
func lastDenied(lines string) string {
	last := ""
	for line := range strings.Lines(lines) {
		if strings.Contains(line, `"outcome":"denied"`) {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

func (s *story) farewell() {
	s.page.step("Now yours")
	s.page.line("policy", filepath.Join(s.dir, "items.rego")+"   edit it, save, call again")
	s.page.line("audit", filepath.Join(s.dir, "audit.jsonl"))
	s.page.line("Claude Code", "claude mcp add --transport http sallyport-demo "+s.mcpURL)
	s.page.line("VS Code", `code --add-mcp '{"name":"sallyport-demo","type":"http","url":"`+s.mcpURL+`"}'`)
	s.page.line("Inspector", "npx @modelcontextprotocol/inspector --cli "+s.mcpURL+" --transport http --method tools/list")
	if !s.cfg.Once {
		s.page.note("running until Ctrl-C")
	}
}
