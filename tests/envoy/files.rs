//! The configurations of `deploy/`: each is one that its program takes.

use std::process::{Command, Output};

use serde_json::Value;

use crate::sdk::{in_environment, manifest_dir, python};
use crate::support::gateway::envoy_binary;

fn deploy(dir: &str, ending: &str) -> Vec<std::path::PathBuf> {
    let dir = manifest_dir().join("deploy").join(dir);
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: Vec<_> = files
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .collect();
    assert!(!files.is_empty());
    files
}

fn passes(output: Output, what: &str) {
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{what}: {said}");
}

#[test]
fn envoy_takes_every_bootstrap() {
    for file in deploy("envoy", ".yaml") {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(envoy_binary());
        command
            .current_dir(&dir)
            .args(["--mode", "validate", "--use-dynamic-base-id", "-c"]);
        passes(command.arg(&file).output().unwrap(), file.to_str().unwrap());
    }
}

#[test]
fn nginx_takes_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = manifest_dir().join("deploy/nginx/nginx.conf");
    let mut command = Command::new("nginx");
    command
        .args(["-t", "-p"])
        .arg(dir.path())
        .arg("-c")
        .arg(file);
    passes(command.output().expect("nginx is installed"), "nginx.conf");
}

#[test]
fn caddy_takes_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = manifest_dir().join("deploy/caddy/Caddyfile");
    let mut command = Command::new(in_environment("bin/caddy"));
    command
        .env("HOME", dir.path())
        .args(["validate", "--adapter", "caddyfile", "--config"]);
    passes(command.arg(file).output().unwrap(), "Caddyfile");
}

#[test]
fn kubernetes_takes_every_manifest() {
    for file in deploy("kubernetes", ".yaml") {
        let mut command = Command::new(in_environment("bin/kubernetes-validate"));
        command.arg("--strict").arg(&file);
        passes(command.output().unwrap(), file.to_str().unwrap());
    }
}

/// The documents of a YAML file.
pub(super) fn documents(file: &std::path::Path) -> Vec<Value> {
    let script = manifest_dir().join("tests/sdk/manifests.py");
    let mut command = Command::new(python());
    command.arg(script).arg("json").arg(file);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", file.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn istio_knows_every_field_of_its_manifests() {
    for file in deploy("kubernetes/istio", ".yaml") {
        let mut command = Command::new(python());
        command.arg(manifest_dir().join("tests/sdk/manifests.py"));
        command.arg("istio").arg(&file);
        passes(command.output().unwrap(), file.to_str().unwrap());
    }
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut all = documents.iter();
    all.find(|it| it["kind"] == kind).expect(kind)
}

/// No schema of Envoy Gateway is at hand. What can be told without one: that what is named is there, and that limits and times are
/// those of `deploy/envoy`.
#[test]
fn the_manifests_of_envoy_gateway_fit_the_others() {
    let at = manifest_dir().join("deploy/kubernetes");
    let shared = documents(&at.join("shared.yaml"));
    let service = of_kind(&shared, "Service");
    let gateway = documents(&at.join("envoy-gateway/shared.yaml"));
    let in_path = &of_kind(&gateway, "EnvoyExtensionPolicy")["spec"]["extProc"][0];
    let backend = &in_path["backendRefs"][0];
    assert_eq!(backend["name"], service["metadata"]["name"]);
    let mut ports = service["spec"]["ports"].as_array().unwrap().iter();
    assert!(ports.any(|port| port["port"] == backend["port"] && port["name"] == "envoy"));
    assert_eq!(in_path["processingMode"]["request"]["body"], "Buffered");
    assert_eq!(in_path["processingMode"]["response"]["body"], "Streamed");
    assert_eq!(in_path["messageTimeout"], "2500ms");

    let gateway = documents(&at.join("envoy-gateway/sidecar.yaml"));
    let name = &of_kind(&gateway, "Backend")["metadata"]["name"];
    let asked = &of_kind(&gateway, "SecurityPolicy")["spec"]["extAuth"];
    let watched = &of_kind(&gateway, "EnvoyExtensionPolicy")["spec"]["extProc"][0];
    assert_eq!(&asked["grpc"]["backendRefs"][0]["name"], name);
    assert_eq!(&watched["backendRefs"][0]["name"], name);
    assert_eq!(asked["bodyToExtAuth"]["maxRequestBytes"], 8_388_608);
    assert_eq!(
        (&asked["timeout"], &asked["failOpen"]),
        (&"2500ms".into(), &false.into())
    );
    assert_eq!(watched["shadowMode"], true);
    let seen = &watched["metadata"]["accessibleNamespaces"];
    assert_eq!(seen[0], "envoy.filters.http.ext_authz");
    let socket = &of_kind(&gateway, "Backend")["spec"]["endpoints"][0]["unix"]["path"];
    let (dir, _) = socket.as_str().unwrap().rsplit_once('/').unwrap();
    let pod = &of_kind(&gateway, "EnvoyProxy")["spec"]["provider"]["kubernetes"]["envoyDeployment"];
    for container in [&pod["container"], &pod["initContainers"][0]] {
        let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
        let mount = mounts.find(|mount| mount["mountPath"] == dir).unwrap();
        let mut volumes = pod["pod"]["volumes"].as_array().unwrap().iter();
        assert!(
            volumes.any(|volume| volume["name"] == mount["name"]),
            "{mount}"
        );
    }
}

#[test]
fn tollgate_takes_the_configuration_of_the_composition() {
    let file = manifest_dir().join("deploy/compose.toml");
    let token = ("TOLLGATE_TOKEN".to_owned(), "0123456789abcdef".to_owned());
    let config = tollgate::config::load(&file, [token].into_iter()).unwrap();
    assert!(config.envoy.is_some());
}

#[test]
fn compose_takes_its_file() {
    let mut command = Command::new(in_environment("bin/check-jsonschema"));
    command.args(["--builtin-schema", "vendor.compose-spec"]);
    let file = manifest_dir().join("deploy/compose.yaml");
    passes(command.arg(file).output().unwrap(), "compose.yaml");
}
