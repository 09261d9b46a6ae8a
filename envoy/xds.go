package envoy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Server hands Envoys their resources (ADS, incremental xDS): every Envoy the
// same ones, whatever its node id. It is safe for concurrent use, but Push is to
// be called by one goroutine at a time.
//
// What an Envoy has is what it has acknowledged. A resource that a verdict may
// name must therefore have gone through Push before the verdict does.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cache cache.SnapshotCache
	delta delta.Server
	end   context.CancelFunc
	log   *slog.Logger

	mu       sync.Mutex
	envoys   map[int64]*peer
	current  *cache.Snapshot
	push     int           // counts the calls of Push
	rejected error         // what an Envoy said to the current one
	heard    chan struct{} // closed when an Envoy has said something
	stats    ServerStats
}

// ServerStats are for metrics.
type ServerStats struct {
	Envoys     int    // that are connected and have asked for clusters
	Rejections uint64 // of resources, by any Envoy
}

// peer is one stream of an Envoy's.
type peer struct {
	node string
	sent map[string]sent              // by nonce: what has not been answered yet
	has  map[string]map[string]string // by type and name: the version that is in force there
}

// sent is one message to an Envoy.
type sent struct {
	push     int
	versions map[string]string
	removed  []string
}

// everybody is the one node that the cache knows.
const everybody = "sallyport"

type anyNode struct{}

func (anyNode) ID(*corev3.Node) string { return everybody }

// NewServer returns a server that has nothing to hand out until the first Push.
func NewServer(log *slog.Logger) *Server {
	ctx, end := context.WithCancel(context.Background())
	s := &Server{cache: cache.NewSnapshotCache(true, anyNode{}, nil), end: end, log: log, envoys: map[int64]*peer{}, heard: make(chan struct{})}
	s.delta = delta.NewServer(ctx, s.cache, conversation{s})
	return s
}

// Register makes s answer on g.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// DeltaAggregatedResources answers one Envoy.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.delta.DeltaStreamHandler(stream, resource.AnyType)
}

// Stop ends all conversations. Envoys keep what they have.
func (s *Server) Stop() { s.end() }

// Stats returns the figures of now.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	for _, p := range s.envoys {
		if p.ready() {
			out.Envoys++
		}
	}
	return out
}

// Served reports whether there is an Envoy, and all that are there have what was last pushed.
func (s *Server) Served() bool {
	if s.Stats().Envoys == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil && s.missing(s.current) == ""
}

// ErrRejected means that an Envoy does not take a resource. The text is Envoy's.
var ErrRejected = errors.New("rejected by Envoy")

// Push has all Envoys use r, and returns when each has said that it does: at
// once when none is connected, since one that comes gets nothing else. If one
// rejects something, or ctx ends before all have answered, all are sent back to
// what they had before, and the error says why.
func (s *Server) Push(ctx context.Context, r *Resources) error {
	s.mu.Lock()
	s.push++
	s.rejected = nil
	before, next := s.current, strconv.Itoa(s.push)
	s.mu.Unlock()
	snapshot, err := r.snapshot(next)
	if err != nil {
		return err
	}
	if err = s.set(snapshot); err == nil {
		err = s.await(ctx, snapshot)
	}
	if err != nil && before != nil {
		err = errors.Join(err, s.restore(before))
	}
	return err
}

// restoreTime bounds how long Envoys are waited for that are sent back.
const restoreTime = time.Second

func (s *Server) restore(before *cache.Snapshot) error {
	s.mu.Lock()
	s.push++ // what is still said of the other one does not matter
	s.rejected = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), restoreTime)
	defer cancel()
	err := s.set(before)
	_ = s.await(ctx, before) // who does not answer now will later
	return err
}

// Rejected is what an Envoy has said against what was last pushed, nil if none has said anything.
func (s *Server) Rejected() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejected
}

func (s *Server) set(snapshot *cache.Snapshot) error {
	s.mu.Lock()
	s.current = snapshot
	s.mu.Unlock()
	return s.cache.SetSnapshot(context.Background(), everybody, snapshot)
}

// await waits until every Envoy has acknowledged everything in snapshot.
func (s *Server) await(ctx context.Context, snapshot *cache.Snapshot) error {
	for {
		s.mu.Lock()
		heard, rejected, missing := s.heard, s.rejected, s.missing(snapshot)
		s.mu.Unlock()
		if rejected != nil || missing == "" {
			return rejected
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return fmt.Errorf("no word from Envoy about %s: %w", missing, ctx.Err())
		}
	}
}

// missing names something that an Envoy has not acknowledged, or has not given up.
func (s *Server) missing(snapshot *cache.Snapshot) string {
	for _, p := range s.envoys {
		if !p.ready() {
			continue // it has just come, or asks for something else
		}
		for _, t := range handedOut {
			want, has := snapshot.GetVersionMap(t), p.has[t]
			for name, version := range want {
				if has[name] != version {
					return short(t) + " " + name + " at " + p.node
				}
			}
			for name := range has {
				if _, ok := want[name]; !ok && wildcard(t) {
					return "the end of " + short(t) + " " + name + " at " + p.node
				}
			}
		}
	}
	return ""
}

var handedOut = []string{resource.SecretType, resource.ClusterType, resource.RouteType, resource.ListenerType}

// wildcard tells the types of which an Envoy gets all; of the others it asks for those that these name.
func wildcard(t string) bool { return t == resource.ClusterType || t == resource.ListenerType }

func short(t string) string {
	return map[string]string{resource.SecretType: "TLS secret", resource.ClusterType: "cluster", resource.RouteType: "route table",
		resource.ListenerType: "listener"}[t]
}

// ready reports whether the peer is an Envoy that has begun to ask.
func (p *peer) ready() bool { return p.has[resource.ClusterType] != nil }

func (r *Resources) snapshot(version string) (*cache.Snapshot, error) {
	clusters := r.Clusters[1:] // the first leads here and is in every bootstrap
	s, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{
		resource.SecretType: asResources(r.Secrets), resource.ClusterType: asResources(clusters),
		resource.RouteType: asResources(r.Routes), resource.ListenerType: asResources(r.Listeners),
	})
	if err == nil {
		err = s.ConstructVersionMap()
	}
	return s, err
}

func asResources[M proto.Message](in []M) []types.Resource {
	out := make([]types.Resource, len(in))
	for i, m := range in {
		out[i] = m
	}
	return out
}

// conversation is what the library tells of each stream.
type conversation struct{ *Server }

func (c conversation) OnDeltaStreamOpen(_ context.Context, id int64, _ string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.envoys[id] = &peer{sent: map[string]sent{}, has: map[string]map[string]string{}}
	return nil
}

func (c conversation) OnDeltaStreamClosed(id int64, _ *corev3.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.envoys, id)
	c.tell()
}

// OnStreamDeltaRequest hears what an Envoy asks for, and what it says to what it was sent.
func (c conversation) OnStreamDeltaRequest(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.envoys[id]
	p.node = cmp.Or(p.node, r.GetNode().GetId())
	has := p.has[r.GetTypeUrl()]
	if has == nil { // one that lost us brings what it has
		has = maps.Clone(r.GetInitialResourceVersions())
		if has == nil {
			has = map[string]string{}
		}
		p.has[r.GetTypeUrl()] = has
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		delete(has, name)
	}
	answered, ok := p.sent[r.GetResponseNonce()]
	delete(p.sent, r.GetResponseNonce())
	switch {
	case !ok:
	case r.GetErrorDetail() != nil:
		c.stats.Rejections++
		names := strings.Join(slices.Sorted(maps.Keys(answered.versions)), ", ") // one of them, or more
		err := fmt.Errorf("%w: %s %s: %s", ErrRejected, short(r.GetTypeUrl()), names, strings.TrimSpace(r.GetErrorDetail().GetMessage()))
		c.log.Error("envoy rejects a resource", "node", p.node, "error", err)
		if answered.push == c.push {
			c.rejected = err
		}
	default:
		maps.Copy(has, answered.versions)
		for _, name := range answered.removed {
			delete(has, name)
		}
	}
	c.tell()
	return nil
}

func (c conversation) OnStreamDeltaResponse(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := sent{push: c.push, versions: map[string]string{}, removed: r.GetRemovedResources()}
	for _, one := range r.GetResources() {
		s.versions[one.GetName()] = one.GetVersion()
	}
	c.envoys[id].sent[r.GetNonce()] = s
}

// tell wakes who waits for Envoys.
func (c conversation) tell() {
	close(c.heard)
	c.heard = make(chan struct{})
}
