package doctor

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// fixed is the first patch of each minor version of Envoy 1 in which the known ways around ext_proc and ext_authz, and the
// known crashes of both, are closed. Later minor versions have it from the start.
var fixed = map[uint32]uint32{36: 13, 37: 11, 38: 9, 39: 5, 40: 0}

const oldest, newest = 36, 40

// version: what the filter does with a message is Envoy's matter, and old ones have let some by.
func (x *exam) version(n *corev3.Node) {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		x.add(Info, "envoy-version", "envoy", "the dump does not say its version", fmt.Sprintf("see that it is 1.%d or a fixed patch of an earlier one", newest))
		return
	}
	major, minor, patch := v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch()
	cure := fmt.Sprintf("update it to 1.%d.%d or later", newest, fixed[newest])
	if least, kept := fixed[minor]; kept && minor < newest {
		cure = fmt.Sprintf("update it to 1.%d.%d or later", minor, least)
	}
	if major < 1 || major == 1 && (minor < oldest || minor <= newest && patch < fixed[minor]) {
		x.add(Warning, "envoy-version", "envoy", fmt.Sprintf("version %d.%d.%d has known faults in the filters that ask the service", major, minor, patch), cure)
	}
}
