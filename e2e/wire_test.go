package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What no HTTP client would send, byte by byte.

// fields are header lines in the order in which they are sent.
type fields [][2]string

// set replaces the fields of a name, or adds one.
func (f fields) set(name, value string) fields {
	return append(f.drop(name), [2]string{name, value})
}

func (f fields) drop(name string) fields {
	return slices.DeleteFunc(slices.Clone(f), func(l [2]string) bool { return strings.EqualFold(l[0], name) })
}

// lines writes an HTTP/1.1 message.
func (f fields) lines(start string, extra []string, body []byte) []byte {
	var b bytes.Buffer
	b.WriteString(start + " HTTP/1.1\r\n")
	for _, l := range f {
		b.WriteString(l[0] + ": " + l[1] + "\r\n")
	}
	for _, l := range extra {
		b.WriteString(l + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// raw sends bytes on a connection of their own and reads the answers that belong to methods. An answer that does
// not come has status 0.
func (w *world) raw(sent []byte, methods ...string) []answer {
	w.t.Helper()
	c := w.dial()
	defer func() { _ = c.Close() }()
	go func() { _, _ = c.Write(sent) }() // the gateway may answer, and close, before it has read all
	in := bufio.NewReader(c)
	out := make([]answer, len(methods))
	for i, method := range methods {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return out
		}
		out[i] = readAnswer(resp)
	}
	return out
}

func readAnswer(resp *http.Response) answer {
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, _ = io.ReadAll(resp.Body)
	_ = json.Unmarshal(a.Body, &a.RPC)
	return a
}

// frames is a client's side of an HTTP/2 connection, on which nothing is checked.
type frames struct {
	*http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
}

// newFrames begins HTTP/2 with prior knowledge.
func newFrames(c io.ReadWriter) (*frames, error) {
	f := &frames{Framer: http2.NewFramer(c, c)}
	f.encoder = hpack.NewEncoder(&f.block)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(c, http2.ClientPreface)
	return f, errors.Join(err, f.WriteSettings())
}

func (f *frames) headers(stream uint32, head fields, end bool) error {
	f.block.Reset()
	for _, l := range head {
		if err := f.encoder.WriteField(hpack.HeaderField{Name: l[0], Value: l[1]}); err != nil {
			return err
		}
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block.Bytes(), EndHeaders: true, EndStream: end})
}

// h2 sends one request over HTTP/2 with prior knowledge, nothing checked: fields, then body unless nil, then trailers
// unless nil. The answer to a reset or to a closed connection has status 0.
func (w *world) h2(head fields, body []byte, trailers fields) answer {
	w.t.Helper()
	c := w.dial()
	defer func() { _ = c.Close() }()
	fr, err := newFrames(c)
	must(w.t, err)
	must(w.t, fr.headers(1, head, body == nil && trailers == nil))
	if body != nil {
		must(w.t, fr.WriteData(1, trailers == nil, body))
	}
	if trailers != nil {
		must(w.t, fr.headers(1, trailers, true))
	}
	return readStream(fr.Framer)
}

func readStream(fr *http2.Framer) answer {
	a := answer{Header: http.Header{}}
	for {
		frame, err := fr.ReadFrame()
		if err != nil {
			return answer{}
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			a.Status, _ = strconv.Atoi(f.PseudoValue("status"))
			for _, l := range f.RegularFields() {
				a.Header.Add(l.Name, l.Value)
			}
		case *http2.DataFrame:
			a.Body = append(a.Body, f.Data()...)
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			if a.Status == 0 {
				return answer{}
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
			continue
		default:
			continue
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) {
			_ = json.Unmarshal(a.Body, &a.RPC)
			return a
		}
	}
}

// chunked writes body in chunks of size bytes, with trailers.
func chunked(body []byte, size int, trailers ...string) []byte {
	var b bytes.Buffer
	for chunk := range slices.Chunk(body, size) {
		_, _ = fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
	}
	b.WriteString("0\r\n")
	for _, l := range trailers {
		b.WriteString(l + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}
