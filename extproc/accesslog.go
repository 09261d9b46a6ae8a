package extproc

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/authz/audit"
	"github.com/sallyport/sallyport/authz/envoyhttp"
)

// Completions takes Envoy's gRPC access log and records how each judged message ended. The log is lossy by nature,
// which is why it never carries a decision.
type Completions struct {
	alsv3.UnimplementedAccessLogServiceServer
	record func(c audit.Completion, requestID string) error
	log    *slog.Logger

	mu      sync.Mutex // held while an entry is recorded
	stopped bool
	ended   chan struct{}
	streams atomic.Int64
}

// NewCompletions returns an access log service that hands each completion to record.
func NewCompletions(record func(c audit.Completion, requestID string) error, log *slog.Logger) *Completions {
	return &Completions{record: record, log: log, ended: make(chan struct{})}
}

// Stop ends every stream, which Envoy keeps open for as long as it runs: nothing is recorded after it has returned.
func (c *Completions) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stopped = true
		close(c.ended)
	}
}

// Connected reports whether an Envoy is there that tells how messages ended.
func (c *Completions) Connected() bool { return c.streams.Load() > 0 }

// StreamAccessLogs receives entries until Envoy closes the stream, or Stop.
func (c *Completions) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	c.streams.Add(1)
	defer c.streams.Add(-1)
	done := make(chan error, 1)
	go func() { done <- c.receive(stream) }() // a Recv ends with the stream only
	select {
	case err := <-done:
		return err
	case <-c.ended:
		return nil
	}
}

func (c *Completions) receive(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		}
		if err != nil {
			return err
		}
		c.take(msg.GetHttpLogs().GetLogEntry())
	}
}

func (c *Completions) take(entries []*datav3.HTTPAccessLogEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	for _, entry := range entries {
		done := completion(entry)
		if err := c.record(done, entry.GetRequest().GetRequestId()); err != nil {
			c.log.Error("completion not recorded", "id", done.ID, "error", err)
		}
	}
}

// completion reads how the exchange ended. It has no ID when Envoy never learnt one: of metadata and health, of what it
// refused by itself, and of what broke off before our first answer.
func completion(e *datav3.HTTPAccessLogEntry) audit.Completion {
	common := e.GetCommonProperties()
	facts := factsOf(common.GetMetadata())
	start, took := common.GetStartTime().AsTime(), common.GetTimeToLastDownstreamTxByte().AsDuration()
	if took == 0 {
		took = common.GetDuration().AsDuration()
	}
	return audit.Completion{
		Time: start.Add(took),
		ID:   facts[envoyhttp.FactID].GetStringValue(),
		Outcome: outcome(e, facts[envoyhttp.FactReply].GetBoolValue() && !facts[envoyhttp.FactAgain].GetBoolValue(),
			facts[envoyhttp.FactDecided].GetBoolValue(), facts[envoyhttp.FactHub].GetBoolValue()),
		Status:   int(e.GetResponse().GetResponseCode().GetValue()),
		BytesIn:  e.GetRequest().GetRequestBodyBytes(),
		BytesOut: e.GetResponse().GetResponseBodyBytes(),
		Duration: took.Round(time.Microsecond),
	}
}

// factsOf are what the service said of the message, by either filter.
func factsOf(m *corev3.Metadata) map[string]*structpb.Value {
	for _, namespace := range []string{envoyhttp.ProcNamespace, envoyhttp.AuthzNamespace} {
		if facts := m.GetFilterMetadata()[namespace].GetFields(); facts != nil {
			return facts
		}
	}
	return nil
}

// outcome tells how an exchange ended from Envoy's flags and from what we told it: that the answer was ours, and that the
// request had been let through before, and to our own hub.
func outcome(e *datav3.HTTPAccessLogEntry, ours, decided, hub bool) audit.CompletionOutcome {
	flags := e.GetCommonProperties().GetResponseFlags()
	details := e.GetResponse().GetResponseCodeDetails()
	code := e.GetResponse().GetResponseCode().GetValue()
	switch {
	case flags.GetDownstreamConnectionTermination():
		return audit.Aborted
	case ours && decided: // the upstream's answer was replaced
		return audit.UpstreamError
	case ours:
		return audit.Refused
	case flags.GetUpstreamConnectionFailure(), flags.GetNoHealthyUpstream(), flags.GetUpstreamRequestTimeout(),
		flags.GetUpstreamConnectionTermination(), flags.GetUpstreamRemoteReset(), flags.GetUpstreamOverflow(), flags.GetStreamIdleTimeout():
		return audit.Unreachable
	case flags.GetUpstreamProtocolError(): // it is no HTTP, or ends before it is whole
		return audit.UpstreamError
	case strings.HasPrefix(details, "ext_proc"):
		return audit.GatewayError
	case details != "via_upstream" && code >= 500:
		return audit.GatewayError
	case details != "via_upstream" && code >= 400:
		return audit.Refused
	case hub && code == 502: // the hub carried it to an upstream that failed
		return audit.UpstreamError
	case hub && code >= 500:
		return audit.GatewayError
	case hub && code >= 400: // the hub is ours
		return audit.Refused
	case code >= 400:
		return audit.UpstreamError
	}
	return audit.OK
}
