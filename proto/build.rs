//! Compiles `proto/tollgate/v1` into messages, servers and clients, and into the descriptor set that reflection serves. No
//! `protoc` is needed: protox is a compiler in Rust and brings Google's own files along.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 17] = [
    "account", "amount", "credit", "event", "hold", "invoice", "key", "ledger", "licence", "plan",
    "policy", "price", "refund", "sync", "tenant", "usage", "webhook",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = FILES.map(|name| format!("tollgate/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new(["proto"])?;
    // Reflection needs the imports, and not the comments, which are most of the bytes.
    compiler.include_imports(true).open_files(files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("tollgate.v1.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    // The generated code takes its documentation from them.
    compiler.include_source_info(true);
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
