package hosts

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/envoy"
)

// patches are the blocks of an EnvoyFilter, as YAML.
type patches struct {
	Listener, Manager, Route string
	Filters                  []string
}

// patch adds what an EnvoyFilter holds: the very filters of an Envoy of one's own.
func (v *view) patch(g envoy.Gateway) error {
	p, err := envoy.PatchesFor(g, fmt.Sprintf("outbound|%d||%s", v.Port, string(v.Self.FQDN())))
	if err != nil {
		return err
	}
	for _, part := range []struct {
		to *string
		m  proto.Message
	}{{&v.Patches.Listener, p.Listener}, {&v.Patches.Manager, p.Manager}, {&v.Patches.Route, p.Route}} {
		if *part.to, err = yamlOf(part.m); err != nil {
			return err
		}
	}
	for _, f := range p.Filters {
		block, err := yamlOf(f)
		if err != nil {
			return err
		}
		v.Patches.Filters = append(v.Patches.Filters, block)
	}
	return nil
}

func yamlOf(m proto.Message) (string, error) {
	block, err := envoy.YAML(m)
	return string(block), err
}
