package e2e

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// composeFile loads deploy/compose/compose.yaml as `docker compose` would, with every profile, and with a file of
// variables or none. The loader checks it against the schema of the specification.
func composeFile(t *testing.T, envFiles ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join("..", "deploy", "compose", "compose.yaml")},
		cli.WithEnvFiles(envFiles...), cli.WithDotEnv, cli.WithProfiles([]string{"*"}))
	must(t, err)
	project, err := options.LoadProject(context.Background())
	must(t, err)
	return project
}

// TestComposeFile asserts of deploy/compose what its first lines promise, without an engine.
func TestComposeFile(t *testing.T) {
	project := composeFile(t)
	if len(project.Services) != 9 {
		t.Errorf("%d services", len(project.Services))
	}
	tag := regexp.MustCompile(`^[a-z0-9/-]+:(local|v?\d+\.\d+\.\d+)$`)
	for name, s := range project.Services {
		t.Run(name, func(t *testing.T) {
			if !tag.MatchString(s.Image) {
				t.Errorf("image %s has no tag of one version", s.Image)
			}
			if s.Privileged || s.Pid != "" || s.Ipc != "" || len(s.CapAdd) > 0 || len(s.Devices) > 0 || !slices.Equal(s.CapDrop, []string{"ALL"}) ||
				!slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
				t.Errorf("may do more than it needs: privileged %t, pid %q, ipc %q, capabilities +%v -%v, %v", s.Privileged, s.Pid, s.Ipc, s.CapAdd, s.CapDrop, s.SecurityOpt)
			}
			// The development mode of Keycloak rebuilds the server in place.
			if !s.ReadOnly && name != "keycloak" {
				t.Error("its root can be written")
			}
			if user, _, _ := strings.Cut(s.User, ":"); !regexp.MustCompile(`^[1-9][0-9]*$`).MatchString(user) {
				t.Errorf("runs as %q", s.User)
			}
			for _, p := range s.Ports {
				if ip, err := netip.ParseAddr(p.HostIP); err != nil || !ip.IsLoopback() {
					t.Errorf("port %s is published on %q", p.Published, p.HostIP)
				}
			}
			composeMounts(t, s)
			once := composeOnce(project, name)
			checked := s.HealthCheck != nil && !s.HealthCheck.Disable && len(s.HealthCheck.Test) > 1
			if (s.Restart == "no") != once || checked == once {
				t.Errorf("runs once: %t, restarts: %s, has a health check: %t", once, s.Restart, checked)
			}
		})
	}
	composeNetworks(t, project)
	if image := project.Services["envoy"].Image; !strings.Contains(contents(t, "..", "Makefile"), "\nENVOY_VERSION := "+strings.TrimPrefix(image, "envoyproxy/envoy:v")+"\n") {
		t.Errorf("%s is not the version that everything else is tested with", image)
	}
}

// composeMounts asserts that only a service's own volumes can be written, and that no secret comes by the environment.
func composeMounts(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	writers := map[string][]string{"secrets": {"secrets"}, "run": {"render", "sallyport", "envoy"}, "audit": {"sallyport"}}
	for _, v := range s.Volumes {
		if !v.ReadOnly && !slices.Contains(writers[v.Source], s.Name) {
			t.Errorf("can write %s", v.Source)
		}
		if strings.Contains(v.Source, ".sock") {
			t.Errorf("mounts %s", v.Source)
		}
		if _, err := os.Stat(v.Source); v.Type == types.VolumeTypeBind && err != nil {
			t.Error(err)
		}
	}
	for name := range s.Environment {
		if regexp.MustCompile(`(?i)password|secret$|_key$|token`).MatchString(name) {
			t.Errorf("takes %s from the environment", name)
		}
	}
}

// composeOnce tells whether others wait until the service has ended.
func composeOnce(project *types.Project, name string) bool {
	for _, s := range project.Services {
		if s.DependsOn[name].Condition == types.ServiceConditionCompletedSuccessfully {
			return true
		}
	}
	return false
}

// composeNetworks asserts that what agents can reach cannot reach the MCP servers.
func composeNetworks(t *testing.T, project *types.Project) {
	t.Helper()
	if !project.Networks["back"].Internal {
		t.Error("the MCP servers' network has a way out")
	}
	for name, want := range map[string]string{"items": "back", "mirror": "back", "envoy": "back front", "sallyport": "back front monitoring",
		"prometheus": "monitoring", "grafana": "monitoring", "secrets": "", "render": ""} {
		s := project.Services[name]
		if names := s.NetworksByPriority(); s.NetworkMode == "none" != (want == "") || want != "" && strings.Join(slices.Sorted(slices.Values(names)), " ") != want {
			t.Errorf("%s is on %v", name, names)
		}
	}
}

// TestComposeRealm: what Keycloak imports has its secrets from where the gateway has them, and no other.
func TestComposeRealm(t *testing.T) {
	var realm struct {
		Clients []struct{ ClientID, Secret string }
		Users   []struct{ Credentials []struct{ Value string } }
	}
	must(t, json.Unmarshal([]byte(contents(t, "..", "deploy", "compose", "keycloak", "realm.json")), &realm))
	made := composeFile(t).Services["secrets"].Command
	var secrets []string
	for _, c := range realm.Clients {
		if c.Secret != "" {
			secrets = append(secrets, c.Secret)
		}
	}
	for _, u := range realm.Users {
		for _, c := range u.Credentials {
			secrets = append(secrets, c.Value)
		}
	}
	if len(secrets) != 2 {
		t.Errorf("%d secrets", len(secrets))
	}
	for _, s := range secrets {
		if name := strings.Trim(s, "<>"); s != "<"+name+">" || !slices.Contains(made, name) {
			t.Errorf("%q is not one of the secrets that are made at the first start", s)
		}
	}
}

// TestComposeGateway: the gateway's file has no problem with either authorization server, and warns of nothing but the
// addresses that are open inside a container, and the MCP servers there.
func TestComposeGateway(t *testing.T) {
	secrets := filepath.Join(t.TempDir(), "secrets.yaml")
	if got := command(t, nil, append([]string{"secrets", "-o", secrets}, composeFile(t).Services["secrets"].Command[3:]...)...); got.code != 0 {
		t.Fatal(got)
	}
	for _, server := range []struct {
		envFiles []string
		warnings int
	}{{nil, 3}, {[]string{"../deploy/compose/keycloak.env"}, 2}} {
		service := composeFile(t, server.envFiles...).Services["sallyport"]
		var env []string
		for name, value := range service.Environment {
			env = append(env, name+"="+*value)
		}
		got := command(t, env, "check", "-config", "../deploy/compose/gateway/sallyport.yaml", "-secretProvider", "secretfile://"+secrets)
		const inTheClear = 2 // the MCP servers, on a network of the project's own
		if got.code != 0 || strings.Count(got.stdout, " warning: ") != server.warnings+inTheClear || strings.Count(got.stdout, "address: ") != server.warnings {
			t.Errorf("%v: %s", server.envFiles, got)
		}
	}
}

// TestComposeWithoutContainers runs what the services of deploy/compose run, in their order, on this machine.
func TestComposeWithoutContainers(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../deploy/compose/gateway")))
	gateway, provider, admin, items, mirror := freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
	place := strings.NewReplacer("0.0.0.0:7420", gateway, "127.0.0.1:7420", gateway, "envoy:7420", gateway, "0.0.0.0:7421", provider, "127.0.0.1:7421", provider,
		"sallyport:7421", provider, "0.0.0.0:9902", admin, "items:8080", items, "mirror:8080", mirror,
		"/etc/sallyport", dir, "/var/lib/sallyport/secrets", state, "/var/lib/sallyport/audit", state, "/run/sallyport", state)
	file := filepath.Join(dir, "sallyport.yaml")
	must(t, os.WriteFile(file, []byte(place.Replace(contents(t, file))), 0o600))

	project := composeFile(t)
	var env []string
	for name, value := range project.Services["sallyport"].Environment {
		env = append(env, name+"="+place.Replace(*value))
	}
	args := func(service string) []string {
		var out []string
		for _, arg := range project.Services[service].Command {
			out = append(out, place.Replace(arg))
		}
		return out
	}
	for _, once := range []string{"secrets", "render"} {
		if got := command(t, env, args(once)...); got.code != 0 {
			t.Fatalf("%s: %s", once, got)
		}
	}
	lines := make(chan string, 10)
	spawn(t, env, lines, sallyport, args("sallyport")...)
	spawn(t, nil, nil, envoyBinary, append(args("envoy"), "--concurrency", "1")...)
	for service, address := range map[string]string{"items": items, "mirror": mirror} {
		spawn(t, nil, nil, sallyport, strings.Split(strings.ReplaceAll(strings.Join(args(service), "\n"), "0.0.0.0:8080", address), "\n")...)
		await(t, service, func() bool { return command(t, nil, "ready", "-address", address).code == 0 })
	}
	s := &stack{&sdkWorld{world: &world{t: t, url: "http://" + gateway + "/mcp"}}, filepath.Dir(dir), "http://" + provider}
	select {
	case line := <-lines:
		if line != "ready: "+s.url {
			t.Errorf("it says %q", line)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("not ready")
	}
	if got := command(t, nil, "ready", "-address", admin); got.code != 0 {
		t.Errorf("ready: %s", got)
	}
	agent, err := s.agent(t.Context(), "wile.e@acme.example", "")
	must(t, err)
	s.listsAndCalls(t.Context(), agent)
}
