package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kjson "sigs.k8s.io/json"
)

// The Helm chart, and the manifests rendered from it: held to the types of the Kubernetes API, and run as processes.

var update = flag.Bool("update", false, "rewrite deploy/kubernetes/manifests and the table of docs/kubernetes.md")

const kubernetes = "../deploy/kubernetes/"

func helm(t *testing.T, args ...string) (stdout, stderr string, ok bool) {
	t.Helper()
	program := os.Getenv("HELM")
	if program == "" {
		found, err := filepath.Glob("../build/helm@*")
		must(t, err)
		if len(found) == 0 {
			t.Fatal("no helm: `make test` builds one; otherwise set HELM")
		}
		program = found[len(found)-1]
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	home := t.TempDir() // whatever plugins and repositories the caller has
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return out.String(), complaint.String(), err == nil
}

// values are the arguments that say them: those of the manifests' files, and more as YAML.
func values(t *testing.T, more string, files ...string) []string {
	t.Helper()
	var args []string
	for _, f := range files {
		args = append(args, "--values", kubernetes+"manifests/"+f+".values.yaml")
	}
	if more != "" {
		file := filepath.Join(t.TempDir(), "values.yaml")
		must(t, os.WriteFile(file, []byte(more), 0o600))
		args = append(args, "--values", file)
	}
	return args
}

func template(t *testing.T, values ...string) string {
	t.Helper()
	text, complaint, ok := helm(t, append([]string{"template", "sallyport", kubernetes + "sallyport", "--namespace", "sallyport"}, values...)...)
	if !ok {
		t.Fatal(complaint)
	}
	return text
}

// chartCases are what the chart is asked for, from the least to everything.
var chartCases = []struct {
	name  string
	files []string
	more  string
	kinds string // of the objects, sorted
}{
	{"a gateway", []string{"gateway"}, "", "ConfigMap ConfigMap Deployment NetworkPolicy PodDisruptionBudget Service ServiceAccount"},
	{"the service alone", []string{"gateway", "service"}, "", "ConfigMap ConfigMap Deployment NetworkPolicy PodDisruptionBudget Service ServiceAccount"},
	{"little", nil, `
existingConfigMap: theirs
existingPolicies: theirs-too
podDisruptionBudget: {enabled: false}
networkPolicy: {enabled: false}
serviceAccount: {create: false}
runAs: {user: null, group: null}
`, "Deployment Service"},
	{"everything", []string{"gateway"}, `
nameOverride: door
image: {repository: registry.example.com/team/sallyport, tag: "1.2.3", digest: "sha256:` + strings.Repeat("0a", 32) + `", pullPolicy: Always}
imagePullSecrets: [{name: registry}]
tls: {existingSecret: sallyport-tls}
autoscaling: {enabled: true}
config:
  http: {address: "127.0.0.1:1", maxRequestBytes: 2097152, allowedHosts: [mcp.example.com]}
  admin: {address: "127.0.0.1:2"}
  service: {address: "127.0.0.1:3", hub: "127.0.0.1:4", upstreams: direct, filter: extProcDuplex}
  session: {store: "rediss://:<sallyport.storePassword>@store.example.svc:6379/0"}
  health: {location: /healthy}
service: {type: LoadBalancer, port: 443, annotations: {a: b}}
serviceAccount: {name: theirs, annotations: {a: b}}
networkPolicy:
  agents: [{podSelector: {matchLabels: {agent: "yes"}}}]
  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 443}]}]
serviceMonitor: {enabled: true, labels: {release: prometheus}}
podAnnotations: {a: b}
podLabels: {c: d}
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{key: a, operator: Exists}]
affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {a: b}}}]}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {a: b}}}]
priorityClassName: high
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ca, readOnly: true}]
`, "ConfigMap ConfigMap Deployment HorizontalPodAutoscaler NetworkPolicy PodDisruptionBudget Service Service ServiceAccount ServiceMonitor"},
}

// objects are what a rendering holds, decoded as the API server does it: no unknown field, none twice.
type objects struct {
	kinds      []string
	deployment appsv1.Deployment
	services   []corev1.Service
	configMaps []corev1.ConfigMap
	network    *networkingv1.NetworkPolicy
	scaler     *autoscalingv2.HorizontalPodAutoscaler
	budget     *policyv1.PodDisruptionBudget
	account    *corev1.ServiceAccount
}

func decodeObjects(t *testing.T, text string) (o objects) {
	t.Helper()
	documents := yaml.NewDecoder(strings.NewReader(text))
	for {
		var document map[string]any
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kind, _ := document["kind"].(string)
		o.kinds = append(o.kinds, kind)
		labels, _ := document["metadata"].(map[string]any)["labels"].(map[string]any)
		for _, name := range strings.Fields("name instance version component part-of managed-by") {
			if labels["app.kubernetes.io/"+name] == nil {
				t.Errorf("%s has no label %s", kind, name)
			}
		}
		o.add(t, document)
	}
	slices.Sort(o.kinds)
	return o
}

func (o *objects) add(t *testing.T, document map[string]any) {
	t.Helper()
	var into any
	switch kind := fmt.Sprint(document["apiVersion"], " ", document["kind"]); kind {
	case "apps/v1 Deployment":
		into = &o.deployment
	case "v1 Service":
		o.services = append(o.services, corev1.Service{})
		into = &o.services[len(o.services)-1]
	case "v1 ConfigMap":
		o.configMaps = append(o.configMaps, corev1.ConfigMap{})
		into = &o.configMaps[len(o.configMaps)-1]
	case "v1 ServiceAccount":
		o.account = new(corev1.ServiceAccount)
		into = o.account
	case "networking.k8s.io/v1 NetworkPolicy":
		o.network = new(networkingv1.NetworkPolicy)
		into = o.network
	case "autoscaling/v2 HorizontalPodAutoscaler":
		o.scaler = new(autoscalingv2.HorizontalPodAutoscaler)
		into = o.scaler
	case "policy/v1 PodDisruptionBudget":
		o.budget = new(policyv1.PodDisruptionBudget)
		into = o.budget
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return // a type of somebody else's
	default:
		t.Fatalf("unexpected %s", kind)
	}
	text, err := json.Marshal(document)
	must(t, err)
	strict, err := kjson.UnmarshalStrict(text, into)
	must(t, err)
	for _, err := range strict {
		t.Errorf("%s: %v", document["kind"], err)
	}
}

// containers are all containers of the pod in the order in which they start.
func (o *objects) containers() []corev1.Container {
	pod := o.deployment.Spec.Template.Spec
	return append(slices.Clone(pod.InitContainers), pod.Containers...)
}

func (o *objects) container(name string) corev1.Container {
	for _, c := range o.containers() {
		if c.Name == name {
			return c
		}
	}
	return corev1.Container{}
}

func (o *objects) config() string {
	for _, m := range o.configMaps {
		if text := m.Data["sallyport.yaml"]; text != "" {
			return text
		}
	}
	return ""
}

// TestChart renders the chart and holds each object to the API, to the others, and to what pods should be.
func TestChart(t *testing.T) {
	for _, c := range chartCases {
		t.Run(c.name, func(t *testing.T) {
			args := values(t, c.more, c.files...)
			if out, complaint, ok := helm(t, append([]string{"lint", "--strict", "--quiet", kubernetes + "sallyport"}, args...)...); !ok {
				t.Errorf("helm lint: %s%s", out, complaint)
			}
			text := template(t, args...)
			o := decodeObjects(t, text)
			if got := strings.Join(o.kinds, " "); got != c.kinds {
				t.Errorf("objects: %s", got)
			}
			o.checkPod(t)
			o.checkReferences(t)
			if config := o.config(); config != "" {
				listeners := strings.ReplaceAll(config, "://127.0.0.1:8080", "") // the canary's way out
				if strings.Contains(listeners, "127.0.0.1") || strings.Count(listeners, "0.0.0.0:") < 2 {
					t.Errorf("addresses that no pod has: %s", config)
				}
				newPod(t, o, testSecrets).check(t)
			}
		})
	}
}

var pinned = regexp.MustCompile(`^[a-z0-9./-]+(:[a-z0-9.-]*[0-9][a-z0-9.-]*|@sha256:[0-9a-f]{64})$`)

func (o *objects) checkPod(t *testing.T) {
	t.Helper()
	pod := o.deployment.Spec.Template.Spec
	if s := pod.SecurityContext; s == nil || !*s.RunAsNonRoot || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("pod: %+v", s)
	}
	if mount := pod.AutomountServiceAccountToken; mount == nil || *mount || pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Error("the pod gets a token, or a part of its host")
	}
	for _, c := range o.containers() {
		s := c.SecurityContext
		if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !*s.RunAsNonRoot || s.Privileged != nil ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || s.Capabilities.Add != nil {
			t.Errorf("%s: %+v", c.Name, s)
		}
		if !pinned.MatchString(c.Image) {
			t.Errorf("%s: image %s", c.Name, c.Image)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: resources %+v", c.Name, c.Resources)
		}
		if c.Name != "render" && (c.StartupProbe == nil || c.LivenessProbe == nil || c.ReadinessProbe == nil) {
			t.Errorf("%s lacks a probe", c.Name)
		}
	}
	last := pod.Containers[0] // what agents reach goes first, after everybody has heard of it
	drain := last.Lifecycle.PreStop.Sleep.Seconds
	if grace := *pod.TerminationGracePeriodSeconds; drain < 5 || grace < drain+15 {
		t.Errorf("%d seconds of %d for draining", drain, grace)
	}
}

// checkReferences: what one object says of another by name or label is there.
func (o *objects) checkReferences(t *testing.T) {
	t.Helper()
	pod := o.deployment.Spec.Template
	selected := func(who string, selector map[string]string) {
		for name, value := range selector {
			if pod.Labels[name] != value {
				t.Errorf("%s selects %s=%s, pods have %q", who, name, value, pod.Labels[name])
			}
		}
		if len(selector) < 2 {
			t.Errorf("%s selects by %v", who, selector)
		}
	}
	ports, volumes := map[int]string{}, map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range o.containers() {
		for _, p := range c.Ports {
			ports[int(p.ContainerPort)] = p.Name
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s mounts %s", c.Name, m.Name)
			}
		}
	}
	leads := func(who string, port intstr.IntOrString) string {
		name := ports[port.IntValue()]
		if name == "" {
			t.Errorf("%s: no port %s", who, &port)
		}
		return name
	}
	selected("Deployment", o.deployment.Spec.Selector.MatchLabels)
	for _, s := range o.services {
		selected("Service "+s.Name, s.Spec.Selector)
		for _, p := range s.Spec.Ports {
			leads("Service "+s.Name, p.TargetPort)
		}
	}
	if o.network != nil {
		selected("NetworkPolicy", o.network.Spec.PodSelector.MatchLabels)
		for _, rule := range o.network.Spec.Ingress {
			for _, p := range rule.Ports {
				if name := leads("NetworkPolicy", *p.Port); name != "agents" && len(rule.From) == 0 {
					t.Errorf("everybody reaches port %s", name)
				}
			}
		}
	}
	if o.budget != nil {
		selected("PodDisruptionBudget", o.budget.Spec.Selector.MatchLabels)
	}
	if o.scaler != nil && (o.scaler.Spec.ScaleTargetRef.Name != o.deployment.Name || o.deployment.Spec.Replicas != nil) {
		t.Errorf("%+v scales a Deployment %s of %v", o.scaler.Spec, o.deployment.Name, o.deployment.Spec.Replicas)
	}
	if o.account != nil && pod.Spec.ServiceAccountName != o.account.Name {
		t.Errorf("ServiceAccount %s, pods have %s", o.account.Name, pod.Spec.ServiceAccountName)
	}
}

// TestChartRefuses: what cannot work, or is dangerous, is said before anything is installed.
func TestChartRefuses(t *testing.T) {
	for _, c := range []struct{ name, values, want string }{
		{"nothing", `config: null`, "config is missing"},
		{"two configurations", `existingConfigMap: theirs`, "config and existingConfigMap"},
		{"two sets of policies", `existingPolicies: theirs`, "policies and existingPolicies"},
		{"a policy in place of the configuration", `policies: {sallyport.yaml: x}`, "another file"},
		{"no YAML", `config: "a: ["`, "not YAML"},
		{"several documents", `config: "---\na: b\n--- # and more\nc: d\n"`, "several YAML documents"},
		{"replicas without a store", `replicas: 2`, "config.session.store"},
		{"replicas that grow without a store", `autoscaling: {enabled: true}`, "config.session.store"},
		{"replicas without a key", `{replicas: 2, config: {session: {store: <a.b>, key: null}}}`, "config.session.key"},
		{"replicas that mint", `{replicas: 2, config: {session: {store: <a.b>}, connectors: [{name: a, type: sts}]}}`, "connectors[0].keys"},
		{"scaling from more to less", `{autoscaling: {enabled: true, minReplicas: 9}}`, "less than minReplicas"},
		{"a client secret", `config: {connectors: [{name: a, oauthClientSecret: swordfish}]}`, "config.connectors[0].oauthClientSecret is written out"},
		{"a private key", `config: {connectors: [{name: a, privateKey: swordfish}]}`, "config.connectors[0].privateKey is written out"},
		{"a session key", `config: {session: {key: swordfish}}`, "config.session.key is written out"},
		{"a store's password", `config: {session: {store: "redis://:swordfish@store:6379"}}`, "session.store has a password"},
		{"a client's secret", `config: {authProvider: {clients: [{id: a, secret: swordfish}]}}`, "config.authProvider.clients[0].secret is written out"},
		{"an audit that cannot be written", `config: {audit: {file: audit.jsonl}}`, "audit.file is relative"},
		{"no time to drain", `drainSeconds: 40`, "terminationGracePeriodSeconds: 45"},
		{"the service for everybody", `gateway: false`, "networkPolicy.ingress"},
		{"a certificate without a listener", `{gateway: false, tls: {existingSecret: a}}`, "tls.existingSecret"},
		{"a tag that moves", `image: {tag: latest}`, "/image/tag"},
		{"an Envoy that moves", `envoy: {image: {tag: latest}}`, "/envoy/image/tag"},
		{"an Envoy of no version", `envoy: {image: {tag: ""}}`, "a tag or a digest"},
		{"root", `runAs: {user: 0}`, "/runAs/user"},
		{"a value that there is not", `replica: 3`, "replica"},
		{"one further in", `networkPolicy: {enable: true}`, "enable"},
		{"a word for a number", `replicas: many`, "/replicas"},
		{"a word that nobody knows", `service: {type: Magic}`, "/service/type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"template", "sallyport", kubernetes + "sallyport"}, values(t, c.values, "gateway")...)
			out, complaint, ok := helm(t, args...)
			if ok || !strings.Contains(complaint, c.want) {
				t.Errorf("ok %t: %s\n%s", ok, complaint, out)
			}
			if strings.Contains(complaint, "swordfish") {
				t.Errorf("the secret is repeated: %s", complaint)
			}
		})
	}
}

// TestChartRestarts: a changed configuration makes new pods, a changed policy does not.
func TestChartRestarts(t *testing.T) {
	pods := func(more string) map[string]string {
		o := decodeObjects(t, template(t, values(t, more, "gateway")...))
		return o.deployment.Spec.Template.Annotations
	}
	before := pods("")
	if cmp.Equal(before, pods(`config: {logger: {level: debug}}`)) {
		t.Error("a changed configuration makes no new pods")
	}
	if diff := cmp.Diff(before, pods(`policies: {items.rego: "package orchestrator"}`)); diff != "" {
		t.Errorf("a changed policy makes new pods: %s", diff)
	}
}

// TestChartEmptySections: a section of which only the name is there is as one that is not.
func TestChartEmptySections(t *testing.T) {
	o := decodeObjects(t, template(t, values(t, `config: "audit:\nhealth:\nhttp:\nsession:\nservice:\nauthProvider:\nadmin:\nconnectors:\n"`, "gateway")...))
	if path := o.container("envoy").ReadinessProbe.HTTPGet.Path; path != "/status" || !strings.Contains(o.config(), "0.0.0.0:8080") {
		t.Errorf("probe %s of\n%s", path, o.config())
	}
}

// TestChartNotes: what is said after an installation can be said.
func TestChartNotes(t *testing.T) {
	for more, want := range map[string]string{
		"":                                "http://sallyport.doors:80",
		"tls: {existingSecret: theirs}":   "https://sallyport.doors:80",
		"networkPolicy: {enabled: false}": "No NetworkPolicy",
		"fullnameOverride: one":           "deployment/one -c service",
		"{gateway: false, networkPolicy: {ingress: [{podSelector: {}}]}}": "sallyport.doors:9000",
	} {
		args := append([]string{"install", "sallyport", kubernetes + "sallyport", "--dry-run=client", "--namespace", "doors"}, values(t, more, "gateway")...)
		if out, complaint, ok := helm(t, args...); !ok || !strings.Contains(out, want) {
			t.Errorf("%s: ok %t, no %q: %s\n%s", more, ok, want, complaint, out)
		}
	}
}

// TestManifests holds the manifests to the chart that they are rendered from.
func TestManifests(t *testing.T) {
	for name, files := range map[string][]string{"gateway.yaml": {"gateway"}, "service.yaml": {"gateway", "service"}} {
		golden(t, kubernetes+"manifests/"+name, template(t, values(t, "", files...)...))
	}
}

// golden compares a file of the tree with what it should hold, or writes it.
func golden(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		must(t, os.WriteFile(file, []byte(want), 0o644)) //nolint:gosec // it is part of the source
	}
	if diff := cmp.Diff(want, contents(t, file)); diff != "" {
		t.Errorf("%s is stale; run make manifests (-want +got):\n%s", file, diff)
	}
}

// TestKubernetesPage: docs/kubernetes.md has a table of all values, which all have a meaning.
func TestKubernetesPage(t *testing.T) {
	var document yaml.Node
	must(t, yaml.Unmarshal([]byte(contents(t, kubernetes, "sallyport", "values.yaml")), &document))
	table := new(strings.Builder)
	_, _ = fmt.Fprint(table, "| value | default | meaning |\n|---|---|---|\n")
	describeValues(t, table, "", document.Content[0])
	page := contents(t, "..", "docs", "kubernetes.md")
	const begin, end = "<!-- Made from the comments in values.yaml by TestKubernetesPage (-update). -->\n", "<!-- end -->"
	before, rest, ok := strings.Cut(page, begin)
	_, after, also := strings.Cut(rest, end)
	if !ok || !also {
		t.Fatal("the page has no place for the table")
	}
	golden(t, filepath.Join("..", "docs", "kubernetes.md"), before+begin+table.String()+end+after)

	// What a ConfigMap of the reader's has to say is what the chart says.
	addresses := func(text string) (a struct {
		HTTP, Admin struct{ Address string }
		Service     struct{ Address, Hub, Upstreams string }
	}) {
		must(t, yaml.Unmarshal([]byte(text), &a))
		return a
	}
	told := addresses(fenced(page, "yaml")[0])
	gateway, alone := decodeObjects(t, template(t, values(t, "", "gateway")...)), decodeObjects(t, template(t, values(t, "", "gateway", "service")...))
	if got := addresses(gateway.config()); got.HTTP != told.HTTP || got.Admin != told.Admin {
		t.Errorf("a gateway's addresses: %+v", got)
	}
	if got := addresses(alone.config()); got.Service != told.Service || got.Admin != told.Admin {
		t.Errorf("the addresses of the service alone: %+v", got)
	}
}

func describeValues(t *testing.T, table *strings.Builder, prefix string, n *yaml.Node) {
	t.Helper()
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		comment := key.HeadComment
		comment = comment[strings.LastIndex("\n\n"+comment, "\n\n"):] // what is further up is of the file
		comment = strings.TrimSpace(regexp.MustCompile(`(^|\n)# ?`).ReplaceAllString(comment, " "))
		if comment == "" && value.Kind == yaml.MappingNode && len(value.Content) > 0 {
			describeValues(t, table, prefix+key.Value+".", value)
			continue
		}
		if comment == "" {
			t.Errorf("%s%s has no meaning", prefix, key.Value)
		}
		var plain any
		must(t, value.Decode(&plain))
		shown, err := json.Marshal(plain)
		must(t, err)
		_, _ = fmt.Fprintf(table, "| `%s%s` | `%s` | %s |\n", prefix, key.Value, shown, strings.ReplaceAll(comment, "|", `\|`))
	}
}
