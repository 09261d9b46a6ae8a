package exchange

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"
)

// Every cause has a name of its own, that of a finer one before that of what it
// wraps.
func TestReasons(t *testing.T) {
	word := regexp.MustCompile(`^[a-z_]{3,20}$`)
	seen := map[string]bool{}
	for _, r := range reasons {
		e := &Error{Kind: Unacceptable, Err: fmt.Errorf("somewhere: %w", r.cause)}
		if got := e.Reason(); got != r.name || !word.MatchString(got) || seen[got] {
			t.Errorf("%v is called %q, want %q", r.cause, got, r.name)
		}
		seen[r.name] = true
	}
	for _, tt := range []struct {
		err  *Error
		want string
	}{
		{&Error{Kind: Refused, Code: "invalid_target"}, "refused"},
		{&Error{Kind: Refused, Code: "invalid_request", Err: ErrRequest}, "request"},
		{&Error{Kind: Unavailable, Err: errors.New("connection reset")}, "network"},
		{&Error{Kind: Unavailable, Err: context.DeadlineExceeded}, "timeout"},
		{&Error{Kind: Unacceptable, Err: errors.New("new")}, "unacceptable"},
		{&Error{}, "unknown"},
	} {
		if got := tt.err.Reason(); got != tt.want {
			t.Errorf("%v is called %q, want %q", tt.err, got, tt.want)
		}
	}
	for _, fine := range []error{ErrScopeWider, ErrScopeNarrower} {
		if !errors.Is(fine, ErrScope) {
			t.Errorf("%v is no ErrScope", fine)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := request().Validate(); err != nil {
		t.Error(err)
	}
	r := request()
	r.Act = make([]byte, maxAct+1)
	wantKind(t, nil, r.Validate(), Refused, ErrRequest)
}
