package envoy

import (
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// remarks explain, in the rendered file, the settings that are dangerous to
// change. A key carries its remark wherever it appears.
var remarks = map[string]string{
	"early_header_mutation_extensions":  "Lock 2: no client may send the service's own headers. Before any route is matched.",
	"path_with_escaped_slashes_action":  "The path that is judged must be the path that is matched.",
	"status_on_error":                   "failure_mode_allow must stay false, its default: no answer of the service is a refusal.",
	"allowed_override_modes":            "Never BUFFERED for a response: it hangs above the buffer limit.",
	"mode":                              "Decimal: 384 is 0600, 432 is 0660.",
	"rules":                             "Lock 3: only what a final verdict has marked may pass.",
	"mutation_rules":                    "The service routes by header; it cannot touch host or framing, and a foreign path has no route.",
	"direct_response":                   "Lock 1: what the service did not route goes nowhere.",
	"local_reply_config":                "Envoy's own errors as JSON-RPC. Never put %RESPONSE_CODE_DETAILS% into a body.",
	"per_connection_buffer_limit_bytes": "The cap of a request body; the service checks the length too.",
	"match_typed_subject_alt_names":     "Without this any certificate of any trusted authority would do.",
}

// render writes m as a file of its own.
func render(m proto.Message) ([]byte, error) {
	doc, err := document(m)
	if err != nil {
		return nil, err
	}
	doc.HeadComment = "Made by sallyport. Change the gateway's configuration, not this file."
	return yaml.Dump(doc, yaml.WithIndent(2), yaml.WithLineWidth(-1))
}

// YAML writes m with the field names and the field order of the API, for a file
// that has other things in it too.
func YAML(m proto.Message) ([]byte, error) {
	doc, err := document(m)
	if err != nil {
		return nil, err
	}
	return yaml.Dump(doc, yaml.WithIndent(2), yaml.WithLineWidth(-1))
}

func document(m proto.Message) (*yaml.Node, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node // JSON is YAML in flow style; a node keeps the order
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	blockStyle(&doc)
	return &doc, nil
}

// blockStyle drops the braces and quotes of JSON (the encoder keeps the quotes
// that a string needs) and adds the remarks.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			child.HeadComment = remarks[child.Value]
		}
		blockStyle(child)
	}
}
