//! What the manifests for Istio patch into Envoy, in a real one: Istio's control plane is not there, so its work is done here, on a
//! bootstrap of `deploy/envoy` without the filter that is patched in.

use serde_json::{Value, json};

use super::files::documents;
use super::ways::{check_calls, limited};
use crate::sdk::manifest_dir;
use crate::support::gateway::{Gateway, bootstrap};

/// Carries out the patches of a manifest's `EnvoyFilter` on a bootstrap.
fn patch(bootstrap: &mut Value, manifest: &str) {
    let at = manifest_dir()
        .join("deploy/kubernetes/istio")
        .join(manifest);
    let documents = documents(&at);
    let filter = documents.iter().find(|it| it["kind"] == "EnvoyFilter");
    let resources = &mut bootstrap["static_resources"];
    for patch in filter.unwrap()["spec"]["configPatches"].as_array().unwrap() {
        let (operation, value) = (&patch["patch"]["operation"], &patch["patch"]["value"]);
        match (
            patch["applyTo"].as_str().unwrap(),
            operation.as_str().unwrap(),
        ) {
            ("CLUSTER", "ADD") => {
                let clusters = resources["clusters"].as_array_mut().unwrap();
                clusters.push(value.clone());
            }
            ("LISTENER", "MERGE") => {
                let listener = resources["listeners"][0].as_object_mut().unwrap();
                listener.extend(value.as_object().unwrap().clone());
            }
            ("HTTP_FILTER", "INSERT_BEFORE") => {
                let wanted = &patch["match"]["listener"]["filterChain"]["filter"];
                let network = &mut resources["listeners"][0]["filter_chains"][0]["filters"][0];
                assert_eq!(network["name"], wanted["name"]);
                let filters = &mut network["typed_config"]["http_filters"];
                let filters = filters.as_array_mut().unwrap();
                let before = &wanted["subFilter"]["name"];
                let at = filters.iter().position(|it| it["name"] == *before);
                filters.insert(at.unwrap(), value.clone());
            }
            other => panic!("{other:?} is not carried out here"),
        }
    }
}

fn parsed(text: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("envoy.yaml");
    std::fs::write(&file, text).unwrap();
    documents(&file).remove(0)
}

fn without_ext_proc(bootstrap: &mut Value) {
    let network = &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0];
    let filters = &mut network["filters"][0]["typed_config"]["http_filters"];
    let filters = filters.as_array_mut().unwrap();
    let before = filters.len();
    filters.retain(|it| it["name"] != "envoy.filters.http.ext_proc");
    assert_eq!(filters.len(), before - 1);
}

fn clusters(bootstrap: &mut Value) -> &mut Vec<Value> {
    let clusters = &mut bootstrap["static_resources"]["clusters"];
    clusters.as_array_mut().unwrap()
}

#[tokio::test]
async fn in_the_path_of_a_gateway_of_istios() {
    let beside = limited().await;
    let mut envoy = parsed(&bootstrap("ext-proc.yaml", beside.envoy, beside.model, &[]));
    without_ext_proc(&mut envoy);
    clusters(&mut envoy).retain(|it| it["name"] != "tollgate");
    envoy["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = json!(1);
    patch(&mut envoy, "shared.yaml");
    // The name of the Service is one that nobody resolves here.
    let at = json!({"address": "127.0.0.1", "port_value": beside.envoy.port()});
    let cluster = clusters(&mut envoy).last_mut().unwrap();
    let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    endpoint["address"]["socket_address"] = at;
    let envoy = Gateway::envoy_by(&envoy.to_string()).await;
    check_calls(&beside, &envoy).await;
}

#[tokio::test]
async fn watching_in_a_gateway_of_istios() {
    let beside = limited().await;
    let file = "ext-authz-ext-proc.yaml";
    let mut envoy = parsed(&bootstrap(file, beside.envoy, beside.model, &[]));
    without_ext_proc(&mut envoy);
    // As Istio calls the cluster of the ServiceEntry.
    let all = clusters(&mut envoy);
    let mut own = all
        .iter()
        .find(|it| it["name"] == "tollgate")
        .unwrap()
        .clone();
    let name = "outbound|9001||tollgate.internal";
    own["name"] = name.into();
    own["load_assignment"]["cluster_name"] = name.into();
    all.push(own);
    patch(&mut envoy, "sidecar.yaml");
    let envoy = Gateway::envoy_by(&envoy.to_string()).await;
    check_calls(&beside, &envoy).await;
}
