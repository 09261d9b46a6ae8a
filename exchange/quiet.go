package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
)

var errUnreadable = errors.New("no answer that can be read")

// quiet keeps of an error what the server has no hand in: net/http quotes what it cannot read of an answer, and that may be
// a token, or our secret, sent back.
func quiet(ctx context.Context, err error) error {
	var network *net.OpError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrRedirect), errors.Is(err, ErrAddress):
		return err // ours
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return io.EOF
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &network):
		return network
	case errors.As(err, &untrusted):
		return errors.New("the server's certificate is not trusted: " + untrusted.Err.Error())
	}
	return errUnreadable
}
