// Command sallyport is identity for Model Context Protocol servers, as an Envoy filter.
//
//	sallyport run    -config FILE   the service and an Envoy beside it
//	sallyport serve  -config FILE   the service alone, for an Envoy of yours
//	sallyport check  -config FILE   every problem of a configuration
//	sallyport render -config FILE   the Envoy configuration of a gateway
//	sallyport doctor -config FILE   every dangerous setting of a running Envoy
//	sallyport revoke -config FILE   take back tokens and sessions before their time
//	sallyport audit verify -file F  whether an audit file is whole
//	sallyport ready                 whether a running service is ready
//	sallyport secrets -o FILE NAME… a secret file with random values
//	sallyport demo                  the whole story on this machine
//
// Exit codes: 0 done, 1 failed (or problems found), 2 wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// command is one subcommand. run gets its arguments and returns an error that is printed as it is.
type command struct {
	name    string
	summary string
	run     func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

var commands = []command{
	{"run", "run the service and an Envoy beside it", runCommand},
	{"serve", "run the service alone, for an Envoy of yours", serveCommand},
	{"check", "print every problem of a configuration file", checkCommand},
	{"render", "print the Envoy configuration of a gateway", renderCommand},
	{"doctor", "name every dangerous setting of a running Envoy", doctorCommand},
	{"revoke", "take back tokens and sessions that a running gateway accepts", revokeCommand},
	{"audit", "verify an audit file: audit verify -file FILE", auditCommand},
	{"ready", "ask a running service whether it is ready: a health check without a shell", readyCommand},
	{"secrets", "make a secret file with random values: secrets -o FILE NAME...", secretsCommand},
	{"demo", "an authorization server, two MCP servers, the gateway and an agent, explained step by step", demoCommand},
	{"version", "print the version", versionCommand},
}

var (
	errUsage  = errors.New("usage")           // already explained on stderr
	errFailed = errors.New("already printed") // the output says why
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return 2
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		usage(stdout)
		return 0
	}
	for _, c := range commands {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, args[1:], stdout, stderr)
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			return 2
		case !errors.Is(err, errFailed):
			_, _ = fmt.Fprintln(stderr, "sallyport "+c.name+": "+err.Error())
		}
		return 1
	}
	_, _ = fmt.Fprintf(stderr, "sallyport: unknown command %q\n\n", args[0])
	usage(stderr)
	return 2
}

func usage(w io.Writer) {
	_, _ = fmt.Fprint(w, "sallyport is identity for MCP servers, as an Envoy filter.\n\nUsage: sallyport COMMAND [flags]\n\n")
	for _, c := range commands {
		_, _ = fmt.Fprintf(w, "  %-8s %s\n", c.name, c.summary)
	}
	_, _ = fmt.Fprint(w, "\nsallyport COMMAND -h shows a command's flags.\n")
}

// parseFlags reads a command's flags; what is left over are its arguments.
func parseFlags(fs *flag.FlagSet, args []string, stderr io.Writer) error {
	fs.SetOutput(stderr)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	return nil
}

// parse reads the flags of a command without arguments. Anything left over is a mistake.
func parse(fs *flag.FlagSet, args []string, stderr io.Writer) error {
	if err := parseFlags(fs, args, stderr); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		_, _ = fmt.Fprintf(stderr, "sallyport %s: unexpected argument %q\n", fs.Name(), fs.Arg(0))
		return errUsage
	}
	return nil
}

func versionCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	if err := parse(flag.NewFlagSet("version", flag.ContinueOnError), args, stderr); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(stdout, "sallyport", version())
	return nil
}

// version is what the Go toolchain knows of this build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
