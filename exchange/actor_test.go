package exchange

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// withActor answers the client credentials grant with numbered tokens.
func withActor(s *server, expiresIn any) (fetched *atomic.Int64) {
	fetched = new(atomic.Int64)
	exchange := s.answer
	s.answer = func(w http.ResponseWriter, form url.Values) {
		if form.Get("grant_type") != "client_credentials" {
			exchange(w, form)
			return
		}
		doc := map[string]any{"access_token": fmt.Sprintf("actor-%d", fetched.Add(1)), "token_type": "bearer"}
		if expiresIn != nil {
			doc["expires_in"] = expiresIn
		}
		writeJSON(w, 200, doc)
	}
	return fetched
}

func actorRequest() Request {
	r := request()
	r.ActorToken = true
	return r
}

func TestActorToken(t *testing.T) {
	tests := []struct {
		expiresIn any
		after     []time.Duration // of each call, since the first
		want      []string
	}{
		{60, []time.Duration{0, 49 * time.Second, 51 * time.Second}, []string{"actor-1", "actor-1", "actor-2"}},
		{4, []time.Duration{0, time.Second, 3 * time.Second}, []string{"actor-1", "actor-1", "actor-2"}},
		{nil, []time.Duration{0, 0}, []string{"actor-1", "actor-2"}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.expiresIn), func(t *testing.T) {
			s := serve(t, (*httptest.Server).Start)
			withActor(s, tt.expiresIn)
			start, now := time.Now(), time.Now()
			c := s.client(t, func(c *Config) { c.Now = func() time.Time { return now } })
			var got []string
			for _, after := range tt.after {
				now = start.Add(after)
				r := actorRequest()
				r.Lifetime = 0
				_, _ = c.Exchange(t.Context(), r) // refused for its exp when now has moved on
				form := s.forms[len(s.forms)-1]
				if form.Get("actor_token_type") != typeAccessToken || form.Get("grant_type") != grantExchange {
					t.Errorf("form %v", form)
				}
				got = append(got, form.Get("actor_token"))
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if form := s.forms[0]; len(form) != 1 || s.headers[0].Get("Authorization") == "" {
				t.Errorf("client credentials: %v", form)
			}
		})
	}
}

// Any number of callers cause one fetch, and one that gives up does not take it
// from the others.
func TestActorTokenIsFetchedOnce(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	fetched := withActor(s, 60)
	begun, release := make(chan struct{}), make(chan struct{})
	answer := s.answer
	s.answer = func(w http.ResponseWriter, form url.Values) {
		if form.Get("grant_type") == "client_credentials" {
			close(begun)
			<-release
		}
		answer(w, form)
	}
	c := s.client(t)

	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := c.Exchange(ctx, actorRequest())
		first <- err
	}()
	<-begun
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := c.Exchange(t.Context(), actorRequest()); err != nil {
				t.Error(err)
			}
		})
	}
	giveUp()
	wantKind(t, nil, <-first, Unavailable, context.Canceled)
	close(release)
	wg.Wait()
	if n := fetched.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestActorTokenFails(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	c := s.client(t)
	for _, tt := range []struct {
		status int
		doc    any
		kind   Kind
	}{
		{401, map[string]any{"error": "invalid_client"}, Refused},
		{503, nil, Unavailable},
		{200, map[string]any{"access_token": "a", "token_type": "N_A"}, Unacceptable},
		{200, map[string]any{"access_token": "a", "token_type": "Bearer", "expires_in": -1}, Unacceptable},
	} {
		s.answer = func(w http.ResponseWriter, form url.Values) {
			if form.Get("grant_type") != "client_credentials" {
				t.Error("exchanged without an actor token")
			}
			writeJSON(w, tt.status, tt.doc)
		}
		token, err := c.Exchange(t.Context(), actorRequest())
		wantKind(t, token, err, tt.kind, nil)
	}
}

// A token that the server no longer takes is not sent for the rest of its life.
func TestActorTokenIsForgotten(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	fetched := withActor(s, 3600)
	answer := s.answer
	s.answer = func(w http.ResponseWriter, form url.Values) {
		if form.Get("actor_token") == "actor-1" {
			writeJSON(w, 400, map[string]any{"error": "invalid_request"})
			return
		}
		answer(w, form)
	}
	c := s.client(t)
	token, err := c.Exchange(t.Context(), actorRequest())
	wantKind(t, token, err, Refused, nil)
	if _, err = c.Exchange(t.Context(), actorRequest()); err != nil || fetched.Load() != 2 {
		t.Errorf("%v after %d fetches", err, fetched.Load())
	}
}

// `act` may name this client by the subject of its actor token.
func TestActorTokenSubject(t *testing.T) {
	s := serve(t, (*httptest.Server).Start)
	s.answer = func(w http.ResponseWriter, form url.Values) {
		if form.Get("grant_type") == "client_credentials" {
			writeJSON(w, 200, map[string]any{"access_token": sign(map[string]any{"sub": "service-1"}), "token_type": "Bearer", "expires_in": 60})
			return
		}
		claims := goodClaims(s.URL)
		claims["act"] = map[string]any{"sub": "service-1"}
		answer := good(s.URL)
		answer["access_token"] = sign(claims)
		writeJSON(w, 200, answer)
	}
	c := s.client(t)
	r := actorRequest()
	r.RequireAct = true
	if _, err := c.Exchange(t.Context(), r); err != nil {
		t.Error(err)
	}
	r.ActorToken = false
	token, err := c.Exchange(t.Context(), r)
	wantKind(t, token, err, Unacceptable, ErrActor)
}
