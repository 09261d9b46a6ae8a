package authz_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/authz/glob"
)

// A rule that is written out wins, then the longest beginning.
func TestRules(t *testing.T) {
	r := rules(t, map[string]authz.TokenRule{
		"get":          {Lifetime: 1},
		"get*":         {Lifetime: 2},
		"getItem*":     {Lifetime: 3},
		"file:///a/*":  {Lifetime: 4},
		"file:///a/b":  {Lifetime: 5},
		"plain":        {Lifetime: 6},
		"dotted.name*": {Lifetime: 7},
		"delete*Item":  {Lifetime: 8},
	})
	for name, want := range map[string]time.Duration{
		"get": 1, "gets": 2, "getItem": 3, "getItems": 3, "getIte": 2,
		"file:///a/": 4, "file:///a/c": 4, "file:///a/b": 5, "file:///a/bc": 4,
		"plain": 6, "dotted.name": 7, "deleteItem": 8, "deleteAnItem": 8, "deleteItems": 0,
		"": 0, "ge": 0, "GET": 0, "plains": 0, "plai": 0, "dottedXname": 0, "file:///A/c": 0, "x": 0,
	} {
		got, ok := r.Find(name)
		if got.Lifetime != want || ok != (want != 0) {
			t.Errorf("%q: rule %d, %v, want %d", name, got.Lifetime, ok, want)
		}
	}
	for name, want := range map[string]bool{"get": true, "plain": true, "file:///a/b": true, "gets": false, "getItem": false, "get*": false, "": false} {
		if got := r.Names(name); got != want {
			t.Errorf("names %q: %v", name, got)
		}
	}
	everything := rules(t, map[string]authz.TokenRule{"*": {Lifetime: 1}, "a*": {Lifetime: 2}})
	for name, want := range map[string]time.Duration{"": 1, "b": 1, "*": 1, "a": 2, "ab": 2} {
		if got, ok := everything.Find(name); !ok || got.Lifetime != want {
			t.Errorf("%q: rule %d, %v", name, got.Lifetime, ok)
		}
	}
	if _, ok := (authz.Rules{}).Find("x"); ok || (authz.Rules{}).Names("x") {
		t.Error("the zero Rules name something")
	}
}

func TestRulesThatTie(t *testing.T) {
	if r, err := authz.NewRules(map[string]authz.TokenRule{"get*": {}, "get*Item": {}}); err == nil {
		t.Errorf("accepted as %+v", r)
	}
}

func durations(t *testing.T, patterns map[string]time.Duration) glob.Table[time.Duration] {
	t.Helper()
	table, err := glob.NewTable(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestTimeouts(t *testing.T) {
	tools := durations(t, map[string]time.Duration{"get": 1, "get*": 2, "getItem*": 3})
	for _, test := range []struct {
		timeouts authz.Timeouts
		tool     string
		want     time.Duration
	}{
		{authz.Timeouts{}, "get", 0},
		{authz.Timeouts{Default: 9}, "get", 9},
		{authz.Timeouts{Default: 9, Tools: tools}, "get", 1},
		{authz.Timeouts{Default: 9, Tools: tools}, "gets", 2},
		{authz.Timeouts{Default: 9, Tools: tools}, "getItem", 3},
		{authz.Timeouts{Default: 9, Tools: tools}, "getItems", 3},
		{authz.Timeouts{Default: 9, Tools: tools}, "put", 9},
		{authz.Timeouts{Default: 9, Tools: tools}, "GET", 9},
		{authz.Timeouts{Default: 9, Tools: durations(t, map[string]time.Duration{"*": 4})}, "put", 4},
		{authz.Timeouts{Tools: tools}, "put", 0},
	} {
		if got := test.timeouts.Of(test.tool); got != test.want {
			t.Errorf("%+v: %s: %d, want %d", test.timeouts, test.tool, got, test.want)
		}
	}
}
