package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport/sallyport/authz/token"
)

// upstream is one MCP server as companies have them: it speaks MCP, lists its tools to anybody, and believes whoever
// holds a token for it. It knows nothing of the gateway.
type upstream struct {
	http.Handler
	calls atomic.Int64 // tools/call requests that reached it
}

// newUpstream serves server to callers whose token tokens accepts.
func newUpstream(server *mcp.Server, tokens *token.Verifier, log *slog.Logger) *upstream {
	u := &upstream{}
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server },
		&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true, Logger: log})
	server.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if method != "tools/call" {
				return next(ctx, method, req)
			}
			u.calls.Add(1)
			id, err := identify(ctx, req, tokens)
			if err != nil {
				return nil, err
			}
			return next(context.WithValue(ctx, identityKey{}, id), method, req)
		}
	})
	u.Handler = handler
	return u
}

type identityKey struct{}

// identify verifies the bearer token that came with a tool call.
func identify(ctx context.Context, req mcp.Request, tokens *token.Verifier) (*token.Identity, error) {
	raw, ok := strings.CutPrefix(req.GetExtra().Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, fmt.Errorf("a bearer token is required")
	}
	return tokens.Verify(ctx, raw)
}

// require refuses a caller whose token lacks scope.
func require(ctx context.Context, scope string) error {
	id, _ := ctx.Value(identityKey{}).(*token.Identity)
	if id == nil || !slices.Contains(id.Scopes, scope) {
		return fmt.Errorf("forbidden: scope %s is required", scope)
	}
	return nil
}

func text(v any) *mcp.CallToolResult {
	b, err := json.Marshal(v)
	if err != nil {
		b = []byte(err.Error())
	}
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: string(b)}}}
}

type (
	noArguments struct{}
	itemRef     struct {
		ID int `json:"id" jsonschema:"the item's number"`
	}
	newItem struct {
		Name     string `json:"name" jsonschema:"what to order"`
		Quantity int    `json:"quantity" jsonschema:"how many"`
	}
)

// itemsServer is the seed page's server: four tools over a small stock.
func itemsServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "items", Version: "1.0.0"}, nil)
	stock := []newItem{{"anvil", 3}, {"rope", 40}, {"tunnel paint", 12}}
	mcp.AddTool(s, &mcp.Tool{Name: "listItems", Description: "List what is in stock."},
		func(ctx context.Context, _ *mcp.CallToolRequest, _ noArguments) (*mcp.CallToolResult, any, error) {
			return text(stock), nil, require(ctx, "item:List")
		})
	mcp.AddTool(s, &mcp.Tool{Name: "getItem", Description: "Show one item."},
		func(ctx context.Context, _ *mcp.CallToolRequest, in itemRef) (*mcp.CallToolResult, any, error) {
			if in.ID < 0 || in.ID >= len(stock) {
				return nil, nil, fmt.Errorf("no item %d", in.ID)
			}
			return text(stock[in.ID]), nil, require(ctx, "item:Get")
		})
	mcp.AddTool(s, &mcp.Tool{Name: "createItem", Description: "Order something new."},
		func(ctx context.Context, _ *mcp.CallToolRequest, in newItem) (*mcp.CallToolResult, any, error) {
			return text(in), nil, require(ctx, "item:Create")
		})
	mcp.AddTool(s, &mcp.Tool{Name: "updateItem", Description: "Change an item."},
		func(ctx context.Context, _ *mcp.CallToolRequest, in newItem) (*mcp.CallToolResult, any, error) {
			return text(in), nil, require(ctx, "item:Update")
		})
	return s
}

// mirrorServer shows a caller the identity that arrived with the call.
func mirrorServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "mirror", Version: "1.0.0"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "whoami", Description: "Show the identity that this server was given."},
		func(ctx context.Context, _ *mcp.CallToolRequest, _ noArguments) (*mcp.CallToolResult, any, error) {
			id, _ := ctx.Value(identityKey{}).(*token.Identity)
			if id == nil {
				return nil, nil, fmt.Errorf("nobody")
			}
			return text(id.Claims), nil, nil
		})
	return s
}
