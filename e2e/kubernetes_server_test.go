package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestChartIsAdmitted applies the chart's objects to a real API server, which defaults and validates them, and holds
// their pods to the strictest of the Pod Security Standards. There is no cluster behind it. The server takes minutes to
// build, so this is asked for: make kubernetes.
func TestChartIsAdmitted(t *testing.T) {
	tools := os.Getenv("KUBERNETES_TOOLS")
	if tools == "" {
		t.Skip("make kubernetes builds an API server for this")
	}
	kubectl := apiServer(t, tools)
	kubectl("", "create", "namespace", "sallyport")
	kubectl("", "label", "namespace", "sallyport", "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
	// The type of a ServiceMonitor is the Prometheus operator's.
	kubectl("", "create", "--filename=../build/crds/prometheus-operator-monitoring.coreos.com_servicemonitors.yaml")
	kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "crd/servicemonitors.monitoring.coreos.com")
	for _, c := range chartCases {
		t.Run(c.name, func(t *testing.T) {
			text := template(t, values(t, c.more, c.files...)...)
			if out := kubectl(text, "apply", "--dry-run=server", "--validate=strict", "--namespace=sallyport", "--filename=-"); strings.Contains(out, "Warning") {
				t.Error(out)
			}
			o := decodeObjects(t, text)
			pod := corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: o.deployment.Spec.Template.ObjectMeta, Spec: o.deployment.Spec.Template.Spec}
			pod.Name, pod.Spec.PriorityClassName = "pod", "" // which there is none of
			one, err := json.Marshal(pod)
			must(t, err)
			kubectl(string(one), "create", "--dry-run=server", "--namespace=sallyport", "--filename=-")
		})
	}
}

// apiServer starts etcd and kube-apiserver, and returns a kubectl for them, which fails the test when it fails.
func apiServer(t *testing.T, tools string) func(stdin string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	file := func(name, content string) string {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		return filepath.Join(dir, name)
	}
	store, peers, address := "http://"+freePort(t), "http://"+freePort(t), freePort(t)
	spawn(t, nil, nil, filepath.Join(tools, "etcd"), "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--log-level", "error")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	keyFile := file("accounts.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	token := rand.Text()
	host, port, err := net.SplitHostPort(address)
	must(t, err)
	spawn(t, nil, nil, filepath.Join(tools, "kube-apiserver"), "--etcd-servers", store, "--bind-address", host, "--secure-port", port, "--cert-dir", dir,
		"--service-account-key-file", keyFile, "--service-account-signing-key-file", keyFile, "--service-account-issuer", "https://"+address,
		"--authorization-mode", "RBAC", "--token-auth-file", file("tokens.csv", token+",admin,admin,system:masters\n"),
		"--disable-admission-plugins", "ServiceAccount", "--service-cluster-ip-range", "10.96.0.0/16", "--v", "0")
	awaitListener(t, address)
	run := func(stdin string, args ...string) (string, error) {
		args = append([]string{"--server=https://" + address, "--insecure-skip-tls-verify", "--token=" + token, "--cache-dir=" + dir}, args...)
		cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "kubectl"), args...)
		cmd.Env = []string{"HOME=" + dir, "KUBECONFIG=/dev/null"}
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	ready := func() bool { _, err := run("", "get", "--raw=/readyz"); return err == nil }
	for patience := time.Now().Add(time.Minute); !ready() && time.Now().Before(patience); {
		time.Sleep(100 * time.Millisecond) // more than await has, as a busy machine needs it
	}
	await(t, "the API server", ready)
	return func(stdin string, args ...string) string {
		t.Helper()
		out, err := run(stdin, args...)
		if err != nil {
			t.Errorf("kubectl %s: %s", strings.Join(args, " "), out)
		}
		return out
	}
}
