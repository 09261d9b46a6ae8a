package exchange

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// net/http quotes what it cannot read of an answer: a server could have our secret, or the agent's token, written into logs
// by sending it back where a status line should be.
func TestErrorsQuoteNoAnswer(t *testing.T) {
	const secret = "what-the-server-was-told"
	for name, answer := range map[string]string{
		"status line": secret + "\r\n\r\n",
		"status code": "HTTP/1.1 " + secret + "\r\n\r\n",
		"header":      "HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n",
		"length":      "HTTP/1.1 200 OK\r\nContent-Length: " + secret + "\r\n\r\n",
		"encoding":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + secret + "\r\n\r\n",
		"chunk":       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + secret + "\r\n",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 4096))
				_, _ = c.Write([]byte(answer))
				_ = c.Close()
			}
		}()
		req, _ := http.NewRequest(http.MethodPost, "http://"+l.Addr().String(), strings.NewReader("x"))
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err == nil {
			_, err = readAll(resp.Body)
			_ = resp.Body.Close()
		}
		_ = l.Close()
		if err == nil {
			t.Errorf("%s: read", name)
			continue
		}
		if got := quiet(t.Context(), err).Error(); strings.Contains(got, secret) {
			t.Errorf("%s: %s", name, got)
		}
	}
}
