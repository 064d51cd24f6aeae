//! How adapters and transcripts travel: as single blobs. Bases travel file by file, see `storage::base`.
//!
//! Invariant: one content has one encoding (the wire codec), so its BLAKE3 hash names it; reading checks sizes
//! before anything is built from the bytes.

use bincode::{Decode, Encode};
use tributary_compute::engine::Generation;
use tributary_compute::lora::{AdapterFiles, MAX_ADAPTER_CONFIG_BYTES};
use tributary_compute::proof::Fingerprint;
use tributary_protocol::id::Hash;
pub use tributary_protocol::limits::TRANSCRIPT_MAX_BYTES;
use tributary_protocol::retrieval::Context;
pub use tributary_protocol::transcript::Transcript;
use tributary_protocol::wire::{self, WireError};

/// The largest adapter that travels as one blob.
pub const ADAPTER_MAX_BYTES: usize = 32 << 20;

#[derive(Encode, Decode)]
struct AdapterBundle {
    config_json: Vec<u8>,
    safetensors: Vec<u8>,
}

/// The blob of an adapter's files.
#[must_use]
pub fn adapter_to_bytes(files: AdapterFiles) -> Vec<u8> {
    wire::encode(&AdapterBundle { config_json: files.config_json, safetensors: files.safetensors })
}

/// Reads an adapter's blob.
///
/// # Errors
/// When it is too large or no adapter's blob.
pub fn adapter_from_bytes(bytes: &[u8]) -> Result<AdapterFiles, WireError> {
    let bundle: AdapterBundle = wire::decode(bytes, ADAPTER_MAX_BYTES)?;
    Ok(AdapterFiles { config_json: bundle.config_json, safetensors: bundle.safetensors })
}

/// How an adapter's configuration names the base it is for, before the base's id.
const BASE_PREFIX: &str = "tributary:";

/// What an adapter's configuration calls a base.
#[must_use]
pub fn base_name(base: Hash) -> String {
    format!("{BASE_PREFIX}{base}")
}

/// The base that an adapter's configuration names; other programs' adapters name none of ours.
///
/// # Errors
/// When the configuration is too long or no JSON.
pub fn base_of(files: &AdapterFiles) -> Result<Option<Hash>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Named {
        base_model_name_or_path: Option<String>,
    }
    if files.config_json.len() > MAX_ADAPTER_CONFIG_BYTES {
        return Err(serde::de::Error::custom(format!("at most {MAX_ADAPTER_CONFIG_BYTES} bytes")));
    }
    let named: Named = serde_json::from_slice(&files.config_json)?;
    Ok(named.base_model_name_or_path.and_then(|name| name.strip_prefix(BASE_PREFIX)?.parse().ok()))
}

/// What a verifier needs of an answer beside question and receipt, before it is attributed to anybody.
#[must_use]
pub fn transcript_of(generation: &Generation) -> Transcript {
    Transcript {
        prompt_tokens: generation.prompt_tokens.clone(),
        output_tokens: generation.output_tokens.clone(),
        fingerprints: generation.fingerprints.iter().map(Fingerprint::to_bytes).collect(),
        credits: Vec::new(),
        context: Context::default(),
    }
}

/// The fingerprints of a transcript.
///
/// # Errors
/// When one is malformed.
pub fn fingerprints_of(transcript: &Transcript) -> Result<Vec<Fingerprint>, String> {
    let read = |bytes: &Vec<u8>| Fingerprint::from_bytes(bytes).map_err(|error| error.to_string());
    transcript.fingerprints.iter().map(read).collect()
}
