//! The configurations of `deploy/`: each is one that its program takes.

use std::process::{Command, Output};

use crate::sdk::{in_environment, manifest_dir};
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
