package sts

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	maxActors       = 5
)

// exchange is the token exchange grant (RFC 8693 §2). What is wrong with the
// subject or the actor token is an invalid_request (§2.2.2).
func (s *Server) exchange(client Client, q form) (*response, *oauthError) {
	if t := q.get("requested_token_type"); t != "" && t != typeAccessToken {
		return nil, refuse("invalid_request", "only access tokens are issued")
	}
	audience, fail := exchangeTarget(client, q)
	if fail != nil {
		return nil, fail
	}
	subject, fail := s.subject(client, q)
	if fail != nil {
		return nil, fail
	}
	scopes, fail := s.exchangeScopes(client, q, subject)
	if fail != nil {
		return nil, fail
	}
	life, fail := s.exchangeLife(client, q, subject)
	if fail != nil {
		return nil, fail
	}
	actor, fail := s.actor(client, q, subject)
	if fail != nil {
		return nil, fail
	}
	sub := text(subject["sub"])
	claims := jwt.MapClaims(maps.Clone(s.users[sub].Claims))
	delete(claims, "may_act")
	if actor != nil {
		if claims == nil {
			claims = jwt.MapClaims{}
		}
		claims["act"] = actor
	}
	res, fail := s.issue(client.ID, grant{subject: sub, scopes: scopes, audience: audience}, life, claims)
	if fail != nil {
		return nil, fail
	}
	res.IssuedTokenType = typeAccessToken
	s.exchanges.Add(1)
	return res, nil
}

// exchangeTarget is the one place asked for, by name or by URI.
func exchangeTarget(client Client, q form) (string, *oauthError) {
	asked := slices.Concat(q["audience"], q["resource"])
	slices.Sort(asked)
	if asked = slices.Compact(asked); len(asked) != 1 {
		return "", refuse("invalid_target", "exactly one audience or resource is required")
	}
	if !slices.Contains(client.Exchange.Audiences, asked[0]) {
		return "", refuse("invalid_target", "not a target of this client")
	}
	return asked[0], nil
}

// subject verifies the subject token, and that it was meant for this client: who
// holds a token for one service must not use it to reach another.
func (s *Server) subject(client Client, q form) (jwt.MapClaims, *oauthError) {
	if t := q.get("subject_token_type"); t != typeAccessToken && t != typeJWT {
		return nil, refuse("invalid_request", "subject_token_type must be access_token or jwt")
	}
	claims, err := s.signer.verify(q.get("subject_token"))
	if err != nil {
		return nil, refuse("invalid_request", "the subject token is not valid")
	}
	audience, err := claims.GetAudience()
	if err != nil || len(audience) == 0 || !subset(audience, client.Exchange.SubjectAudiences) {
		return nil, refuse("invalid_request", "the subject token is not meant for this client")
	}
	return claims, nil
}

func (s *Server) exchangeScopes(client Client, q form, subject jwt.MapClaims) ([]string, *oauthError) {
	scopes := splitScope(q.get("scope"))
	switch {
	case !subset(scopes, client.Scopes):
		return nil, refuse("invalid_scope", "not the client's")
	case !s.cfg.AllowWiderScopes && !subset(scopes, splitScope(text(subject["scope"]))):
		return nil, refuse("invalid_scope", "not the subject token's")
	}
	return scopes, nil
}

// exchangeLife is the shortest of what was asked for, what the client may have
// and what the subject token has left.
func (s *Server) exchangeLife(client Client, q form, subject jwt.MapClaims) (time.Duration, *oauthError) {
	exp, err := subject.GetExpirationTime()
	if err != nil || exp == nil {
		return 0, refuse("invalid_request", "the subject token is not valid")
	}
	life, fail := askedLife(q, min(client.Exchange.MaxLifetime, exp.Sub(s.cfg.Now())))
	if fail == nil && life < time.Second {
		return 0, refuse("invalid_request", "the subject token is about to expire")
	}
	return life, fail
}

// askedLife is the lifetime that was asked for, no longer than most.
func askedLife(q form, most time.Duration) (time.Duration, *oauthError) {
	asked := q.get("requested_expires_in")
	if asked == "" {
		return most, nil
	}
	n, err := strconv.ParseUint(asked, 10, 31)
	if err != nil || n == 0 {
		return 0, refuse("invalid_request", "requested_expires_in must be a positive number of seconds")
	}
	return min(most, time.Duration(n)*time.Second), nil
}

// actor is the `act` claim (RFC 8693 §4.1): the acting party, and within it those
// that acted before. The client that a user's token was issued to is the first of
// them, so that the agent stays visible. It is nil under impersonation. may_act
// (§4.4), where the subject token has it, names the only party that may act, in
// either case.
func (s *Server) actor(client Client, q form, subject jwt.MapClaims) (map[string]any, *oauthError) {
	name := client.ID
	if raw := q.get("actor_token"); raw != "" || q.get("actor_token_type") != "" {
		claims, err := s.signer.verify(raw)
		if err != nil || q.get("actor_token_type") != typeAccessToken && q.get("actor_token_type") != typeJWT {
			return nil, refuse("invalid_request", "the actor token is not valid")
		}
		if text(claims["client_id"]) != client.ID {
			return nil, refuse("invalid_request", "the actor token is another client's")
		}
		name = text(claims["sub"])
	}
	if may, limited := subject["may_act"]; limited && !mayAct(may, name, client.ID) {
		return nil, refuse("invalid_request", "may_act names another party")
	}
	if client.Exchange.Impersonate {
		return nil, nil
	}
	act := map[string]any{"sub": name}
	depth := 1
	first := earlier(subject)
	for previous := first; previous != nil; depth++ {
		if depth >= maxActors {
			return nil, refuse("invalid_request", "too many actors")
		}
		chain, _ := previous.(map[string]any)
		previous = chain["act"]
	}
	if first != nil {
		act["act"] = first
	}
	return act, nil
}

// earlier is who acted for the subject before: the token's `act`, or, in a user's own token, the client that it was
// issued to. It is nil when the client speaks for itself.
func earlier(subject jwt.MapClaims) any {
	if act := subject["act"]; act != nil {
		return act
	}
	if agent := text(subject["client_id"]); agent != "" && agent != text(subject["sub"]) {
		return map[string]any{"sub": agent}
	}
	return nil
}

func mayAct(may any, name, clientID string) bool {
	m, _ := may.(map[string]any)
	sub, hasSub := m["sub"]
	id, hasID := m["client_id"]
	return (hasSub || hasID) && (!hasSub || sub == name) && (!hasID || id == clientID)
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
