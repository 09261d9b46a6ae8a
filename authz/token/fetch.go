package token

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authz/token/internal/jose"
)

const (
	fetchTimeout     = 5 * time.Second
	maxDocumentBytes = 1 << 20
	maxURLBytes      = 2 << 10

	defaultFresh = 5 * time.Minute // without Cache-Control: how long a withdrawn key lives on
	minFresh     = time.Minute
)

// fetcher reads the public documents of authorization servers.
type fetcher struct {
	client *http.Client
	plain  bool // http:// is fine beyond loopback
}

func newFetcher(base *http.Client, plain bool) *fetcher {
	client := http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: fetchTimeout,
		IdleConnTimeout:     time.Minute,
		MaxIdleConnsPerHost: maxQuestions,
	}}
	if base != nil {
		client = *base
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &fetcher{&client, plain}
}

// check parses a URL and refuses those that the documents of an authorization server must not come from.
func (f *fetcher) check(raw string) (*url.URL, error) {
	if len(raw) > maxURLBytes {
		return nil, fmt.Errorf("URL longer than %d bytes", maxURLBytes)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%s is not the URL of a public document", jose.Clip(raw))
	case u.Scheme == "https":
		return u, nil
	case u.Scheme == "http" && (f.plain || loopback(u.Hostname())):
		return u, nil
	}
	return nil, fmt.Errorf("%s: https is required", jose.Clip(raw))
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// get returns the body of a 200 answer and its Cache-Control. The URL has passed check.
func (f *fetcher) get(ctx context.Context, raw string) (body []byte, cacheControl string, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, raw, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("GET %s: status %d", raw, resp.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxDocumentBytes+1))
	if err != nil {
		return nil, "", fmt.Errorf("GET %s: %w", raw, err)
	}
	if len(body) > maxDocumentBytes {
		return nil, "", errors.New("GET " + raw + ": answer too large")
	}
	return body, resp.Header.Get("Cache-Control"), nil
}

// freshness reads how long an answer may be used out of its Cache-Control (RFC 9111 §5.2.2), at least minFresh.
func freshness(cacheControl string) time.Duration {
	fresh := defaultFresh
	for directive := range strings.SplitSeq(strings.ToLower(cacheControl), ",") {
		name, arg, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch name {
		case "no-store", "no-cache":
			return minFresh
		case "max-age":
			// What does not fit 25 bits lasts a year, and ParseUint then returns the largest value that fits.
			seconds, err := strconv.ParseUint(strings.Trim(arg, `"`), 10, 25)
			if err == nil || errors.Is(err, strconv.ErrRange) {
				fresh = max(time.Duration(seconds)*time.Second, minFresh)
			}
		}
	}
	return fresh
}
