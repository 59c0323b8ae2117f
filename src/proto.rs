//! The messages, servers and clients of `proto/tollgate/v1`, as generated, and what turns them into our own values and back
//! ([`convert`]). No behaviour: the server is [`crate::control`], the client is the command line.

pub mod convert;

/// Package `tollgate.v1`.
#[expect(
    clippy::allow_attributes,
    reason = "what the generator writes is not ours to lint, and which lints it breaks changes with it"
)]
#[allow(
    warnings,
    clippy::all,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("tollgate.v1");
}

/// The descriptors of the package and of all that it imports: what reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tollgate.v1.bin"));
