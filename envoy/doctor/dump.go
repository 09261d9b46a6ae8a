package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

// config is the configuration that is in force, static and dynamic alike.
type config struct {
	bootstraps []*bootstrapv3.Bootstrap
	listeners  []*listenerv3.Listener
	routes     map[string]*routev3.RouteConfiguration // that listeners name
	clusters   []*clusterv3.Cluster
	ecds       map[string]*corev3.TypedExtensionConfig // filters that listeners name
	unknown    []string                                // types of which this program has no description
}

// read decodes a dump. Types that are not known become Structs that keep their content.
func read(dump []byte) (*config, error) {
	var tree map[string]any
	if err := json.Unmarshal(dump, &tree); err != nil {
		return nil, fmt.Errorf("not a configuration dump: %w", err)
	}
	if _, ok := tree["configs"].([]any); !ok {
		return nil, errors.New("not a configuration dump: no configs; ask the admin interface for /config_dump?include_eds")
	}
	unknown := map[string]bool{}
	text, err := json.Marshal(known(tree, unknown))
	if err != nil {
		return nil, err
	}
	d := new(adminv3.ConfigDump)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("not a configuration dump: %w", err)
	}
	c := &config{routes: map[string]*routev3.RouteConfiguration{}, ecds: map[string]*corev3.TypedExtensionConfig{}}
	c.unknown = slices.Sorted(maps.Keys(unknown))
	for _, part := range d.GetConfigs() {
		if err := c.take(part); err != nil {
			return nil, err
		}
	}
	if len(c.listeners) == 0 {
		return nil, errors.New("the dump has no listeners: it is not one of a whole Envoy, or Envoy has not started")
	}
	return c, nil
}

// known makes v decodable: a TypedStruct becomes the message that it stands for, and a message of an unknown type a Struct.
func known(v any, unknown map[string]bool) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = known(v[i], unknown)
		}
	case map[string]any:
		for k := range v {
			v[k] = known(v[k], unknown)
		}
		kind, ok := v["@type"].(string)
		if inner, stands := standsFor(kind, v); stands {
			return known(inner, unknown)
		}
		if _, err := protoregistry.GlobalTypes.FindMessageByURL(kind); ok && err != nil {
			unknown[kind[strings.LastIndexByte(kind, '/')+1:]] = true
			return map[string]any{"@type": "type.googleapis.com/google.protobuf.Struct", "value": v}
		}
	}
	return v
}

// standsFor unfolds xds.type.v3.TypedStruct, as meshes write extensions.
func standsFor(kind string, v map[string]any) (map[string]any, bool) {
	if !strings.HasSuffix(kind, ".TypedStruct") {
		return nil, false
	}
	inner, ok := v["value"].(map[string]any)
	url, named := v["type_url"].(string)
	if !ok || !named || inner["@type"] != nil {
		return nil, false
	}
	inner["@type"] = url
	return inner, true
}

func (c *config) take(part *anypb.Any) error {
	m, err := part.UnmarshalNew()
	if err != nil {
		return fmt.Errorf("part %s of the dump: %w", part.GetTypeUrl(), err)
	}
	switch m := m.(type) {
	case *adminv3.BootstrapConfigDump:
		c.bootstraps = append(c.bootstraps, m.GetBootstrap())
	case *adminv3.ListenersConfigDump:
		for _, l := range m.GetStaticListeners() {
			c.listeners = appendAs(c.listeners, l.GetListener())
		}
		for _, l := range m.GetDynamicListeners() {
			c.listeners = appendAs(c.listeners, l.GetActiveState().GetListener())
		}
	case *adminv3.ClustersConfigDump:
		for _, s := range m.GetStaticClusters() {
			c.clusters = appendAs(c.clusters, s.GetCluster())
		}
		for _, s := range m.GetDynamicActiveClusters() {
			c.clusters = appendAs(c.clusters, s.GetCluster())
		}
	case *adminv3.RoutesConfigDump:
		for _, r := range m.GetDynamicRouteConfigs() {
			if t := as[routev3.RouteConfiguration](r.GetRouteConfig()); t != nil {
				c.routes[t.GetName()] = t
			}
		}
	case *adminv3.EcdsConfigDump:
		for _, f := range m.GetEcdsFilters() {
			if t := as[corev3.TypedExtensionConfig](f.GetEcdsFilter()); t != nil {
				c.ecds[t.GetName()] = t
			}
		}
	}
	return nil
}

// message is a *T that is a protobuf message.
type message[T any] interface {
	*T
	proto.Message
}

// as unpacks a, or returns nil when it is something else.
func as[T any, P message[T]](a *anypb.Any) P {
	m := P(new(T))
	if a == nil || a.UnmarshalTo(m) != nil {
		return nil
	}
	return m
}

func appendAs[T any, P message[T]](to []P, a *anypb.Any) []P {
	if m := as[T, P](a); m != nil {
		return append(to, m)
	}
	return to
}

// kindOf is the full name of a's type. Of a type that is not known it is the name that it had.
func kindOf(a *anypb.Any) string {
	name := string(a.MessageName())
	if name != "google.protobuf.Struct" {
		return name
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return name
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return name
	}
	var typed struct {
		Type string `json:"@type"`
	}
	_ = json.Unmarshal(text, &typed) // it has just been written
	return typed.Type[strings.LastIndexByte(typed.Type, '/')+1:]
}
