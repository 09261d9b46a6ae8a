package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/authz/revocation"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/config"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/service"
)

const revokeHelp = `Usage: sallyport revoke -config FILE TARGET [flags]
       sallyport revoke -config FILE -list

Tells the running gateway to refuse what it has accepted so far. TARGET is one of

  -subject S   the tokens that were issued to a user up to now, and the user's sessions
  -client C    likewise of a client (client_id, or azp)
  -jti J       one token
  -session ID  one session, by the name that the audit has for it

A subject or a client can log in anew: what is issued from now on is good again. Who
holds a refresh token needs no login for that; end it at the authorization server.

`

func revokeCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("revoke", flag.ContinueOnError)
	fs.Usage = func() { _, _ = fmt.Fprint(fs.Output(), revokeHelp); fs.PrintDefaults() }
	var src source
	src.flags(fs)
	named := map[revocation.Kind]*string{
		revocation.Subject: fs.String("subject", "", "`SUBJECT` whose tokens to revoke"),
		revocation.Client:  fs.String("client", "", "`CLIENT` whose tokens to revoke"),
		revocation.JTI:     fs.String("jti", "", "`JTI` of the token to revoke"),
		revocation.Session: fs.String("session", "", "`ID` of the session to end, as in the audit"),
	}
	issuer := fs.String("issuer", "", "revoke only what this `ISSUER` has issued (default any)")
	keep := fs.Duration("for", revocation.DefaultKeep, "how long to refuse: no shorter than tokens live")
	undo := fs.Bool("undo", false, "undo the revocation of TARGET; what it has ended stays ended")
	list := fs.Bool("list", false, "print the revocations in force")
	if err := parse(fs, args, stderr); err != nil {
		return err
	}
	request := service.RevokeRequest{Keep: keep.String(), Undo: *undo}
	targets := 0
	fs.Visit(func(f *flag.Flag) {
		if value := named[revocation.Kind(f.Name)]; value != nil {
			request.Target = revocation.Target{Kind: revocation.Kind(f.Name), Value: *value, Issuer: *issuer}
			targets++
		}
	})
	switch {
	case *list && targets > 0, !*list && targets != 1:
		_, _ = fmt.Fprintln(stderr, "sallyport revoke: name one of -subject, -client, -jti and -session, or -list")
		return errUsage
	case *list:
	case request.Check() != nil:
		_, _ = fmt.Fprintln(stderr, "sallyport revoke:", request.Check())
		return errUsage
	}
	return src.command(stderr, func(at service.Sockets) error {
		if *list {
			return printRevocations(ctx, at, stdout)
		}
		answer, err := service.Revoke(ctx, at, request)
		if err == nil || !answer.At.IsZero() {
			printRevoked(stdout, answer, err == nil)
		}
		return err
	})
}

// command runs do with the sockets of the gateway that runs with the file. That the file has faults by now, or that its
// secrets cannot be read from here, is no reason not to.
func (s *source) command(stderr io.Writer, do func(service.Sockets) error) error {
	if s.file == "" {
		_, _ = fmt.Fprintln(stderr, "no configuration: name one with -config FILE")
		return errUsage
	}
	cfg, problems := s.load()
	address := ""
	if cfg != nil {
		address = cfg.Service.Address
	}
	sockets, err := service.SocketsFor(s.file, address, "")
	if err == nil {
		err = do(sockets)
	}
	if errors.Is(err, service.ErrNotRunning) && config.Failed(problems) {
		for _, p := range problems {
			_, _ = fmt.Fprintln(stderr, p.String())
		}
	}
	return err
}

func printRevoked(w io.Writer, a service.RevokeAnswer, kept bool) {
	what := fmt.Sprintf("%s %q%s", a.Kind, a.Value, ofIssuer(a.Issuer))
	until := a.Until.Local().Format(time.RFC3339)
	switch a.Kind {
	case revocation.Subject, revocation.Client:
		what += ": tokens issued up to " + a.IssuedUntil.Local().Format(time.RFC3339)
	}
	if a.Undone {
		_, _ = fmt.Fprintf(w, "undone: %s\n", what)
	} else {
		_, _ = fmt.Fprintf(w, "revoked: %s, until %s\n", what, until)
		_, _ = fmt.Fprintf(w, "ended at this replica: %d streams and calls, %d sessions\n", a.Streams, a.Sessions)
	}
	switch {
	case kept && a.Place == "session.store":
		_, _ = fmt.Fprintln(w, "shared through session.store: the other replicas follow within a second")
	case kept:
		_, _ = fmt.Fprintln(w, "kept in "+a.Place+": replicas that share the file follow within a second")
	}
}

func ofIssuer(issuer string) string {
	if issuer == "" {
		return ""
	}
	return " of " + issuer
}

func printRevocations(ctx context.Context, at service.Sockets, w io.Writer) error {
	entries, err := service.Revocations(ctx, at)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KIND\tVALUE\tISSUER\tREVOKED\tUNTIL")
	for _, e := range entries {
		_, _ = fmt.Fprintf(table, "%s\t%q\t%q\t%s\t%s\n", e.Kind, e.Value, e.Issuer, e.At.Local().Format(time.RFC3339), e.Until.Local().Format(time.RFC3339))
	}
	return table.Flush()
}
