package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// startPeers returns the legs of the other gateways that were asked for, each in the eras that it speaks.
func (o *options) startPeers(ctx context.Context, w *world) (legs []*leg, err error) {
	for _, s := range o.peers {
		name, rest, _ := strings.Cut(s, "=")
		parts := append(strings.SplitN(rest, ",", 3), "getItem", "")
		var tokens []string
		if parts[2] != "" {
			tokens = []string{parts[2]}
		}
		legs = append(legs, w.eras(ctx, name, parts[0], parts[1], tokens)...)
	}
	for _, s := range o.peerCommands {
		more, err := w.startPeer(ctx, s)
		legs = append(legs, more...)
		if err != nil {
			return legs, err
		}
	}
	return legs, nil
}

// startPeer starts another gateway, and waits until it answers. It is told where to listen and what to stand before.
func (w *world) startPeer(ctx context.Context, s string) ([]*leg, error) {
	name, command, _ := strings.Cut(s, "=")
	address := freeAddress(ctx)
	p, err := spawn(ctx, []string{"ADDRESS=" + address, "UPSTREAM=http://" + w.ups[0].address + "/mcp", "ISSUER=" + w.issuer.url, "AUDIENCE=" + audience},
		nil, "/bin/sh", "-c", command)
	if err != nil {
		return nil, err
	}
	var legs []*leg
	for deadline := time.Now().Add(60 * time.Second); len(legs) == 0; time.Sleep(100 * time.Millisecond) {
		select {
		case <-p.done:
			return nil, fmt.Errorf("peer %s ended: %s", name, p.log)
		default:
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			p.stop()
			return nil, fmt.Errorf("peer %s has not answered a call rightly: %s", name, p.log)
		}
		legs = w.eras(ctx, name, "http://"+address+"/mcp", "getItem", w.tokens)
	}
	for _, l := range legs {
		l.svc, l.below = p.pid(), descendants(p.pid())
	}
	legs[0].stop = append(legs[0].stop, p.stop)
	return legs, nil
}

// eras are the legs of a peer: one for each era in which it answers a call.
func (w *world) eras(ctx context.Context, name, url, tool string, tokens []string) (legs []*leg) {
	address, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	for _, era := range []string{modernEra, legacyEra} {
		l := &leg{Name: name, Text: name, agents: map[int]agents{}, load: w.load(address, era, tool)}
		if era == legacyEra {
			l.Name, l.Text = name+"-2025", name+", 2025-11-25"
		}
		l.load.path, l.load.lenient, l.load.tokens = "/"+path, true, tokens
		if err := w.once(ctx, l.load); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", l.Text, err)
			continue
		}
		legs = append(legs, l)
	}
	return legs
}

// once makes a single call.
func (w *world) once(ctx context.Context, l load) error {
	k, err := l.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = k.c.Close() }()
	_ = k.c.SetDeadline(time.Now().Add(10 * time.Second))
	return k.call(w.sequence.Add(1))
}

// descendants are the processes that a process has started, and those that they have.
func descendants(pid int) (out []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		content, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(content)) {
			if child, err := strconv.Atoi(field); err == nil {
				out = append(append(out, child), descendants(child)...)
			}
		}
	}
	return out
}
